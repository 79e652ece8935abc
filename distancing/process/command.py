"""The start and the end of every command: arguments, fault handler, terminal, errors and exit codes."""

import argparse
import functools
import io
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, ParamSpec

from distancing.errors import DistancingError, StorageError, print_error
from distancing.process import crash

P = ParamSpec("P")
INTERRUPTED, CUT_OFF = 130, 141  # as a shell reports SIGINT and SIGPIPE


class ArgumentParser(argparse.ArgumentParser):
    """A parser that refuses wrong arguments in one line."""

    def error(self, message: str) -> NoReturn:
        sys.exit(print_error(f"{message}; --help lists the arguments"))


def check_writable(option: str, path: Path | None, folder: bool = False) -> None:
    """Raise StorageError if the file, or the folder, of an option can't be written, before the work for it.

    path: None if the option is not given.
    """
    if path is None:
        return
    here = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    reason = ""
    if path.is_dir() and not folder:
        reason = "this is a folder: name a file in it"
    elif not here.is_dir() and (folder or here != path.absolute()):
        reason = f"{here} is a file: name a folder"
    elif not _is_writable(here):
        reason = f"{here} can't be written to: name another place"
    if reason:
        raise StorageError(f"--{option}={path}: {reason}")


def _is_writable(place: Path) -> bool:
    """Return whether a file can be made in this folder, or this file can be written to; change neither."""
    try:  # os.access allows root everything, also where no file can be made, as in /proc
        if place.is_dir():
            tempfile.TemporaryFile(dir=place).close()
        elif place.is_file():
            open(place, "ab").close()
        else:  # a device, or a pipe, whose opening would wait for a reader
            return os.access(place, os.W_OK)
    except OSError:
        return False
    return True


def command(main: Callable[P, int]) -> Callable[P, int]:
    """Decorate the main function of a command, so that it reports in one line what a user can correct."""

    @functools.wraps(main)
    def decorated(*args: P.args, **kwargs: P.kwargs) -> int:
        crash.trace()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # a terminal that lacks θ shows a ?, and the command goes on
        try:
            return main(*args, **kwargs)
        except KeyboardInterrupt:
            return INTERRUPTED
        except BrokenPipeError:  # its reader, such as head, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at the exit
            return CUT_OFF
        except (DistancingError, OSError) as error:
            return print_error(error)

    return decorated

"""The process that forks the runs of a sweep on this machine.

A run's process has its own log and GPU. If it crashes, the others go on.
"""

import atexit
import contextlib
import functools
import multiprocessing
import multiprocessing.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection, Pipe, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from distancing.errors import SweepError
from distancing.sweep.forks import POLL, fork, import_everything
from distancing.sweep.job import resume


class Server:
    """The process that forks the runs, as its launcher sees it. A `with` statement starts and ends it.

    environment: the environment variables of all runs.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment, self._ready = environment, False

    def ready(self, seconds: float) -> bool:
        """Wait this long, at most, until the process has imported everything. Return whether it has."""
        self._ready = self._ready or (self._connection.poll(seconds) and self._receive() is None)
        return self._ready

    def start(self, run: Path, log: Path, variables: Mapping[str, str]) -> None:
        """Start or resume a run, whose output is appended to `log`, with further environment variables."""
        log.touch()
        self._connection.send((run, log, variables))

    def terminate(self) -> None:
        """Send SIGTERM to all runs: unlike SIGINT, it also ends a process that was started with Ctrl-C ignored."""
        self._connection.send(None)

    def ended(self, seconds: float | None = None) -> Iterator[tuple[Path, int]]:
        """Wait this long, at most, for a run to end. Yield each run that has ended, and its exit status."""
        while self._connection.poll(seconds):
            yield self._receive()
            seconds = 0

    def _receive(self) -> tuple[Path, int]:
        """Return the next message. Raise SweepError if the process is gone, which its runs survive."""
        try:
            message: tuple[Path, int] = self._connection.recv()
            return message
        except (EOFError, ConnectionError):  # a reset, if it has left a message unread
            code = self._process.wait()
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            raise SweepError(f"the process that starts the runs {how}; the same command starts the rest") from None

    def __enter__(self) -> "Server":
        self._connection, theirs = Pipe()
        command = [sys.executable, "-m", "distancing.sweep.server", str(theirs.fileno())]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=self._environment,
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # so that Ctrl-C reaches the runs only through this process
        )
        theirs.close()
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._process.kill()  # it has nothing to save, and could ignore SIGTERM
        self._process.wait()


def serve(connection: Connection) -> None:
    """Fork the runs that the launcher asks for, and tell it how each ended, until the launcher is gone."""
    import_everything()
    os.register_at_fork(after_in_child=connection.close)
    processes: dict[Path, BaseProcess] = {}
    with contextlib.suppress(EOFError, ConnectionError):  # the launcher is gone; the runs go on
        connection.send(None)
        while True:
            ready = wait([connection, *(process.sentinel for process in processes.values())], POLL)
            for run in [run for run, process in processes.items() if not process.is_alive()]:
                connection.send((run, processes.pop(run).exitcode))
            if connection not in ready:
                continue
            if message := connection.recv():
                run, log, variables = message
                processes[run] = fork(functools.partial(resume, str(run)), log, variables)
            else:
                for process in processes.values():
                    process.terminate()


if __name__ == "__main__":
    atexit.unregister(multiprocessing.util._exit_function)  # type: ignore[attr-defined]  # it would wait for the runs
    serve(Connection(int(sys.argv[1])))

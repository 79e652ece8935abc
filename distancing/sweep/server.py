"""Fork the runs of a sweep on this machine from one process that has imported everything once.

This process computes nothing. At a fork it has neither threads of OpenMP nor a context on a GPU, which do not survive
one, so that a run computes the same bits as alone. The run's process has its own log and GPU. If it crashes, the others
go on.
"""

import atexit
import contextlib
import gc
import importlib
import multiprocessing
import multiprocessing.util
import os
import pkgutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path

from distancing.errors import SweepError
from distancing.process import threads
from distancing.runs.provenance import PACKAGE, provenance
from distancing.sweep.job import resume

# Apple's libraries do not survive a fork: on macOS, each run is a new process
METHOD = "fork" if sys.platform == "linux" else "spawn"
POLL = 0.5  # seconds; a run's sentinel is late if a process that the run has left behind holds it
# what runs import late, because other commands do not need it: the modules of these packages, and others
PACKAGES = ("data", "ensemble", "hills", "landscape", "models", "training")
LATE = ("distancing.experiment.main", "matplotlib.backends.backend_agg", "matplotlib.figure", "torch.utils.tensorboard",
        "torchvision")  # fmt: skip


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
    _import_everything()
    os.register_at_fork(after_in_child=connection.close)
    multiprocessing.set_start_method(METHOD)
    processes: dict[Path, multiprocessing.Process] = {}
    with contextlib.suppress(EOFError, ConnectionError):  # the launcher is gone; the runs go on
        connection.send(None)
        while True:
            ready = wait([connection, *(process.sentinel for process in processes.values())], POLL)
            for run in [run for run, process in processes.items() if not process.is_alive()]:
                connection.send((run, processes.pop(run).exitcode))
            if connection not in ready:
                continue
            if message := connection.recv():
                process = multiprocessing.Process(target=_run, args=message)
                process.start()
                processes[message[0]] = process
            else:
                for process in processes.values():
                    process.terminate()


def _import_everything() -> None:
    """Import what runs need, and hash the code that was imported, which later edits do not change."""
    ours = (
        module.name
        for package in PACKAGES
        for module in pkgutil.iter_modules([str(PACKAGE / package)], f"distancing.{package}.")
        if not module.name.endswith("__main__")
    )
    for name in (*LATE, *ours):
        importlib.import_module(name)
    provenance(())
    gc.collect()
    gc.freeze()  # the collector would touch, and so copy, the memory that the runs share


def _run(run: Path, log: Path, variables: Mapping[str, str]) -> None:
    """Start or resume a run in this process, which is new."""
    with open(log, "ab") as file:
        for stdout_or_stderr in (1, 2):
            os.dup2(file.fileno(), stdout_or_stderr)
    os.environ |= variables
    threads.watch_from_now()
    sys.exit(resume(str(run)))


if __name__ == "__main__":
    atexit.unregister(multiprocessing.util._exit_function)  # it would wait for the runs
    serve(Connection(int(sys.argv[1])))

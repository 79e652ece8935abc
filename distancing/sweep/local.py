"""Train runs in several processes on this machine, which share its devices and cores."""

import contextlib
import itertools
import os
import socket
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import PositiveInt

from distancing.component import component
from distancing.errors import SweepError
from distancing.process import threads
from distancing.process.identity import started
from distancing.process.signals import StopSignal
from distancing.runs import Listed, RunDirectory, SweepDirectory
from distancing.sweep.server import Server
from distancing.sweep.status import status

POLL = 0.05  # seconds


@component
class Local:
    """The launcher for this machine.

    processes (runs): the number of runs at a time, each with an equal share of the cores; null for one on each GPU, or
        without a GPU on each core.
    snapshot: run a copy of the code as it is now, which later edits do not change.
    """

    processes: PositiveInt | None = None
    snapshot: bool = False
    wait: ClassVar[bool] = True

    def check(self) -> None:
        """Accept every machine."""

    def start(self, runs: Sequence[Path], sweep: SweepDirectory, code: Path | None) -> Iterator[str]:
        """Mark these runs as queued on this machine; return an iterator that trains them and yields a line for each.

        code: the folder of a copy of the package, or None. Ctrl-C stops the runs after their current step.
        """
        sweep.make_jobs()
        here = {"launcher": "local", "host": socket.gethostname(), "pid": os.getpid(), "started": started(os.getpid())}
        logs = {run: sweep.jobs / f"{run.name}.log" for run in runs}
        for run, log in logs.items():
            RunDirectory(run).write_json("job.json", {**here, "log": os.path.relpath(log, run)})
        return self._start(logs, code)

    def _start(self, logs: Mapping[Path, Path], code: Path | None) -> Iterator[str]:
        """Train the runs. Raise SystemExit if a signal stopped the sweep."""
        waiting, running = deque(logs), dict[Path, dict[str, str]]()
        slots = self._slots(len(logs))
        free, stopping = deque(slots), False
        with StopSignal() as stop, Server(_environment(len(slots), code)) as server:
            try:
                while not server.ready(POLL) and not stop.received:
                    pass
                while running or (waiting and not stop.received):
                    while free and waiting and not stop.received:
                        run = waiting.popleft()
                        running[run] = free.popleft()
                        server.start(run, logs[run], running[run])
                    if stop.received and not stopping:
                        stopping = True
                        server.terminate()
                    for run, exit_status in server.ended(POLL):
                        free.append(running.pop(run))
                        ended = len(logs) - len(waiting) - len(running)
                        yield f"{ended}/{len(logs)}  {run.name}: {_end(run, exit_status)}"
            finally:  # after a second Ctrl-C, or an error in the caller
                with contextlib.suppress(SweepError, ConnectionError):  # the server is gone
                    server.terminate()
                    while running:
                        for run, exit_status in server.ended():
                            del running[run]
                            _end(run, exit_status)
                for run in waiting:  # no longer queued, even if this process lives on
                    RunDirectory(run).write_json("job.json", {"launcher": "local"})
        if stop.received:
            yield f"{len(waiting)} not started"
            raise SystemExit(128 + stop.received)

    def _slots(self, runs: int) -> list[dict[str, str]]:
        """Return the environment variables of each of the processes that train at the same time."""
        devices = _devices()
        processes = min(self.processes or len(devices) or threads.usable(), runs)
        return [{"CUDA_VISIBLE_DEVICES": devices[i % len(devices)]} if devices else {} for i in range(processes)]


def _environment(processes: int, code: Path | None) -> dict[str, str]:
    """Return the environment of so many processes that share the cores, and run the code in the folder `code`."""
    share = min(threads.share(), max(1, threads.usable() // processes))
    # threads=auto obeys OMP_NUM_THREADS
    environment = {**os.environ, "OMP_NUM_THREADS": str(share), "PYTHONFAULTHANDLER": "1"}
    if code:
        paths = [str(code.resolve()), os.environ.get("PYTHONPATH")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return environment


def _end(run: Path, exit_status: int) -> str:
    """Note the exit status of a run's process; return how the run ended, in several lines if it was killed."""
    directory = RunDirectory(run)
    directory.write_json("job.json", {**directory.read_json("job.json"), "exit": exit_status})
    ended = status(Listed(run, (), 0), {})
    return "\n    ".join([str(ended), *ended.log, *filter(None, [ended.advice])])


def _devices() -> list[str]:
    """Return the GPUs that this process may use, by their names in CUDA_VISIBLE_DEVICES."""
    import torch

    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return list(itertools.takewhile(lambda name: not name.startswith("-"), visible.split(",")))  # as CUDA does
    return [str(i) for i in range(torch.cuda.device_count())]

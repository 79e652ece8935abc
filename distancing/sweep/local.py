"""Train runs in several processes on this machine, which share its devices and cores."""

import os
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import PositiveInt

from distancing.component import component
from distancing.process import threads
from distancing.process.signals import StopSignal
from distancing.runs import Listed, RunDirectory, SweepDirectory
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
        here = {"launcher": "local", "host": socket.gethostname(), "pid": os.getpid()}
        logs = {run: sweep.jobs / f"{run.name}.log" for run in runs}
        for run, log in logs.items():
            RunDirectory(run).write_json("job.json", {**here, "log": os.path.relpath(log, run)})
        return self._start(logs, code)

    def _start(self, logs: Mapping[Path, Path], code: Path | None) -> Iterator[str]:
        """Train the runs. Raise SystemExit if a signal stopped the sweep."""
        waiting, running = deque(logs), dict[Path, tuple[subprocess.Popen[bytes], dict[str, str]]]()
        stopping = False
        with StopSignal() as stop:
            try:
                free = deque(self._environments(len(logs), code))
                while running or (waiting and not stop.received):
                    while free and waiting and not stop.received:
                        run, environment = waiting.popleft(), free.popleft()
                        running[run] = _process(run, logs[run], environment), environment
                    if stop.received and not stopping:
                        stopping = True
                        _terminate(running)
                    for run in [run for run, (process, _) in running.items() if process.poll() is not None]:
                        process, environment = running.pop(run)
                        free.append(environment)
                        ended = len(logs) - len(waiting) - len(running)
                        yield f"{ended}/{len(logs)}  {run.name}: {_end(run, process)}"
                    time.sleep(POLL)
            finally:  # after a second Ctrl-C, or an error in the caller
                _terminate(running)
                for run, (process, _) in running.items():
                    _end(run, process)
                for run in waiting:  # no longer queued, even if this process lives on
                    RunDirectory(run).write_json("job.json", {"launcher": "local"})
        if stop.received:
            yield f"{len(waiting)} not started"
            raise SystemExit(128 + stop.received)

    def _environments(self, runs: int, code: Path | None) -> Iterator[dict[str, str]]:
        """Yield the environment of each of the processes that train at the same time."""
        devices, cores = _devices(), threads.usable()
        processes = min(self.processes or len(devices) or cores, runs)
        share = min(threads.share(), max(1, cores // processes))
        for i in range(processes):
            # threads=auto obeys OMP_NUM_THREADS
            environment = {**os.environ, "OMP_NUM_THREADS": str(share), "PYTHONFAULTHANDLER": "1"}
            if devices:
                environment["CUDA_VISIBLE_DEVICES"] = devices[i % len(devices)]
            if code:
                paths = [str(code.resolve()), os.environ.get("PYTHONPATH")]
                environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
            yield environment


def _process(run: Path, log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start the process of a run, in its own session, so that Ctrl-C reaches it only through this process."""
    command = [sys.executable, "-m", "distancing.sweep.job", str(run)]
    with open(log, "ab") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)


def _terminate(running: Mapping[Path, tuple[subprocess.Popen[bytes], object]]) -> None:
    """Send SIGTERM: unlike SIGINT, it also ends a process that was started with Ctrl-C ignored."""
    for process, _ in running.values():
        process.terminate()


def _end(run: Path, process: subprocess.Popen[bytes]) -> str:
    """Wait for the process, note its exit status, and return how the run ended, in several lines if it was killed."""
    directory = RunDirectory(run)
    directory.write_json("job.json", {**directory.read_json("job.json"), "exit": process.wait()})
    ended = status(Listed(run, (), 0), {})
    return "\n    ".join([str(ended), *ended.log, *filter(None, [ended.advice])])


def _devices() -> list[str]:
    """Return the GPUs that this process may use, by their names in CUDA_VISIBLE_DEVICES."""
    import torch

    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return visible.split(",")
    return [str(i) for i in range(torch.cuda.device_count())]

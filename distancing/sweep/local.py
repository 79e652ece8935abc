"""Several processes on this machine, its devices and cores shared out among them."""

import os
import queue
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import ClassVar

from pydantic import PositiveInt

from distancing import threads
from distancing.component import component
from distancing.runs import RunDirectory, SweepDirectory


@component
class Local:
    """processes: runs at a time, each with an equal share of the cores; None: one for each GPU, or without a GPU for
    each core.
    """

    processes: PositiveInt | None = None
    snapshot: bool = False
    wait: ClassVar[bool] = True

    def check(self) -> None:
        """Every machine can do this."""

    def start(self, runs: Sequence[Path], sweep: SweepDirectory, code: Path | None) -> Iterator[str]:
        """Note that these runs are to start here; they do, so many at a time, as the lines that it gives are taken.

        code: of which copy of the package. Ctrl-C stops the runs too, after their current step.
        """
        sweep.make_jobs()
        here = {"launcher": "local", "host": socket.gethostname(), "pid": os.getpid()}
        logs = {run: sweep.jobs / f"{run.name}.log" for run in runs}
        for run, log in logs.items():
            RunDirectory(run).write_json("job.json", {**here, "log": os.path.relpath(log, run)})
        return self._start(logs, code)

    def _start(self, logs: Mapping[Path, Path], code: Path | None) -> Iterator[str]:
        devices, cores = _devices(), threads.usable()
        processes = min(self.processes or len(devices) or cores, len(logs))
        share = min(threads.share(), max(1, cores // processes))
        places: queue.SimpleQueue[int] = queue.SimpleQueue()
        for i in range(processes):
            places.put(i)

        def go_on(run: Path) -> int:
            place = places.get()
            environment = {**os.environ, "OMP_NUM_THREADS": str(share)}  # which threads=auto obeys
            if devices:
                environment["CUDA_VISIBLE_DEVICES"] = devices[place % len(devices)]
            if code:
                paths = [str(code.resolve()), os.environ.get("PYTHONPATH")]
                environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
            directory = RunDirectory(run)
            with open(logs[run], "ab") as log:
                command = [sys.executable, "-m", "distancing.sweep.job", str(run)]
                ended = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment, check=False)
            directory.write_json("job.json", {**directory.read_json("job.json"), "ended": True})
            places.put(place)
            return ended.returncode

        pool = ThreadPoolExecutor(processes)
        try:
            started = {pool.submit(go_on, run): run for run in logs}
            for i, done in enumerate(as_completed(started), 1):
                said = f"failed with exit code {done.result()}" if done.result() else "ended"
                yield f"{i}/{len(logs)}  {started[done].name}: {said}"
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _devices() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return visible.split(",")
    return [str(i) for i in range(torch.cuda.device_count())]

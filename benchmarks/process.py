"""Measure what a run costs besides its steps: its start, and how many runs a machine trains at a time.

imports     importing a library after torch, and how many modules it brings
start       `train.py --help`; importing torch alone; a run of digits up to its first step, and up to its end
throughput  N processes side by side, each training short runs one after the other, with as many threads as there are
            cores for each: runs an hour, for N = 1, 2, … up to `--processes`
short runs  `--short` runs of one epoch, as many at a time as there are cores: a process for each of them, then sweeps
            with hydra/launcher=local, which forks them: the CPU time for each run, and the runs an hour that it allows

Each is a whole process. The tables have its CPU time, because the machine may be busy; `throughput` is measured by the
clock. All numbers are medians over the rounds.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

TRAIN = Path(__file__).parents[1] / "train.py"
RUN = ("phases=single", "penalty=none", "model.width=4", "evaluate_every=100")
IMPORT = """
import sys, time
import torch
begun, before = time.process_time(), len(sys.modules)
__import__(sys.argv[1])
print(time.process_time() - begun, len(sys.modules) - before)
"""
LIBRARIES = ("torch._dynamo", "torchvision", "sklearn.datasets", "torch.utils.tensorboard", "distancing",
             "distancing.experiment.main")  # fmt: skip
FIRST_STEP = """
import runpy, sys, time
import torch
imported = time.process_time()
from distancing.runs.tracking import ProgressBar
def step(self, done, phase):
    print(time.process_time() - imported)
    raise SystemExit
ProgressBar.step = step
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def output(*command: str, cwd: str, threads: int | None = None) -> str:
    """Return the output of a Python command."""
    environment = {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


def seconds(*command: str, cwd: str) -> float:
    """Return the CPU seconds of a Python command."""
    begun = _cpu()
    output(*command, cwd=cwd)
    return _cpu() - begun


def side_by_side(processes: int, runs: int, epochs: int, cwd: str) -> float:
    """Return the runs an hour of so many processes that train so many runs each."""
    threads = max(1, (os.cpu_count() or 1) // processes)
    environment, begun = {**os.environ, "OMP_NUM_THREADS": str(threads)}, time.perf_counter()
    started = []
    for i in range(processes):
        seeds = ",".join(str(i * runs + j) for j in range(runs))
        command = [sys.executable, str(TRAIN), "-m", *RUN, f"epochs={epochs}", f"seed={seeds}",
                   f"runs={cwd}/{processes}-{i}"]  # fmt: skip
        started.append(subprocess.Popen(command, cwd=cwd, env=environment, stdout=subprocess.DEVNULL))
    if any(process.wait() for process in started):
        raise RuntimeError("a run failed")
    return 3600 * processes * runs / (time.perf_counter() - begun)


def short_runs(runs: int, cwd: str) -> dict[str, float]:
    """Return the CPU seconds of each of so many runs of one epoch, started as processes and by the local launcher."""
    cores, cpu = os.cpu_count() or 1, {}
    begun = _cpu()
    with ThreadPoolExecutor(cores) as pool:
        commands = [(str(TRAIN), *RUN, "epochs=1", f"seed={seed}", f"runs={cwd}/processes") for seed in range(runs)]
        list(pool.map(lambda command: output(*command, cwd=cwd, threads=1), commands))
    cpu["a process for each run"] = (_cpu() - begun) / runs
    for sweep in (runs, 4 * runs):
        command = (str(TRAIN), "-m", *RUN, "epochs=1", f"seed=range({sweep})", f"runs={cwd}/sweep-{sweep}")
        cpu[f"a sweep of {sweep} runs"] = seconds(*command, "hydra/launcher=local", cwd=cwd) / sweep
    return cpu


def _cpu() -> float:
    """Return the CPU seconds of all processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="What a run costs besides its steps; see this file's docstring.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2 * (os.cpu_count() or 1))
    parser.add_argument("--runs", type=int, default=4, help="of each process")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--short", type=int, default=10, help="short runs; 0 for none")
    args = parser.parse_args(arguments)
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as cwd:
        for i in range(args.rounds):
            run = (str(TRAIN), *RUN, "epochs=1", f"runs={cwd}/{i}")
            for name, duration in (
                ("python -c 'import torch'", seconds("-c", "import torch", cwd=cwd)),
                ("train.py --help", seconds(str(TRAIN), "--help", cwd=cwd)),
                ("to the first step, after torch", float(output("-c", FIRST_STEP, *run, cwd=cwd).splitlines()[-1])),
                ("a run of one epoch", seconds(*run, cwd=cwd)),
            ):
                times.setdefault(name, []).append(duration)
        imports = Table("", "CPU s", "modules", title="imports after torch")
        for name in LIBRARIES:
            outputs = [output("-c", IMPORT, name, cwd=cwd).split() for _ in range(args.rounds)]
            cpu_seconds = statistics.median(float(words[0]) for words in outputs)
            imports.add_row(name, f"{cpu_seconds:.2f}", outputs[0][1])
        start = Table("", "CPU s", title="start")
        for name, durations in times.items():
            start.add_row(name, f"{statistics.median(durations):.2f}")
        many = Table("processes", "runs an hour", "times one", title=f"runs of {args.epochs} epochs on digits")
        one = 0.0
        for n in range(1, args.processes + 1):
            hourly = side_by_side(n, args.runs, args.epochs, cwd)
            one = one or hourly
            many.add_row(str(n), f"{hourly:.0f}", f"{hourly / one:.2f}")
        short = Table("runs of one epoch", "CPU s each", "an hour", "times", title=f"on {os.cpu_count()} cores")
        cpu = short_runs(args.short, cwd) if args.short else {}
        for name, spent in cpu.items():
            hourly = 3600 * (os.cpu_count() or 1) / spent
            short.add_row(name, f"{spent:.2f}", f"{hourly:.0f}", f"{cpu['a process for each run'] / spent:.1f}")
    Console(highlight=False).print(imports, start, many, short)


if __name__ == "__main__":
    main()

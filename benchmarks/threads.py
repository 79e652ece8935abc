"""Measure whether `threads=auto` chooses well, on quiet cores and where another process takes one of them.

Each measurement is a whole run on digits in a process of its own. All take turns, so that a drift of the machine hits
all alike. `as PyTorch waits` has the spin of GNU's OpenMP library, which is PyTorch's default, instead of ours.

The table has medians of images/s in training over the rounds, their ratio to the best fixed number of threads, the
number of threads in each round, and the number of cores that other processes took, the busy one included. If that is
above 0 on quiet cores, they were not quiet.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from distancing.process.threads import cores, left, spent

TRAIN = Path(__file__).parents[1] / "train.py"
RUN = ("penalty=none", "phases=single", "evaluate_every=100")
LOADS = {"quiet": 0, "one core taken": 1}  # name → number of busy processes
BUSY = [sys.executable, "-c", "while True: pass"]
LIBRARY = {"GOMP_SPINCOUNT": "300000"}  # the default of libgomp if neither this nor OMP_WAIT_POLICY is set


class Run(NamedTuple):
    speed: float
    threads: int
    taken: float


def run(threads: str, environment: dict[str, str], overrides: Sequence[str], folder: Path) -> Run:
    command = [sys.executable, str(TRAIN), *RUN, *overrides, f"threads={threads}", f"runs={folder}"]
    before = spent()
    subprocess.run(command, env={**os.environ, **environment}, cwd=folder, stdout=subprocess.DEVNULL, check=True)
    taken = len(cores()) - left(before, spent(), len(cores()))
    (path,) = folder.glob("*/result.json")
    result = json.loads(path.read_text())
    return Run(result["images_per_second"], result["threads"], taken)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="What threads=auto chooses; see this file's docstring.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("overrides", nargs="*", default=["epochs=30"], help="of the runs; default: epochs=30")
    args = parser.parse_args(arguments)
    most = str(len(cores()))
    ways: dict[str, tuple[str, dict[str, str]]] = {
        "1": ("1", {}),
        most: (most, {}),
        f"{most}, as PyTorch waits": (most, LIBRARY),
        "auto": ("auto", {}),
    }
    runs: dict[tuple[str, str], list[Run]] = {}
    for _ in range(args.rounds):
        for load, busy in LOADS.items():
            with ExitStack() as stack:
                for _ in range(busy):
                    stack.callback(stack.enter_context(subprocess.Popen(BUSY)).kill)
                for way, (threads, environment) in ways.items():
                    with tempfile.TemporaryDirectory() as folder:
                        runs.setdefault((load, way), []).append(run(threads, environment, args.overrides, Path(folder)))
    table = Table("", "threads", "images/s", "of the best fixed", "in each round", "taken by others")
    for load in LOADS:
        speed = {way: statistics.median(result.speed for result in runs[load, way]) for way in ways}
        best = max(speed["1"], speed[most])
        for way in ways:
            chosen = " ".join(str(result.threads) for result in runs[load, way])
            taken = statistics.median(result.taken for result in runs[load, way])
            table.add_row(load, way, f"{speed[way]:,.0f}", f"{speed[way] / best:.0%}", chosen, f"{taken:.1f}")
        table.add_section()
    Console(highlight=False, width=110).print(table)


if __name__ == "__main__":
    main()

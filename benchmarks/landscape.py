"""The CPU time of the analyses of a run of `sweep=escape`, with this package and with an earlier one, by turns.

A run of digits is trained once. Each round is a process for each package, which computes all three analyses, draws
their figures and writes them. Shown are medians over the rounds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
RUN = ("epochs=60", "scheduler=cosine", "optimizer.lr=0.1", "optimizer.l2=0.001", "phases=cycles",
       "phases.cycle.times=1", "penalty.strength=30", "evaluate_every=60", "threads=1")  # fmt: skip
ANALYSE = """
import json, sys, tempfile, time
from pathlib import Path
import matplotlib.backends.backend_agg, matplotlib.figure
import torch
from distancing.landscape import barrier, outputs, sharpness, subject, valley
from distancing.stored import find_checkpoints
torch.set_num_threads(1)
checkpoints, seconds, subjects = find_checkpoints([Path(sys.argv[1])]), {}, {}
for analysis in (barrier.Barrier(), valley.Valley(), sharpness.Sharpness()):
    name, begun = type(analysis).__name__.lower(), time.process_time()
    if analysis.images not in subjects:  # as in a run, analyses of the same images share it
        subjects[analysis.images] = subject.Subject(checkpoints, torch.device("cpu"), analysis.images)
    findings = analysis(subjects[analysis.images], lambda items, *_: items)
    seconds[name] = time.process_time() - begun
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        outputs.store(findings, Path(folder), name, {})
    seconds["figures and files"] = seconds.get("figures and files", 0) + time.process_time() - begun
print(json.dumps(seconds))
"""


def analysed(run: Path, package: Path) -> dict[str, float]:
    """Return the CPU seconds of each analysis of a run, with the package in the folder `package`."""
    environment = {**os.environ, "PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", ANALYSE, str(run)]
    done = subprocess.run(command, cwd=run, env=environment, stdout=subprocess.PIPE, check=True)
    seconds: dict[str, float] = json.loads(done.stdout)
    return {**seconds, "all": sum(seconds.values())}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="The CPU time of the analyses; see this file's docstring.")
    parser.add_argument("before", type=Path, help="a checkout of an earlier version")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("overrides", nargs="*", default=["model=mlp"], help="the network (default: model=mlp)")
    args = parser.parse_args(arguments)
    packages = {"before": args.before.resolve(), "now": ROOT}
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in packages}
    with tempfile.TemporaryDirectory() as folder:
        settings = (*RUN, *args.overrides, f"runs={folder}")
        train = [sys.executable, args.before / "train.py", *settings]  # a new version reads the runs of an older one
        subprocess.run(train, check=True, stdout=subprocess.DEVNULL)
        (run,) = Path(folder).iterdir()
        for _ in range(args.rounds):
            for name, package in packages.items():
                rounds[name].append(analysed(run, package))
    table = Table("CPU s", *packages, "now / before", title=f"analyses of a run with {' '.join(args.overrides)}")
    for part in rounds["now"][0]:
        before, now = (statistics.median(seconds[part] for seconds in rounds[name]) for name in packages)
        table.add_row(part, f"{before:.2f}", f"{now:.2f}", f"{now / before:.2f}")
    Console(highlight=False).print(table)


if __name__ == "__main__":
    main()

"""Measure what a sweep of many runs costs besides its training. Nothing is trained here, except for one run.

compose   `train.py -m hydra/launcher=slurm`: compose, check and freeze all runs, and submit them in job arrays to an
          `sbatch` that accepts everything
status    `distancing sweep status`, before and after all runs have ended; one run was trained, and the others get its
          result
cost      the estimate of another sweep from the finished runs
report    `distancing report --all`

Each is a whole process: its CPU time, its wall time and its largest memory.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from distancing.runs import RunDirectory, SweepDirectory

TRAIN = str(Path(__file__).parents[1] / "train.py")
RUN = ("phases=single", "penalty=none", "model.width=4", "epochs=2")
SWEEP = (*RUN, "optimizer.lr=0.01,0.03,0.1,0.3", "batch_size=32,64,128,256,512", "hydra.sweep.dir=runs/sweeps/it")
SLURM = {"sbatch": "echo Submitted batch job 1", "scontrol": "echo MaxArraySize = 1001", "squeue": "", "scancel": ""}


def measured(*command: str) -> tuple[float, float, float]:
    """Run a Python command; return its CPU seconds, its wall seconds, and its largest memory in GB."""
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)} ended with status {status}")
    return used.ru_utime + used.ru_stime, time.perf_counter() - begun, used.ru_maxrss * 1024 / 1e9


def finish_all(template: Path) -> None:
    """Give all runs of the sweep the result of one run, which differs by their seed."""
    result = json.loads((template / "result.json").read_text())
    del result["checksum"]
    for run in SweepDirectory("runs/sweeps/it").runs():
        config = yaml.load((run.path / ".hydra/config.yaml").read_bytes(), yaml.CSafeLoader)
        loss = 0.1 + config["seed"] % 7 / 100
        metrics = {split: {**values, "loss": loss} for split, values in result["metrics"].items()}
        own = {"config_hash": run.path.name[-8:], "seed": config["seed"], "metrics": metrics}
        RunDirectory(run.path).write_result(result | own)
        shutil.copy(template / "metrics.csv", run.path)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="What a sweep of many runs costs; see this file's docstring.")
    parser.add_argument("--runs", type=int, default=10_000, help="a multiple of 20")
    runs: int = parser.parse_args(arguments).runs
    table = Table("", "CPU s", "s", "GB", title=f"a sweep of {runs:,} runs")

    def add(name: str, *command: str) -> None:
        table.add_row(name, *(f"{value:.2f}" for value in measured(*command)))

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name, line in SLURM.items():
            Path(name).write_text(f"#!/bin/sh\n{line}\n")
            Path(name).chmod(0o755)
        os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"
        measured(TRAIN, *RUN, "runs=one")
        sweep = (TRAIN, "-m", *SWEEP, f"seed=range({runs // 20})")
        add("compose, check, freeze and submit", *sweep, "hydra/launcher=slurm")
        add("status of waiting runs", "-m", "distancing", "sweep", "status", "it")
        finish_all(next(Path("one").glob("digits-*")))
        add("status of finished runs", "-m", "distancing", "sweep", "status", "it")
        add("cost of one more run", TRAIN, "-m", *RUN, "seed=7,8", "model.width=5", "hydra/launcher=cost")
        add("report", "-m", "distancing", "report", "runs/*", "--all", "report")
        os.chdir("/")
    Console(highlight=False).print(table)


if __name__ == "__main__":
    main()

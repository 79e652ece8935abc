"""Measure whether a long run and a long sweep stay as small and as quick as they are at their start.

`python tools/long_haul.py` watches one run of 900 epochs in another process, and then 100 runs in one process.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import hydra
from omegaconf import DictConfig

from distancing.config.project import CONF
from distancing.experiment import main as experiment

ROOT = Path(__file__).parent.parent
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Sample:
    """The resources of a process: resident memory in MB, open files, threads, and CPU seconds."""

    memory: float
    files: int
    threads: int
    seconds: float
    epoch: int = 0
    state: int = 0  # bytes of the newest saved state
    events: int = 0  # bytes of TensorBoard's files


def sample(process: int | str = "self", run: Path | None = None) -> Sample:
    """Return the present resources of a process. Raise FileNotFoundError once it is gone."""
    folder = Path(f"/proc/{process}")
    stat = (folder / "stat").read_text().rpartition(")")[2].split()
    pages = int((folder / "statm").read_text().split()[1])
    epoch = max(0, (run / "metrics.csv").read_bytes().count(b"\n") - 1) if run else 0
    states = sorted(run.glob("state/*.pt")) if run else []
    return Sample(
        memory=pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
        files=len(os.listdir(folder / "fd")),
        threads=int(stat[17]),
        seconds=(int(stat[11]) + int(stat[12])) / TICKS,
        epoch=epoch,
        state=states[-1].stat().st_size if states else 0,
        events=sum(file.stat().st_size for file in run.glob("events.*")) if run else 0,
    )


def long_run(folder: Path, epochs: int) -> list[Sample]:
    """Train a small network in another process; return about one sample a second."""
    command = [sys.executable, ROOT / "train.py", "model.width=2", "phases=cycles", f"epochs={epochs}", "runs=runs"]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    samples = []
    while process.poll() is None:
        time.sleep(1)
        for run in folder.glob("runs/*/metrics.csv"):
            try:
                samples.append(sample(process.pid, run.parent))
            except (OSError, IndexError):
                continue
    assert process.returncode == 0, (folder / "log").read_text()
    return [sample for sample in samples if sample.epoch and sample.state]


def many_runs(n: int) -> list[Sample]:
    """Run `train.py -m seed=range(n)` in this process and folder; return a sample after each run."""
    samples = []

    def task(cfg: DictConfig) -> float:
        assert experiment.main(cfg)[0] == 0
        samples.append(sample())
        return 0.0

    small = ["experiment=smoke", "model.width=2", "dataset.train_images=60", "batch_size=16", "epochs=8"]
    with patch.object(sys, "argv", ["train.py", "-m", *small, f"seed=range({n})"]):
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(task)()
    return samples


def epoch_costs(samples: Sequence[Sample], epochs: int) -> tuple[float, float]:
    """Return the CPU seconds of an epoch in the first and in the last fifth of the run, without its very beginning."""

    def cost(first: float, last: float) -> float:
        part = [sample for sample in samples if first * epochs <= sample.epoch <= last * epochs]
        return (part[-1].seconds - part[0].seconds) / (part[-1].epoch - part[0].epoch)

    return cost(0.02, 0.22), cost(0.78, 0.98)


def tell_run(samples: Sequence[Sample], epochs: int) -> None:
    for share in (0.02, 0.1, 0.25, 0.5, 0.75, 1):
        s = next((s for s in samples if s.epoch >= share * epochs), samples[-1])
        print(f"epoch {s.epoch:4}: {s.memory:6.1f} MB, {s.files} files, {s.threads} threads, "
              f"state {s.state / 1e3:6.1f} kB, events {s.events / 1e3:7.1f} kB")  # fmt: skip
    if epochs >= 100:
        first, last = epoch_costs(samples, epochs)
        print(f"CPU seconds of an epoch: {first:.4f} at first, {last:.4f} at last")


def tell_many(samples: Sequence[Sample]) -> None:
    for i in sorted({1, 5, 10, 20, 50, len(samples)}):
        if i <= len(samples):
            s = samples[i - 1]
            print(f"after run {i:3}: {s.memory:6.1f} MB, {s.files} files, {s.threads} threads")
    costs = [b.seconds - a.seconds for a, b in itertools.pairwise(samples)]
    fifth = max(1, len(costs) // 5)
    print(f"CPU seconds of a run: {statistics.median(costs[:fifth]):.3f} at first, "
          f"{statistics.median(costs[-fifth:]):.3f} at last")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=900)
    parser.add_argument("--runs", type=int, default=100)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tell_run(long_run(Path(folder), args.epochs), args.epochs)
        os.chdir(folder)
        begun = threading.active_count()
        tell_many(many_runs(args.runs))
        print(f"Python's threads: {begun} before, {threading.active_count()} after")
        os.chdir(ROOT)


if __name__ == "__main__":
    main()

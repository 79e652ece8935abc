"""Kill a run at random moments, start it again each time, and compare its end with that of an undisturbed run.

`python tools/crash.py --kills 200` draws the moments evenly over the life of a run: its start, training, saving,
changes of phase, the ensemble and the analysis at its end. It prints where the kills fell, and exits with 1 if one run
ended with other bits.
"""

import argparse
import csv
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distancing.config.project import CONF
from distancing.runs import load
from distancing.train import run as train

# This run has everything that has a state: early stopping with its best parameters, hills that grow and fade, jumps,
# restarts, augmentation. Only dropout is in test_resume.py instead, because an analysis refuses it.
RUN = [
    "experiment=smoke", "model.width=2", "dataset.train_images=60", "batch_size=16", "threads=1", "epochs=30",
    "save_every=2", "scheduler=cosine", "optimizer.lr=0.05", "phases.descend.patience=2", "penalty=well_tempered",
    "penalty.half_life=5", "penalty.sigma_unit=norm", "phases.cycle.phases.settle.jump=0.5", "analysis=[barrier]",
    "analysis.barrier.points=5",
]  # fmt: skip
PROCESSES = multiprocessing.get_context("forkserver")  # its server imports everything once
PROCESSES.set_forkserver_preload(
    ["distancing.train", "distancing.experiment.main", "torch.utils.tensorboard", "matplotlib.figure"]
)


def outcome(run: Path) -> dict[str, Any]:
    """Return everything that a run stores, except times and paths."""
    result = json.loads((run / "result.json").read_text())
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    stored = {path.name: load(path) for path in sorted((run / "checkpoints").glob("*.pt"))}
    logits = {path.name: load(path)["logits"] for path in sorted((run / "checkpoints/logits").glob("*.pt"))}
    landscape = {path.name: path.read_bytes() for path in sorted((run / "landscape").glob("[!.]*"))}
    for numbers in (result, *rows):
        numbers.pop("seconds")
    del result["images_per_second"], result["peak_memory"], result["checksum"]  # the checksum includes times
    tensors = {f"{name}/{key}": value for name, file in stored.items() for key, value in file.pop("network").items()}
    tensors |= {f"logits/{name}/{key}": value for name, splits in logits.items() for key, value in splits.items()}
    bits = {name: value.numpy().tobytes() for name, value in tensors.items()}
    events = EventAccumulator(str(run), {"scalars": 0}).Reload()
    scalars = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    del scalars["seconds"]
    return {"result": result, "rows": rows, "stored": stored, "bits": bits, "scalars": scalars, "landscape": landscape}


def only_run(folder: Path) -> Path:
    """Return the one run directory in `folder`."""
    (run,) = (path for path in folder.iterdir() if (path / ".hydra").exists())
    return run


def _child(folder: str, overrides: Sequence[str]) -> None:
    os.chdir(folder)
    log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    raise SystemExit(train(CONF, overrides))


def begin(folder: Path, overrides: Sequence[str]) -> ForkServerProcess:
    """Start `python train.py OVERRIDES` in `folder`; return its process, whose output goes to `log`."""
    process = PROCESSES.Process(target=_child, args=(str(folder), list(overrides)))
    process.start()
    return process


def undisturbed(folder: Path, overrides: Sequence[str]) -> tuple[dict[str, Any], float]:
    """Return the outcome of a run that is left alone, and the seconds that it takes."""
    for name in ("first", "second"):  # the first one also starts the server
        (folder / name).mkdir()
        begun = time.monotonic()
        process = begin(folder / name, overrides)
        process.join()
        seconds = time.monotonic() - begun
        assert process.exitcode == 0, (folder / name / "log").read_text()
    return outcome(only_run(folder / "second/runs")), seconds


def killed(folder: Path, overrides: Sequence[str], seconds: float, generator: random.Random) -> list[str]:
    """Kill a run at moments drawn evenly from so many seconds, and start it again, until it ends before its moment.

    Return the place of each kill. Raise AssertionError if the run ended with an error.
    """
    places = []
    while True:
        process = begin(folder, overrides)
        process.join(timeout=generator.uniform(0, seconds))
        if process.exitcode is not None:
            break
        process.kill()
        process.join()
        places.append(_place(folder))
    assert process.exitcode == 0, (folder / "log").read_text()
    return places


def _place(folder: Path) -> str:
    """Return how far a run had come when it was killed."""
    runs = [path for path in folder.glob("runs/*") if path.is_dir()]
    if not runs or not list(runs[0].glob("state/*.pt")):
        return "analysis" if runs and (runs[0] / "result.json").exists() else "start"
    if list(runs[0].rglob(".*.tmp")):
        return "while a file was written"
    if (runs[0] / "result.json").exists():
        return "analysis"
    if (runs[0] / "checkpoints/final.pt").exists():
        return "end"
    return "training"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    generator, places, ended, same = random.Random(args.seed), Counter[str](), 0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        expected, seconds = undisturbed(folder, RUN)
        print(f"a run that is left alone takes {seconds:.1f} s", flush=True)
        while places.total() < args.kills:
            trial = folder / str(ended)
            trial.mkdir()
            places.update(killed(trial, RUN, seconds, generator))
            ended += 1
            actual = outcome(only_run(trial / "runs"))
            if different := [part for part in expected if actual[part] != expected[part]]:
                print(f"run {ended} ended otherwise: {', '.join(different)}", flush=True)
            same += not different
            print(f"{places.total()} kills, {same} of {ended} runs ended bit-identical", flush=True)
    for place, n in places.most_common():
        print(f"{n:4}  {place}")
    return int(same < ended)


if __name__ == "__main__":
    sys.exit(main())

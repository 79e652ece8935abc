"""Train six small runs of all kinds with two checkouts of this project, and compare every number of them, bit for bit.

`python tools/same_bits.py OTHER_CHECKOUT` tells whether a change of the structure has changed a number.
"""

import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

HERE = Path(__file__).parent.parent
TINY = ["experiment=smoke", "dataset.train_images=120", "batch_size=32", "optimizer.lr=0.1", "epochs=12"]
RUNS = {
    "hills on a ResNet": ["model.width=4", "phases=cycles", "phases.cycle.times=2", "epochs=15",
                          "analysis=[barrier,valley,sharpness,gradients,plane]"],
    "growing hills on a perceptron": ["model=mlp", "penalty=well_tempered", "penalty.half_life=3", "penalty.newest=1",
                                      "phases=distancing", "scheduler=step", "penalty.fixed_norm=true"],
    "hills in the filters' directions, augmented": ["model.width=16", "penalty=filter_direction", "phases=distancing",
                                                    "dataset.augment=true", "optimizer=nesterov", "optimizer.l2=1e-3"],
    "function space, early stopping": ["model.width=2", "penalty=function_space", "phases=cycles",
                                       "phases.cycle.times=1", "dataset.validation_fraction=0.25",
                                       "phases.descend.patience=2", "label_smoothing=0.1"],
    "jumps and a new beginning": ["model.width=3", "model.shortcut=pad", "penalty=none", "phases=jumps",
                                  "phases.cycle.times=2", "+phases.last.reinitialise=true", "precision=bf16"],
    "dropout, bootstrap, a diverging end": ["model=mobilenetv2", "model.width=0.1", "model.dropout=0.2",
                                            "dataset.bootstrap=true", "penalty=laplace", "phases=distancing",
                                            "scheduler=constant", "optimizer=sgd"],
}  # fmt: skip


def numbers(checkout: Path, overrides: list[str], folder: Path) -> dict[str, object]:
    """Train one run with `checkout` in `folder`; return all its numbers by name, without times."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(checkout / "train.py"), *TINY, *overrides, "name=run", f"runs={folder}"]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    if done.returncode not in (0, 3):
        raise SystemExit(f"{' '.join(command)} ended with exit code {done.returncode}: {done.stderr[-500:]}")
    (run,) = folder.glob("run-*")
    values: dict[str, object] = {"exit code": done.returncode}
    for row in csv.DictReader((run / "metrics.csv").open()):
        values |= {f"epoch {row['epoch']}: {key}": value for key, value in row.items() if key != "seconds"}
    for file in sorted((run / "checkpoints").glob("*.pt")):
        network = torch.load(file, weights_only=True)["network"]
        values |= {f"{file.name}: {name}": value.tolist() for name, value in network.items()}
    result = json.loads((run / "result.json").read_text())
    values |= {name: result[name] for name in ("status", "diverged", "metrics", "ensemble", "analysis")}
    return values


def main(other: Path) -> int:
    different = 0
    for name, overrides in RUNS.items():
        with tempfile.TemporaryDirectory() as a, tempfile.TemporaryDirectory() as b:
            ours, theirs = numbers(HERE, overrides, Path(a)), numbers(other, overrides, Path(b))
        keys = [key for key in (*ours, *theirs) if ours.get(key) != theirs.get(key)]
        different += bool(keys)
        print(f"{name}: {f'different in {len(set(keys))} numbers, first {keys[0]}' if keys else f'{len(ours)} equal'}")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))

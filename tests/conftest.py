"""What the tests share: composed configs, runs in this process, and the real data where it is."""

import os

# before torch is imported: the tests' networks are too small to share out, here and in the processes that they start
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["GOMP_SPINCOUNT"] = "1000"  # as in a run, where this package comes before torch

import json
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from distancing import experiment
from distancing.storage import SweepDirectory
from distancing.threads import usable

ROOT = Path(__file__).parent.parent
TINY = ["experiment=smoke", "model.width=2", "dataset.train_images=60", "batch_size=16"]


def compose(*overrides: str) -> DictConfig:
    """What `python train.py OVERRIDES` gives to the run."""
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = hydra.compose("config", list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    OmegaConf.resolve(cfg)
    return cfg


def start(*overrides: str) -> int:
    """Run in this process; the exit code."""
    return experiment.main(compose(*overrides), overrides)[0]


def multirun(*overrides: str) -> SweepDirectory:
    """Sweep as `python train.py -m OVERRIDES` does, in this process and folder; the sweep, in runs/sweeps."""
    launched(*overrides)
    return SweepDirectory(next(path for path in Path("runs/sweeps").iterdir() if path.is_dir()))


def launched(*overrides: str, task: Callable[[DictConfig], float] = lambda _: 0.0) -> Any:
    """…and what the launcher returns. task: of Hydra's own launcher, instead of a run."""
    GlobalHydra.instance().clear()
    version.setbase("1.3")  # as train.py does: nobody changes the working directory
    search_path = create_config_search_path(str(ROOT / "conf"))
    app = Hydra.create_main_hydra2(task_name="train", config_search_path=search_path)
    named = any(each.startswith("+sweep=") for each in overrides)
    try:
        it = [] if named else ["hydra.sweep.dir=runs/sweeps/it"]
        return app.multirun("config", task, [*overrides, *it])
    finally:
        GlobalHydra.instance().clear()


def command_line(*arguments: str) -> int:
    """`python train.py ARGUMENTS` in this process; the exit code."""
    GlobalHydra.instance().clear()
    before, sys.argv = sys.argv, [str(ROOT / "train.py"), *arguments]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
        GlobalHydra.instance().clear()
    raise AssertionError("train.py did not exit")


def only_run(folder: Path) -> Path:
    """The one run directory in `folder`."""
    (run,) = (path for path in folder.iterdir() if (path / ".hydra").exists())
    return run


def result(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "result.json").read_text())
    return found


def data_root() -> Path | None:
    """A folder with torchvision's MNIST and CIFAR-10: $DISTANCING_DATA, data/, or one beside the checkout."""
    places = [os.environ.get("DISTANCING_DATA", ROOT / "data"), *sorted(ROOT.parent.glob("*/data"))]
    wanted = ("MNIST/raw/train-images-idx3-ubyte", "cifar-10-batches-py/data_batch_1")
    return next((Path(p) for p in places if all((Path(p) / each).exists() for each in wanted)), None)


@pytest.fixture
def two_cores() -> Iterator[None]:
    """For a test that computes with two threads."""
    if usable() < 2:
        pytest.skip("this process may use one core only")
    yield
    torch.set_num_threads(1)


@pytest.fixture
def real_data() -> Path:
    root = data_root()
    if root is None:
        pytest.skip("MNIST and CIFAR-10 are not in $DISTANCING_DATA or data/")
    return root


@pytest.fixture
def runs(tmp_path: Path) -> Callable[..., int]:
    """Start a run below tmp_path."""
    return lambda *overrides: start(f"runs={tmp_path}", *overrides)

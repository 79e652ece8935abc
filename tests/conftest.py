"""Helpers of the tests: composed configs, runs in this process, and the real data if it is there."""

import os

# before torch is imported: the tests' networks are too small to share out, here and in the processes that they start
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as in a run, where this package comes before torch

import json
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import hydra
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from distancing.config import composition as composition  # which opens the groups of a config
from distancing.experiment import main as experiment
from distancing.process.threads import usable
from distancing.runs import SweepDirectory
from distancing.training.trainer import Trainer

ROOT = Path(__file__).parent.parent
NEED_MORE = {"folder", "npz", "timm", "torchvision"}  # choices that need files or names: see test_more_choices.py
TINY = ["experiment=smoke", "model.width=2", "dataset.train_images=60", "batch_size=16"]
THREADS = int(os.environ["OMP_NUM_THREADS"])
torch.set_num_threads(THREADS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with Slurm's tests, which take longest: a process takes whole files, and would end last with this one."""
    items.sort(key=lambda item: item.get_closest_marker("slurm") is None)


def compose(*overrides: str) -> DictConfig:
    """Return the config that `python train.py OVERRIDES` composes."""
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = hydra.compose("config", list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    OmegaConf.resolve(cfg)
    return cfg


def one_epoch(trainer: Trainer) -> None:
    """Take the steps of one epoch."""
    trainer.begin_epoch()
    for _ in range(trainer.steps):
        trainer.step()
    trainer.check_finite()


def start(*overrides: str) -> int:
    """Run in this process; return the exit code."""
    return experiment.main(compose(*overrides), overrides)[0]


def multirun(*overrides: str) -> SweepDirectory:
    """Sweep as `python train.py -m OVERRIDES` does, in this process and folder; return the sweep."""
    launched(*overrides)
    return SweepDirectory(next(path for path in Path("runs/sweeps").iterdir() if path.is_dir()))


def launched(*overrides: str, task: Callable[[DictConfig], float] = lambda _: 0.0) -> None:
    """Start a sweep as `python train.py -m OVERRIDES` does. task: what Hydra's own launcher runs instead of a run."""
    GlobalHydra.instance().clear()
    named = any(override.startswith("+sweep=") for override in overrides)
    arguments = ["train.py", "-m", *overrides, *([] if named else ["hydra.sweep.dir=runs/sweeps/it"])]
    with patch.object(sys, "argv", arguments), patch.dict(os.environ, HYDRA_FULL_ERROR="1"):
        hydra.main(version_base="1.3", config_path=str(ROOT / "conf"), config_name="config")(task)()


def command_line(*arguments: str) -> int:
    """Run `python train.py ARGUMENTS` in this process; return the exit code."""
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
    """Return the only run directory in `folder`."""
    (run,) = (path for path in folder.iterdir() if (path / ".hydra").exists())
    return run


def result(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "result.json").read_text())
    return content


def data_root() -> Path | None:
    """Return a folder with torchvision's MNIST and CIFAR-10: $DISTANCING_DATA, data/, or one beside the checkout."""
    folders = [os.environ.get("DISTANCING_DATA", ROOT / "data"), *sorted(ROOT.parent.glob("*/data"))]
    wanted = ("MNIST/raw/train-images-idx3-ubyte", "cifar-10-batches-py/data_batch_1")
    return next((Path(folder) for folder in folders if all((Path(folder) / file).exists() for file in wanted)), None)


@pytest.fixture
def two_cores() -> Iterator[None]:
    """For a test that computes with two threads."""
    if usable() < 2:
        pytest.skip("this process may use one core only")
    yield
    torch.set_num_threads(THREADS)


@pytest.fixture
def real_data() -> Path:
    root = data_root()
    if root is None:
        pytest.skip("MNIST and CIFAR-10 are not in $DISTANCING_DATA or data/")
    return root


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`python train.py ARGUMENTS` in an empty folder must be refused in one line and leave nothing; return the line."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)

    def check(*arguments: str) -> str:
        assert command_line(*arguments) == 2
        said = capfd.readouterr()
        (line,) = said.err.splitlines()
        assert line.startswith("error: ")
        assert not said.out
        assert not list(here.iterdir())
        return line

    return check


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., SweepDirectory]:
    """Start a sweep in tmp_path."""
    monkeypatch.chdir(tmp_path)
    return multirun


@pytest.fixture
def runs(tmp_path: Path) -> Callable[..., int]:
    """Start a run below tmp_path."""
    return lambda *overrides: start(f"runs={tmp_path}", *overrides)

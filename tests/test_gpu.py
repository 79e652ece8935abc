"""These tests need an NVIDIA GPU: they capture CUDA graphs, and call cuDNN with parameters that begin anywhere."""

from pathlib import Path

import pytest
import torch
from conftest import TINY, compose, only_run, result, start
from test_replay import drive, numbers
from torch import nn

from distancing.config.checks import check
from distancing.runs import RunDirectory
from distancing.training.gradient_check import check_gradient
from distancing.training.trainer import Trainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no NVIDIA GPU")
CUDA = torch.device("cuda")
SETTINGS = ["device=cuda", "phases=distancing", "epochs=4", "batch_size=10"]
RUNS = {
    "hills": ["penalty=filter_direction"],
    "everything changes": ["penalty=well_tempered", "penalty.half_life=3", "penalty.fixed_norm=true",
                           "scheduler=cosine", "dataset.augment=true", "optimizer.l2=0.01"],
    "function space": ["penalty=function_space", "penalty.distance.probe=16"],
    "bf16": ["precision=bf16"],
    "Adam": ["optimizer=adam", "optimizer.lr=0.01"],
    "dropout": ["model=mobilenetv2", "model.width=0.1", "model.dropout=0.2"],
    "noise": ["penalty=none", "phases.descend.temperature=1e-3"],
}  # fmt: skip


def trainer_of(*overrides: str) -> Trainer:
    config = check(compose(*TINY, *SETTINGS, *overrides))
    return Trainer(config, config.dataset.load(CUDA, config.memory_format(CUDA)), CUDA)


@pytest.mark.parametrize("width", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("channels_last", ["true", "false"])
def test_networks_of_any_width_compute(width: int, channels_last: str) -> None:
    """Their parameters begin anywhere in the vector; without aligned copies cuDNN fails."""
    trainer = trainer_of(f"model.width={width}", f"channels_last={channels_last}")
    outcome = check_gradient(trainer.config, trainer.data, trainer.network, trainer.stepper.forward)
    assert outcome.error <= outcome.tolerance


@pytest.mark.parametrize("overrides", RUNS.values(), ids=RUNS)
def test_a_captured_run_is_the_plain_run(overrides: list[str], tmp_path: Path) -> None:
    """Bit for bit, and so is one that is resumed half-way."""
    plain = drive(trainer_of(*overrides, "graph=false"), tmp_path / "plain")
    captured = drive(trainer_of(*overrides, "graph=true"), tmp_path / "captured")
    assert captured.replay.reason == ""
    assert captured.replay._captured
    assert numbers(captured) == numbers(plain)
    half = drive(trainer_of(*overrides, "graph=true"), tmp_path / "half",
                 lambda trainer: trainer.progress.epoch == 3 and trainer.progress.step == 2)  # fmt: skip
    assert half.progress.epoch == 3
    resumed = trainer_of(*overrides, "graph=true")
    with RunDirectory(tmp_path / "half") as directory:
        state = directory.load_state(CUDA, lambda _: None)
        assert state is not None
        resumed.load_state_dict(state, directory)
    assert numbers(drive(resumed, tmp_path / "half")) == numbers(plain)


def test_a_step_that_waits_for_the_gpu_is_not_captured(tmp_path: Path) -> None:
    """CUDA refuses the capture; the run goes on with the same numbers and says why."""
    trainer = trainer_of("graph=true")
    drive(plain := trainer_of("graph=false"), tmp_path / "plain")

    def wait(module: nn.Module, args: object, output: torch.Tensor) -> None:  # noqa: ARG001
        output.sum().item()

    trainer.network.register_forward_hook(wait)
    assert numbers(drive(trainer, tmp_path / "waits")) == numbers(plain)
    assert trainer.replay.reason


def test_a_run_on_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`speed=fast` without compilation, with the analyses, from the command line's entry to its result."""
    overrides = ["speed=fast", "compile=false", "device=cuda", "analysis=[barrier,valley,sharpness]"]
    assert start(*TINY, *overrides, f"runs={tmp_path}") == 0
    assert "not captured" not in capsys.readouterr().out
    outcome = result(only_run(tmp_path))
    assert outcome["device"].startswith("NVIDIA")

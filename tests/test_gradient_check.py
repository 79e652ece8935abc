"""The check of the gradient: it accepts every network and layout, and refuses a wrong kernel."""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, TINY, compose, only_run, result, start
from torch import Tensor, nn

from distancing.config.checks import check
from distancing.data.batches import Data
from distancing.errors import WRONG_GRADIENT, ConfigError, GradientError
from distancing.models import MLP, MobileNetV2, Model, ResNet
from distancing.models.layout import unsafe_in_channels_last
from distancing.training.gradient_check import check_gradient, relative_errors
from distancing.training.settings import Config

CPU = torch.device("cpu")
NETWORKS: list[Model] = [
    *(ResNet(depth=8, width=width, shortcut="conv") for width in range(1, 17)),
    *(ResNet(depth=8, width=width, shortcut="pad") for width in range(1, 17)),
    ResNet(depth=20, width=6),
    ResNet(depth=10, width=5, stages=4),  # images of 8×8 end as 1×1
    MobileNetV2(width=0.25),
    MLP(),
]


def config_of(*overrides: str) -> tuple[Config, Data]:
    config = check(compose(*overrides))
    return config, config.dataset.load(CPU, config.memory_format(CPU))


def check_all() -> None:
    """Print the error of every network, in both layouts and with one thread and two, as a line of JSON each."""
    digits, data = config_of("batch_size=7")  # an odd batch leaves kernels a remainder
    for model in NETWORKS:
        for channels_last in (True, False):
            config = dataclasses.replace(digits, model=model, channels_last=channels_last)
            images = dataclasses.replace(data, memory_format=config.memory_format(CPU))
            torch.manual_seed(0)
            network = config.build_network(CPU)
            for threads in (1, 2):
                torch.set_num_threads(threads)
                outcome = dataclasses.asdict(check_gradient(config, images, network, network))
                print(json.dumps({"network": str(model), "threads": threads, **outcome}), flush=True)


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["SSE41", "AVX", "AVX2", None])
@pytest.mark.parametrize("capability", ["default", "avx2", None])
def test_every_network_with_every_instruction_set(isa: str | None, capability: str | None) -> None:
    """Each choice has a process of its own, because the libraries choose their kernels once."""
    chosen = {
        "ONEDNN_MAX_CPU_ISA": isa,
        "ATEN_CPU_CAPABILITY": capability,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
        "GOMP_SPINCOUNT": "1000",  # other tests use these cores
    }
    environment = {name: value for name, value in {**os.environ, **chosen}.items() if value is not None}
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, env=environment, timeout=900)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-2000:]}"
    checks = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(checks) == 4 * len(NETWORKS)
    assert {line["layout"] for line in checks} == {"contiguous", "channels_last"}
    # MobileNetV2 normalises seven images of 1×1 pixel, which amplifies rounding errors: the check allows for it
    errors = {line["network"]: line["error"] for line in checks if "MobileNetV2" not in line["network"]}
    assert max(errors.values()) < 1e-4


def test_layers_that_are_not_safe_in_channels_last() -> None:
    names = unsafe_in_channels_last(ResNet(depth=8, width=8).build((1, 8, 8), 10))
    assert names == ["layer2.0.downsample.0"]  # 8 channels; the next one has 16
    for model in (ResNet(depth=8, width=16), ResNet(depth=8, width=2, shortcut="pad"), MobileNetV2(), MLP()):
        assert unsafe_in_channels_last(model.build((1, 8, 8), 10)) == []
    config, _ = config_of("model.width=8")
    assert config.memory_format(CPU) == torch.contiguous_format
    assert config.memory_format(torch.device("cuda")) == torch.channels_last


def test_a_layout_that_is_not_safe_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert start(*TINY, "speed=default", "device=cpu", f"runs={tmp_path}") == 0
    assert (
        "contiguous layout, because oneDNN computes wrong gradients of layer2.0.downsample.0" in capsys.readouterr().out
    )
    outcome = result(only_run(tmp_path))["gradient_check"]
    assert outcome["layout"] == "contiguous"
    assert 0 < outcome["error"] < outcome["tolerance"]


class WrongConvolution(torch.autograd.Function):
    """A convolution whose weights' gradient is off by one per cent, or not a number, in one output channel."""

    factors: Iterator[float] = itertools.repeat(1.01)

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return nn.functional.conv2d(x, weight, padding=1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        wrong = nn.grad.conv2d_weight(x, weight.shape, gradient, padding=1)
        if x.dtype == torch.float32:  # a fault of the fast kernels
            wrong[2] *= next(WrongConvolution.factors)
        return nn.grad.conv2d_input(x.shape, weight, gradient, padding=1), wrong


class WrongConv2d(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        result: Tensor = WrongConvolution.apply(input, self.weight)
        return result


@pytest.mark.parametrize("factor", [1.01, float("nan")])
def test_a_wrong_kernel_is_refused(
    factor: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build = ResNet.network

    def broken(self: ResNet, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
        network = build(self, image_shape, classes)
        network.get_submodule("layer3.0.conv2").__class__ = WrongConv2d
        return network

    monkeypatch.setattr(ResNet, "network", broken)
    monkeypatch.setattr(WrongConvolution, "factors", itertools.repeat(factor))
    assert start("model.width=16", "epochs=4", "phases=single", f"runs={tmp_path}") == WRONG_GRADIENT
    error = capsys.readouterr().err
    assert "layer3.0.conv2.weight is off by" in error
    assert "try channels_last=false" in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())  # before any work


def test_a_gradient_that_is_off_for_one_batch_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both gradients are right if an input of a ReLU is 0 up to rounding, so one batch does not decide."""
    config, data = config_of("model.width=16")
    torch.manual_seed(0)
    network = config.build_network(CPU)
    network.get_submodule("layer3.0.conv2").__class__ = WrongConv2d
    monkeypatch.setattr(WrongConvolution, "factors", itertools.chain([1.01, 1.01], itertools.repeat(1.0)))
    assert check_gradient(config, data, network, network).error < 1e-4
    monkeypatch.setattr(WrongConvolution, "factors", itertools.chain([1.01] * 3, itertools.repeat(1.0)))
    with pytest.raises(GradientError, match=r"layer3\.0\.conv2\.weight is off by"):
        check_gradient(config, data, network, network)


def test_the_check_leaves_no_trace() -> None:
    """Batch-norm statistics, modes, gradients and generators are what they were; dropout draws nothing."""
    config, data = config_of("model=mobilenetv2", "model.width=0.25", "model.dropout=0.5")
    network = config.build_network(CPU).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    generator = torch.get_rng_state()
    first, second = (check_gradient(config, data, network, network) for _ in range(2))
    assert first == second
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert not any(module.training for module in network.modules())
    assert all(p.grad is None for p in network.parameters())


def test_rounding_that_a_deep_network_amplifies_is_tolerated() -> None:
    """ResNet-110's gradient in float32 differs from float64's by per cents: the units near zero are switched."""
    config, data = config_of("model=resnet110", "model.width=4", "batch_size=16")
    torch.manual_seed(0)
    network = config.build_network(CPU)
    outcome = check_gradient(config, data, network, network)
    assert outcome.error < outcome.tolerance
    with pytest.raises(GradientError, match="is off by"):
        check_gradient(config, data, network, lambda x: 1.5 * network(x))


class Nowhere(nn.Module):
    """A linear classifier whose logits are divided by 0."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(x.flatten(1)) / 0
        return logits


class Noisy(nn.Module):
    """A linear classifier that draws random numbers in training mode, others in float32 than in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(64, 10), nn.BatchNorm1d(10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x.flatten(1))
        logits: Tensor = self.norm(x * torch.rand(x.shape, dtype=x.dtype) if self.training else x)
        return logits


class Float32(Nowhere):
    """A linear classifier that computes in float32 alone."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(x.flatten(1).float())
        return logits


class Probabilities(Nowhere):
    """A linear classifier whose softmax the loss would take once more."""

    def forward(self, x: Tensor) -> Tensor:
        probabilities: Tensor = self.linear(x.flatten(1)).softmax(1)
        return probabilities


class AlwaysNoisy(Noisy):
    """A classifier that draws random numbers in evaluation mode, too."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + torch.rand(x.shape, dtype=x.dtype))


class AlwaysDropping(Nowhere):
    """A linear classifier whose dropout is on in evaluation mode, too, and has one mask in float32 and float64."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(nn.functional.dropout(x.flatten(1), 0.5))
        return logits


def test_networks_of_other_packages() -> None:
    """One may draw random numbers in training mode. One that can't compute in float64 is refused in one line."""
    config, data = config_of("model=mlp")
    network = Noisy()
    assert check_gradient(config, data, network, network).error < 1e-4
    with pytest.raises(ConfigError, match=r"can't compute in float64, with which its gradient is checked: "):
        check_gradient(config, data, Float32(), Float32())
    with pytest.raises(ConfigError, match="returns probabilities: let it return logits, without a softmax"):
        check_gradient(config, data, Probabilities(), Probabilities())
    for noisy in (AlwaysNoisy(), AlwaysDropping()):
        with pytest.raises(ConfigError, match="gives other logits for the same images in evaluation mode"):
            check_gradient(config, data, noisy, noisy)


def test_a_network_that_is_wrong_itself_is_not_blamed_on_the_machine() -> None:
    config, data = config_of("model=mlp")
    network = Nowhere()
    with pytest.raises(ConfigError, match=r"model: .* has a gradient that is not finite, before any step and in float"):
        check_gradient(config, data, network, network)


def test_relative_errors() -> None:
    exact = {"a": torch.tensor([3.0, 4.0]).double(), "dead": torch.zeros(2).double()}
    errors = relative_errors({"a": torch.tensor([3.0, 4.5]), "dead": torch.tensor([0.0, 5e-3])}, exact)
    assert errors == {"a": pytest.approx(0.1), "dead": pytest.approx(1.0)}


if __name__ == "__main__":
    check_all()

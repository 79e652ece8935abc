"""The distances and kernels that are not in the thesis, against float64 references; hills that change with time."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from test_training import build, drive
from torch import Tensor, nn

from distancing.hills import distances, kernels
from distancing.hills.distances import Distance
from distancing.hills.features import Network, Projection
from distancing.hills.field import Field
from distancing.hills.kernels import Kernel
from distancing.hills.penalty import Penalty
from distancing.hills.theta import Theta
from distancing.runs import RunDirectory

IMAGES = torch.randn(12, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
DISTANCES: dict[str, Distance] = {
    "euclidean": distances.Euclidean(),
    "weights": distances.Euclidean(parameters="weights"),
    "mean_square": distances.MeanSquare(),
    "mean_square_of_weights": distances.MeanSquare(parameters="weights"),
    "layerwise": distances.Layerwise(),
    "layerwise_of_weights": distances.Layerwise(parameters="weights"),
    "filter_direction": distances.FilterDirection(),
    "probe": distances.FunctionSpace(probe=5),
    "function_space": distances.FunctionSpace(),
}


def network() -> Network:
    torch.manual_seed(1)
    layers = [nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)]
    module = nn.Sequential(*layers).double().to(memory_format=torch.channels_last)
    return Network(Theta(module), module, lambda n: IMAGES[:n], torch.autocast("cpu", enabled=False))


def squared(name: str, named: list[dict[str, Any]], modules: list[nn.Module]) -> float:
    """Return d of two networks, the second of which is the checkpoint, by numpy and plain modules."""
    a, b = ({n: value for n, value in values.items() if "weights" not in name or value.ndim > 1} for values in named)
    if name in ("probe", "function_space"):
        images = IMAGES[:5] if name == "probe" else IMAGES
        p, q = (torch.softmax(module.train()(images), 1).detach().numpy() for module in modules)
        return float(((np.sqrt(p) - np.sqrt(q)) ** 2).sum(1).mean() / 2)
    if name == "filter_direction":
        cosines = [(u * v).sum() / np.sqrt((u * u).sum() * (v * v).sum())
                   for n in a if a[n].ndim > 1 for u, v in zip(a[n], b[n], strict=True)]  # fmt: skip
        return float(sum(2 * (1 - cosine) for cosine in cosines))
    squares = [(a[n] - b[n]) ** 2 for n in a]
    if name.startswith("layerwise"):
        return float(np.mean([square.mean() for square in squares]))
    flat = np.concatenate([square.ravel() for square in squares])
    return float(flat.mean() if name.startswith("mean_square") else flat.sum())


def neighbours(net: Network, k: int) -> tuple[Tensor, list[dict[str, Any]], list[nn.Module]]:
    """Return the parameters of k networks near the given one: as vectors [k, P], by name, and as modules."""
    generator = torch.Generator().manual_seed(2)
    start = net.theta.vector
    thetas = start + 0.2 * torch.randn(k, len(start), generator=generator, dtype=torch.float64)
    named = [net.theta.named(theta) for theta in thetas]
    modules = [copy.deepcopy(net.module) for _ in thetas]
    for module, values in zip(modules, named, strict=True):
        module.load_state_dict(values, strict=False)
    return thetas, [{n: value.numpy() for n, value in values.items()} for values in named], modules


@pytest.mark.parametrize(
    "layout", [lambda weight: weight.t().contiguous().t(), lambda weight: weight.repeat_interleave(2, 1)[:, ::2]]
)
def test_a_weight_in_another_layout(layout: Callable[[Tensor], Tensor]) -> None:
    """The network computes the same with its parameters in a vector, in which its filters are found."""
    module = nn.Linear(4, 3, bias=False)
    module.weight = nn.Parameter(layout(torch.randn(3, 4)))
    images = torch.randn(2, 4)
    before = module(images)
    theta = Theta(module)
    torch.testing.assert_close(module(images), before)
    net = Network(theta, module, lambda n: images[:n], torch.autocast("cpu", enabled=False))
    features = distances.FilterDirection().features(net)
    old = features(theta.vector)
    with torch.no_grad():
        module.weight[1] *= 3
    torch.testing.assert_close(features(theta.vector), old)


@pytest.mark.parametrize("name", DISTANCES)
def test_distance_and_push(name: str) -> None:
    """The push of three hills is the slope of their energy, by central differences, and is 0 at a checkpoint.

    d equals its definition, and the network does not change.
    """
    net, sigma = network(), 0.3
    before = copy.deepcopy(net.module.state_dict())
    thetas, named, modules = neighbours(net, 4)
    penalty = Penalty(distance=DISTANCES[name], kernel=kernels.Gaussian(), strength=2.0, sigma=sigma)
    hills = Field(penalty, net.theta.vector, net)
    hills.put(thetas[1:])
    d = np.array([squared(name, [named[0], named[i]], [modules[0], modules[i]]) for i in (1, 2, 3)])
    energy, push, k = hills.evaluate(thetas[0], IMAGES)
    heights = np.exp(-d / (2 * sigma**2))
    np.testing.assert_allclose(energy, 2 * heights.sum(), rtol=1e-9)
    np.testing.assert_allclose(k, heights, rtol=1e-9)
    if name != "function_space":  # its `heights` are on the first images, not on a batch
        np.testing.assert_allclose(hills.heights(thetas[0]), heights, rtol=1e-9)
    generator = torch.Generator().manual_seed(3)
    for _ in range(4):
        way = torch.randn(len(thetas[0]), generator=generator, dtype=torch.float64)
        ahead, behind = (hills.evaluate(thetas[0] + step * way, IMAGES)[0] for step in (1e-5, -1e-5))
        assert (push @ way).item() == pytest.approx((ahead - behind).item() / 2e-5, rel=1e-5, abs=1e-9)
    assert all(torch.equal(value, before[name]) for name, value in net.module.state_dict().items())
    assert net.module.training
    hills.put(thetas[:1].repeat(3, 1))
    assert hills.evaluate(thetas[0], IMAGES)[1].abs().max() < 1e-12


def test_a_random_projection_has_one_entry_a_parameter() -> None:
    """The entries are ±1, equally many in each row, and drawn with a seed. The gradient is the transpose."""
    projection = Projection(100, 8, torch.Generator().manual_seed(0), torch.device("cpu"))
    matrix = projection(torch.eye(100).double())  # [P, F]
    assert sorted(matrix.abs().sum(0).tolist()) == pytest.approx([12.5] * 8, abs=2)
    assert matrix.abs().sum(1).tolist() == [1] * 100
    assert (matrix < 0).any()
    _, pull = projection.vjp(torch.zeros(103).double())
    rows = torch.stack([pull(unit) for unit in torch.eye(8).double()])
    assert torch.equal(rows[:, :100], matrix.T)
    assert not rows[:, 100:].any()


@pytest.mark.parametrize(("name", "blind"), [("filter_direction", True), ("probe", True), ("euclidean", False)])
def test_who_sees_a_scaled_filter(name: str, blind: bool) -> None:
    """A filter before a batch norm becomes ten times as large, which leaves the function the same."""
    net = network()
    net.module[1].eps = 1e-16
    hills = Field(Penalty(distance=DISTANCES[name], kernel=kernels.Gaussian(), strength=1.0, sigma=1.0),
                  net.theta.vector, net)  # fmt: skip
    hills.put(net.theta.vector[None].clone())
    scaled = net.theta.vector.clone()
    net.theta.named(scaled)["0.weight"][2] *= 10
    assert (hills.heights(scaled).item() == pytest.approx(1, abs=1e-9)) == blind


@pytest.mark.parametrize(
    ("kernel", "k"),
    [
        (kernels.Laplace(), lambda d, s: math.exp(-math.sqrt(d) / s)),
        (kernels.InverseQuadratic(), lambda d, s: 1 / (1 + d / (2 * s**2))),
    ],
)
def test_kernels(kernel: Kernel, k: Any) -> None:
    d, sigma = torch.tensor([0.0, 0.3, 2.0, 50.0]).double(), torch.tensor(1.7).double()
    height, slope = kernel.slope(d, sigma)
    np.testing.assert_allclose(height, [k(x, 1.7) for x in d.tolist()], atol=1.1e-3)
    assert height[0] == 1
    numeric = [(k(x + 1e-6, 1.7) - k(x - 1e-6, 1.7)) / 2e-6 for x in d[1:].tolist()]
    np.testing.assert_allclose(slope[1:], numeric, rtol=2e-3)
    assert slope.isfinite().all()


def test_hills_grow_until_the_network_leaves_and_fade() -> None:
    """Hills grow by Euler steps of ds/dt = growth · k · exp(−s·k/T) and decay by the half-life; the newest act."""
    start = torch.zeros(3, dtype=torch.float64)
    settings: dict[str, Any] = {"distance": distances.Euclidean(), "kernel": kernels.Gaussian(), "sigma": 1.0}
    growing = Field(Penalty(strength=0.5, growth=2.0, temperature=1.5, **settings), start)
    fading = Field(Penalty(strength=8.0, half_life=2.0, newest=1, **settings), start)
    where, theta, s = torch.eye(3, dtype=torch.float64)[:2], torch.tensor([0.5, 0, 0], dtype=torch.float64), [0.5, 0.5]
    k = [math.exp(-0.25 / 2), math.exp(-1.25 / 2)]
    for hills in (growing, fading):
        hills.put(where[:1])
        hills.put(where)
        for _ in range(10):
            hills.change(hills.evaluate(theta)[2], 0.1)
    for _ in range(10):
        s = [si + 0.1 * 2 * ki * math.exp(-si * ki / 1.5) for si, ki in zip(s, k, strict=True)]
    assert growing.strengths.tolist() == pytest.approx(s)
    assert growing.evaluate(theta)[0].item() == pytest.approx(sum(si * ki for si, ki in zip(s, k, strict=True)))
    assert fading.strengths.tolist() == pytest.approx([8 / math.sqrt(2)] * 2)
    assert fading.evaluate(theta)[0].item() == pytest.approx(8 / math.sqrt(2) * k[1])


def test_hills_grow_by_what_the_step_has_seen() -> None:
    """They grow by the heights on the step's images, without another forward pass. Only acting hills grow."""
    net = network()
    thetas, named, modules = neighbours(net, 4)
    penalty = Penalty(distance=DISTANCES["function_space"], kernel=kernels.Gaussian(), strength=2.0, sigma=0.3,
                      growth=0.7, newest=2)  # fmt: skip
    hills, forwards = Field(penalty, net.theta.vector, net), []
    hills.put(thetas[1:])
    net.module.register_forward_hook(lambda *_: forwards.append(1))
    hills.change(hills.evaluate(thetas[0], IMAGES[:5])[2], 0.1)
    assert len(forwards) == 3
    d = [squared("probe", [named[0], named[i]], [modules[0], modules[i]]) for i in (2, 3)]  # on five images, too
    grown = [2 + 0.1 * 0.7 * math.exp(-di / (2 * 0.3**2)) for di in d]
    assert hills.strengths.tolist() == pytest.approx([2, *grown], rel=1e-9)


def test_a_run_whose_hills_grow_keeps_its_norm_and_its_strengths(tmp_path: Any) -> None:
    """While hills act, ‖θ‖ is that of the checkpoint; a state brings the strengths back."""
    overrides = ("phases=distancing", "epochs=6", "penalty.growth=3", "penalty.fixed_norm=true")
    trainer = drive(build(*overrides), tmp_path)
    norm = trainer.checkpoints.parameters[0].norm().item()
    assert [row["parameter_norm"] for row in trainer.rows[3:]] == pytest.approx([norm] * 3, rel=1e-4)
    strengths = [row["strength/descend"] for row in trainer.rows[3:]]
    assert strengths == sorted(strengths)
    assert strengths[0] > trainer.config.penalty.strength
    other = build(*overrides)
    other.load_state_dict(trainer.state_dict(), RunDirectory(tmp_path))
    assert torch.equal(other.hills.strengths, trainer.hills.strengths)
    assert torch.equal(other.hills.norm, trainer.hills.norm)

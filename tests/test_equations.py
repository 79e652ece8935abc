"""The thesis's equations against float64 references that share no code with the project."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from distancing.component import component
from distancing.hills import distances
from distancing.hills.alignment import ALIGNMENT, align
from distancing.hills.distances import Distance, Elementwise, Euclidean
from distancing.hills.kernels import Gaussian, Kernel
from distancing.hills.penalty import Penalty
from distancing.hills.theta import Theta
from distancing.models import ResNet

DISTANCES = {"euclidean": Euclidean, "elementwise": Elementwise}


def reference(name: str, theta: Any, checkpoints: Any, s: float, sigmas: Any) -> tuple[float, Any]:
    """Return E (2.8, 2.9) and its gradient (2.12–2.18), by numpy, one checkpoint after the other."""
    energy, gradient = 0.0, np.zeros_like(theta)
    for checkpoint, sigma in zip(checkpoints, sigmas, strict=True):
        difference = theta - checkpoint
        d = difference**2 if name == "elementwise" else (difference**2).sum()
        k = np.exp(-d / (2 * sigma**2))
        energy += s * k.sum()
        gradient += s * (checkpoint - theta) / sigma**2 * k
    return energy, gradient


@given(
    name=st.sampled_from(sorted(DISTANCES)),
    k=st.integers(1, 5),
    p=st.integers(1, 40),
    s=st.floats(0, 100),
    sigma=st.floats(0.05, 20),
    seed=st.integers(0, 999),
)
@settings(max_examples=200, deadline=None)
def test_energy_and_gradient(name: str, k: int, p: int, s: float, sigma: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    theta, checkpoints, sigmas = generator.normal(size=p), generator.normal(size=(k, p)), sigma * (1 + np.arange(k))
    penalty = Penalty(distance=DISTANCES[name](), kernel=Gaussian(), strength=s, sigma=1.0)
    arguments = torch.tensor(theta), torch.tensor(checkpoints), torch.tensor(sigmas)
    energy, gradient, heights = penalty.energy(*arguments)
    expected, expected_gradient = reference(name, theta, checkpoints, s, sigmas)
    np.testing.assert_allclose(energy, expected, rtol=1e-10, atol=1e-300)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-9, atol=1e-12)
    for k_c in (heights, penalty.heights(*arguments)):
        np.testing.assert_allclose(k_c.sum() * s, expected, rtol=1e-10, atol=1e-300)


@pytest.mark.parametrize("distance", DISTANCES.values())
def test_what_a_newcomer_writes_has_the_same_gradient(distance: type[Distance]) -> None:
    """`__call__` alone is enough: autograd on the parameter vector agrees with the closed forms."""

    @component
    class Plain(Distance):
        def __call__(self, theta: Tensor, checkpoints: Tensor) -> Tensor:
            return distance()(theta, checkpoints)

    @component
    class Bell(Kernel):
        def __call__(self, d: Tensor, sigma: Tensor) -> Tensor:
            return torch.exp(-d / (2 * sigma**2))

    theta, checkpoints, widths = torch.randn(30).double(), torch.randn(4, 30).double(), torch.rand(4).double() + 3
    with torch.no_grad():  # as in the training step
        closed = Penalty(distance=distance(), kernel=Gaussian(), strength=2.0, sigma=1.0)
        plain = Penalty(distance=Plain(), kernel=Bell(), strength=2.0, sigma=1.0)
        for a, b in zip(
            closed.energy(theta, checkpoints, widths), plain.energy(theta, checkpoints, widths), strict=True
        ):
            torch.testing.assert_close(a, b)


def test_near_and_on_a_checkpoint_in_float32() -> None:
    """Direct differences keep what ‖θ‖² − 2θ·θ_c + ‖θ_c‖² would cancel; on the top the gradient is exactly 0."""
    checkpoint = torch.randn(100_000)
    theta = checkpoint + 1e-4 * torch.randn(100_000)
    exact = (theta.double() - checkpoint.double()).square().sum()
    assert abs(Euclidean()(theta, checkpoint[None]).double() / exact - 1) < 1e-5
    penalty = Penalty(distance=Euclidean(), kernel=Gaussian(), strength=3.0, sigma=1.0)
    energy, gradient, _ = penalty.energy(checkpoint, checkpoint[None], torch.ones(1))
    assert energy == 3
    assert not gradient.any()


@pytest.mark.parametrize("small", [0, distances.SMALL], ids=["in pieces", "at once"])
def test_distances_of_many_parameters_and_their_gradient(small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to compute them on a CPU round as little as float32 does, also close to a checkpoint and on it."""
    monkeypatch.setattr(distances, "SMALL", small)
    generator = torch.Generator().manual_seed(0)
    theta, noise = torch.randn(300_001, generator=generator), torch.randn(4, 300_001, generator=generator)
    checkpoints = theta + torch.tensor([[1.0], [1e-2], [1e-5], [0.0]]) * noise
    weights = torch.tensor([0.5, 3.0, 1e4, 7.0])
    d, pull = Euclidean().vjp(theta, checkpoints)
    difference = theta.double() - checkpoints.double()
    torch.testing.assert_close(d.double(), difference.square().sum(1), rtol=2e-5, atol=0.0)
    for chosen in (weights, torch.tensor([0.0, 0.0, 1e4, 7.0])):
        exact = 2 * (chosen.double() @ difference)
        assert (pull(chosen).double() - exact).norm() < 5e-7 * exact.norm()


def test_the_push_is_strongest_at_sigma() -> None:
    penalty = Penalty(distance=Euclidean(), kernel=Gaussian(), strength=5.0, sigma=2.0)
    away = torch.linspace(0.01, 10, 1000).double()
    push = torch.stack([penalty.energy(x[None], x.new_zeros(1, 1), x.new_tensor([2.0]))[1].abs()[0] for x in away])
    assert away[push.argmax()] == pytest.approx(2, abs=0.01)
    assert push.max() == pytest.approx(math.exp(-0.5) * 5 / 2, rel=1e-4)


@pytest.mark.parametrize(("unit", "length"), [("absolute", 1.0), ("norm", 5.0), ("travelled", 13.0)])
def test_units_of_sigma(unit: Any, length: float) -> None:
    checkpoint, start = torch.tensor([3.0, 4.0]), torch.tensor([3.0 + 5.0, 4.0 - 12.0])
    for distance, share in ((Euclidean(), 1.0), (Elementwise(), 1 / math.sqrt(2))):  # root mean square of two
        penalty = Penalty(distance=distance, kernel=Gaussian(), strength=1.0, sigma=0.5, sigma_unit=unit)
        expected = 0.5 if unit == "absolute" else 0.5 * length * share
        assert penalty.width(checkpoint, start).item() == pytest.approx(expected)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_flat_parameters_train_as_separate_ones_do(memory_format: torch.memory_format) -> None:
    """Twelve steps on the one vector are twelve steps of ordinary SGD; names and shapes survive the round trip."""

    def network() -> nn.Sequential:
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)]
        return nn.Sequential(*layers).to(memory_format=memory_format)

    flat, plain = network(), network()
    theta = Theta(flat)
    settings: dict[str, Any] = {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 2e-3}
    optimizers = torch.optim.SGD([theta.vector], **settings), torch.optim.SGD(plain.parameters(), **settings)
    for step in range(12):
        images = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        plain.zero_grad()
        for module, optimizer in zip((flat, plain), optimizers, strict=True):
            F.cross_entropy(module(images.to(memory_format=memory_format)), torch.arange(16) % 5).backward()
            if module is flat:
                theta.collect_gradient()
            optimizer.step()
    for (name, a), b in zip(flat.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        assert a.stride() == b.stride()
        assert theta.named(theta.vector)[name].data_ptr() == a.data_ptr()
    torch.testing.assert_close(theta.flatten(plain.state_dict()), theta.vector, rtol=1e-5, atol=1e-6)


def test_a_network_on_a_gpu_computes_with_aligned_parameters() -> None:
    """Copies begin at multiples of 32 bytes, leave the network's numbers as they are, and are gone after the pass."""
    torch.manual_seed(0)
    plain = ResNet(depth=8, width=3).build((1, 8, 8), 10)
    network, images, offsets = copy.deepcopy(plain), torch.randn(4, 1, 8, 8), []
    Theta(network)
    assert sum(p.data_ptr() % ALIGNMENT != 0 for p in network.parameters()) > 20
    align(network)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear):
            module.register_forward_pre_hook(lambda own, _: offsets.append(own.weight.data_ptr() % ALIGNMENT))
    loss, expected = network(images).square().sum(), plain(images).square().sum()
    assert offsets
    assert not any(offsets)
    assert loss == expected
    loss.backward()
    expected.backward()
    for (name, p), q in zip(network.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=0, atol=0)
        assert getattr(network.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) is p

"""The rivals of the hills, fast geometric ensembles and the like, against the formulas of their papers in float64."""

import itertools
import math
from typing import Any

import pytest
import torch
from conftest import TINY, only_run, result, start
from test_training import build, drive, settings, trainer_of
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import swa_utils

from distancing.data.batches import Epoch
from distancing.ensemble.__main__ import main as ensemble
from distancing.errors import DIVERGED
from distancing.hills.theta import Theta
from distancing.models.mlp import MLP
from distancing.runs import RunDirectory, load
from distancing.stored import find_checkpoints
from distancing.training.loop import train
from distancing.training.optimizers import SGD
from distancing.training.plan import Phase
from distancing.training.trainer import Trainer


def rates(trainer: Trainer, folder: Any) -> list[float]:
    """Train the run; return the learning rate of each step."""
    seen: list[float] = []
    trainer.stepper.optimizer.register_step_pre_hook(
        lambda optimizer, *_: seen.append(float(optimizer.param_groups[0]["lr"]))  # a tensor that changes
    )
    drive(trainer, folder)
    return seen


def test_fast_geometric_ensembles_have_the_rates_of_their_paper(tmp_path: Any) -> None:
    """Garipov et al. 2018, section 5: t(i) = (mod(i − 1, c) + 1) / c, and α(i) falls from α1 to α2 and rises again. A
    network is stored in the middle of each cycle. The conventional start has its whole schedule."""
    high, low, epochs, networks = 0.03, 0.001, 2, 3
    cycles = [f"phases.first.lr=[{high},{low}]", f"phases.first.epochs={epochs}", f"phases.cycle.times={networks - 1}"]
    trainer = build("phases=fge", "penalty=none", "optimizer.lr=0.1", "scheduler=cosine", "epochs=14", *cycles)
    seen = rates(trainer, tmp_path)
    cycle, begin = 2 * epochs * trainer.steps, 4 * trainer.steps
    for i, rate in enumerate(seen[begin:], 1):
        t = ((i - 1) % cycle + 1) / cycle
        expected = (1 - 2 * t) * high + 2 * t * low if t <= 0.5 else (2 - 2 * t) * low + (2 * t - 1) * high
        assert rate == pytest.approx(expected, rel=1e-9)
    assert seen[:begin] == rates(build("phases=single", "optimizer.lr=0.1", "epochs=4"), tmp_path / "single")
    ends = [info["epoch"] for info in trainer.checkpoints.infos]
    assert ends == [4 + epochs + 2 * epochs * k for k in range(networks)]
    assert [row["lr"] for row in trainer.rows] == seen[:: trainer.steps]


def iterates(trainer: Trainer, folder: Any) -> tuple[Tensor, list[float]]:
    """Train the run; return the parameters after each epoch [epochs, P] in float64, and the rate of each step."""
    seen: list[Tensor] = []
    steps = itertools.count(1)
    trainer.stepper.optimizer.register_step_post_hook(
        lambda *_: seen.append(trainer.theta.vector.double()) if next(steps) % trainer.steps == 0 else None
    )
    lr = rates(trainer, folder)
    return torch.stack(seen), lr


@pytest.mark.parametrize(("high", "low", "c"), [(0.05, 0.05, 1), (0.05, 0.002, 2)])
def test_swa_is_that_of_its_paper(high: float, low: float, c: int, tmp_path: Any) -> None:
    """Izmailov et al. 2018, Algorithm 1: w_SWA ← (w_SWA · n + w) / (n + 1) at the end of each cycle, from the ŵ of the
    start on; α(i) = (1 − t(i)) α1 + t(i) α2; batch norm's statistics are those of the average."""
    trainer = build("phases=swa", "penalty=none", "epochs=9", f"phases.swa.lr=[{high},{low}]",
                    f"phases.swa.average={c}", "phases.descend.epochs=3")  # fmt: skip
    theta, seen = iterates(trainer, tmp_path)
    expected = theta[2::c].mean(0)
    torch.testing.assert_close(trainer.theta.vector.double(), expected, rtol=1e-6, atol=1e-7)
    assert (trainer.theta.vector - theta[-1]).norm() > 1e-3
    assert not trainer.stepper.optimizer.state
    cycle = c * trainer.steps
    for i, rate in enumerate(seen[3 * trainer.steps :], 1):
        t = ((i - 1) % cycle + 1) / cycle
        assert rate == pytest.approx((1 - t) * high + t * low, rel=1e-9)
    stored = load(tmp_path / "checkpoints/swa.pt")["network"]
    assert torch.equal(trainer.theta.flatten(stored), trainer.theta.vector)
    network = trainer.config.build_network(trainer.device)
    network.load_state_dict(stored)
    swa_utils.update_bn([trainer.data.normalise(trainer.data.train.images)], network)
    for name, buffer in network.named_buffers():
        torch.testing.assert_close(stored[name], buffer, msg=name)


SWAG = ["phases=swag", "epochs=8", "phases.swag.rank=3", "phases.swag.samples=4", "phases.descend.epochs=2"]


def test_swag_draws_from_the_gaussian_of_its_paper(tmp_path: Any) -> None:
    """Maddox et al. 2019, Algorithm 1 with K = 3: moments from the θ_0 of the start on, deviations from the running
    mean. The stored networks are (1) of the paper for the same z; so are the moments of many samples."""
    trainer = build(*SWAG, "penalty=none", "phases.swag.lr=[0.05,0.05]", "optimizer.momentum=0")
    theta, _ = iterates(trainer, tmp_path)
    used = theta[1:]
    mean, diagonal = used.mean(0), (used**2).mean(0) - used.mean(0) ** 2
    deviations = torch.stack([used[i] - used[: i + 1].mean(0) for i in range(len(used))][-3:])
    assert trainer.average is not None
    generator = torch.Generator().manual_seed(trainer._phase_seed())
    for i in range(1, 5):
        z_1, z_2 = (torch.randn(n, generator=generator).double() for n in (len(mean), 3))
        expected = mean + diagonal.clamp(0).sqrt() * z_1 / 2**0.5 + z_2 @ deviations / (2 * (3 - 1)) ** 0.5
        state = load(tmp_path / f"checkpoints/swag-sample-{i}.pt")["network"]
        torch.testing.assert_close(trainer.theta.flatten(state).double(), expected, rtol=1e-4, atol=1e-6)
        network = trainer.config.build_network(trainer.device)
        network.load_state_dict(state)
        swa_utils.update_bn([trainer.data.normalise(trainer.data.train.images)], network)
        for name, buffer in network.named_buffers():
            torch.testing.assert_close(state[name], buffer, msg=name)
    samples = torch.stack([trainer.average.sample(generator) for _ in range(4000)])[:, :50].double()
    covariance = (diagonal.diag()[:50, :50] + deviations.T[:50] @ deviations[:, :50] / (3 - 1)) / 2
    error = torch.cov(samples.T) - covariance
    deviation = (
        (covariance.diag().outer(covariance.diag()) + covariance**2).div(4000).sqrt()
    )  # of a sample's covariance
    assert (error.abs() / deviation.clamp_min(1e-12)).max() < 6


@pytest.mark.slow
def test_a_run_of_swag_is_an_ensemble_of_its_samples(tmp_path: Any) -> None:
    """The average of SWA is its final network, and no member."""
    assert start(*TINY, *SWAG, f"runs={tmp_path}") == 0
    run = only_run(tmp_path)
    content = result(run)
    names = [f"swag-sample-{i}" for i in range(1, 5)]
    assert content["ensemble"]["members"] == names
    assert [member.name for member in find_checkpoints([run])] == names
    networks = [*content["checkpoints"], content["final"]]
    assert [info["epoch"] for info in networks] == [8] * 5
    assert [info["forward"] for info in networks] == [9, 10, 11, 12, 13]  # batch norm takes a pass for each
    assert [info["backward"] for info in networks] == [8] * 5
    assert content["final"]["distances"]["swag-sample-1"] > 0
    assert ensemble([str(run), "--json", str(tmp_path / "scores.json")]) == 0

    diverges = ["+phases.last.lr=[1e35,1e35]", "+phases.last.epochs=1", "epochs=9"]
    assert start(*TINY, *SWAG, *diverges, f"runs={tmp_path}/diverged") == DIVERGED
    assert [member.name for member in find_checkpoints([only_run(tmp_path / "diverged")])] == names


CSGMCMC = ["phases=csgmcmc", "epochs=8", "phases.cycle.times=2", "optimizer.lr=0.02"]


def test_cyclical_sgmcmc_has_the_cycles_of_its_paper(tmp_path: Any) -> None:
    """Zhang et al. 2020: α_k = α_0 / 2 · (cos(π mod(k − 1, K/M) / (K/M)) + 1), and noise in the last part of a cycle
    alone, where random numbers are drawn. A network is stored at the end of each cycle."""
    trainer = build(*CSGMCMC, "penalty=none", "phases.cycle.phases.explore.epochs=3")
    states = [torch.get_rng_state()]
    trainer.stepper.optimizer.register_step_post_hook(lambda *_: states.append(torch.get_rng_state()))
    seen = rates(trainer, tmp_path)
    cycle = len(seen) // 2
    expected = [0.02 / 2 * (math.cos(math.pi * (k % cycle) / cycle) + 1) for k in range(len(seen))]
    assert seen == pytest.approx(expected, rel=1e-9)
    drew = [not torch.equal(before, after) for before, after in itertools.pairwise(states)]
    assert drew == ([False] * 3 * trainer.steps + [True] * trainer.steps) * 2
    assert trainer.checkpoints.names == ["sample-1", "sample-2"]
    assert not trainer.stepper.optimizer.state  # the velocity starts again at zero


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_a_noisy_step_is_that_of_langevin_dynamics(momentum: float) -> None:
    """A step is that of the papers, with U = N · loss, α = ε/N and temperature T.

    SGLD is θ − α∇U + √(2αT) ξ (Welling & Teh 2011). SGHMC has the velocity (1 − η)v − α∇U + √(2ηαT) ξ with friction η
    (Chen et al. 2014, equation 15).
    """
    lr, l2, temperature, eta = 0.01, 0.02, 0.7, 1 - momentum
    optimizer = SGD(lr=lr, momentum=momentum, l2=l2)
    trainer = trainer_of(settings(optimizer=optimizer, penalty=None, phases={"sample": Phase(temperature=temperature)}))
    alpha, n = lr / 60, 60
    network = MLP(width=9).build((1, 8, 8), 10).double()
    velocity = torch.zeros(len(trainer.theta), dtype=torch.float64)
    trainer.begin_epoch()
    for images, labels in Epoch(trainer.data, 16, 0, 0).batches():
        before, state = trainer.theta.vector.double(), torch.get_rng_state()
        network.load_state_dict(trainer.network.state_dict())
        parameters = sorted(network.parameters(), key=lambda p: p.dim() < 2)  # weights first
        theta = nn.utils.parameters_to_vector(parameters)
        u = n * (F.cross_entropy(network(images.double()), labels) + l2 * (theta**2).sum())
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(u, parameters)])
        trainer.step()
        with torch.random.fork_rng():
            torch.set_rng_state(state)
            xi = -torch.randn(len(theta)).double()
        velocity = (1 - eta) * velocity - alpha * gradient + math.sqrt(2 * eta * alpha * temperature) * xi
        torch.testing.assert_close(trainer.theta.vector.double(), before + velocity, rtol=1e-6, atol=1e-7)
        assert velocity.norm() > 1.1 * (alpha * gradient).norm()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_noisy_steps_sample_the_density(momentum: float) -> None:
    """2,550 coordinates, each of the loss hθ²/2: their variance becomes T/h."""
    optimizer = SGD(lr=0.02, momentum=momentum)
    theta = Theta(nn.Linear(50, 50))
    torch_optimizer, h, temperature = optimizer.build(theta), 2.0, 0.3
    torch.manual_seed(0)
    with torch.no_grad():
        for _ in range(600):
            noise = optimizer.noise(0.02, temperature) * torch.randn_like(theta.vector)
            theta.gradient.copy_(h * theta.vector + noise)
            torch_optimizer.step()
    assert theta.vector.var().item() == pytest.approx(temperature / h, rel=0.1)


@pytest.mark.parametrize("rival", [
    [*CSGMCMC, "model=mobilenetv2", "model.width=0.1", "model.dropout=0.3"],
    [*SWAG, "phases.swag.checkpoint=true"],
    ["phases=swa", "epochs=7", "phases.swa.lr=[0.05,0.01]", "phases.swa.average=2", "phases.descend.epochs=1"],
])  # fmt: skip
@pytest.mark.slow
def test_a_rival_resumes_with_the_same_bits(rival: list[str], tmp_path: Any) -> None:
    """Stopped after each step, and resumed from what was stored by a new trainer."""

    def networks(folder: Any) -> dict[str, Any]:
        return {file.name: load(file)["network"] for file in sorted((folder / "checkpoints").glob("*.pt"))}

    whole = drive(build(*rival), tmp_path / "whole")
    with RunDirectory(tmp_path / "parts") as directory:
        over = False
        while not over:
            parts = build(*rival)
            if state := directory.load_state(parts.device, print):
                parts.load_state_dict(state, directory)
            over = train(parts, directory, lambda *_: "stop", lambda _: None, lambda: None)
    assert torch.equal(whole.theta.vector, parts.theta.vector)
    one, other = networks(tmp_path / "whole"), networks(tmp_path / "parts")
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name][key]) for name in one for key, value in one[name].items())


REFUSED = {
    "phases.train.lr=[0.1]": "phases.train.lr=[0.1]: list should have at least 2 items",
    "phases.train.lr=[0.1,-1]": "phases.train.lr.1=-1: input should be greater than or equal to 0",
    "phases.train.lr=[0.1,0] phases.train.restart_schedule=true": "phases.train: lr replaces the schedule and would",
    "phases.train.lr=[0.1,0] +phases.last.epochs=1": "phases.last follows train, which has an lr of its own: set its",
    "phases.train.average=1 phases.train.rank=3": "phases.train: SWAG needs all three of average, rank and samples",
    "phases=swag phases.swag.rank=1": "phases.swag.rank=1: input should be greater than or equal to 2",
    "phases=swag epochs=30": "phases.swag has 15 epochs, and its average needs 20 or more",
    "phases=swag epochs=99 +phases.swag-sample-2={checkpoint:true,lr:[1,1]}": "two checkpoints are named swag-sample-2",
    "phases.train.temperature=1 optimizer=adam": "phases.train.temperature=1.0: only SGD without",
    "phases.train.temperature=1 optimizer=nesterov": "phases.train.temperature=1.0: only SGD without",
    "phases.train.average=80": "phases.train has 70 epochs, and its average needs 80 or more",
    "phases.train.average=1 phases.train.until_loss=1": "phases.train: average needs the whole phase: set until_loss",
}


@pytest.mark.parametrize("overrides", REFUSED)
def test_refused_in_one_line(overrides: str, tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert start(f"runs={tmp_path}/runs", "phases=single", *overrides.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {REFUSED[overrides]}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("probe", "forward", "backward"), [("null", 2 + 2 * 3, 2 + 2 * 2), ("16", 4 + 2, 4 + 2)])
def test_passes_over_the_training_images(probe: str, forward: int, backward: int, tmp_path: Any) -> None:
    """Two phases of two epochs of three steps. In the second, a hill in function space takes more passes: of the
    network and its checkpoint on each batch, or of the network alone on 16 images in each step."""
    hills = ["penalty=function_space", f"penalty.distance.probe={probe}"]
    trainer = drive(build("phases=distancing", "epochs=4", *hills), tmp_path)
    assert trainer.final is not None
    assert (trainer.final["forward"], trainer.final["backward"]) == (forward, backward)
    assert trainer.checkpoints.infos[0]["forward"] == 2


@pytest.mark.parametrize(("model", "forward"), [("mlp", 4), ("resnet8", 5)])
def test_a_pass_for_the_batch_norms_counts_if_there_are_any(model: str, forward: int, tmp_path: Any) -> None:
    trainer = drive(build(f"model={model}", "model.width=2", "phases=swa", "epochs=4"), tmp_path)
    assert trainer.final is not None
    assert trainer.final["forward"] == forward

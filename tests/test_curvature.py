"""The plane, sharpness and gradients: against closed forms, dense Hessians in float64, and rescaled networks."""

import copy
import csv
import dataclasses
import math
import shutil
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from conftest import TINY, compose, one_epoch, only_run, result, start
from torch import Tensor, nn
from torch.nn import functional as F

from distancing.config.checks import check, read_config
from distancing.data.batches import Data
from distancing.errors import LandscapeError
from distancing.hills.distances import Euclidean
from distancing.hills.kernels import Laplace
from distancing.hills.theta import Theta
from distancing.landscape import units
from distancing.landscape.__main__ import main as cli
from distancing.landscape.curvature import largest_eigenvalue, relative, trace_samples
from distancing.landscape.gradients import Gradients
from distancing.landscape.loss import Loss
from distancing.landscape.plane import Frame, Plane, hills
from distancing.landscape.sharpness import Sharpness, worst
from distancing.landscape.subject import Subject
from distancing.runs.metrics_file import GRADIENTS, PUSHED
from distancing.stored import find_checkpoints
from distancing.training.gradients import cosine_and_ratio, gradients
from distancing.training.trainer import Trainer

CPU = torch.device("cpu")
CYCLES = [*TINY, "phases=cycles", "phases.cycle.times=2", "epochs=15", "optimizer.lr=0.1"]
QUICK = {"radii": [0.05, 0.2], "directions": 3, "ascent_steps": 4, "eigenvalue_steps": 15, "probes": 4}


def track(items: Any, _: str, total: int) -> Any:
    assert total > 0
    return items


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run with the checkpoints descend, settle-1 and settle-2, and all three analyses."""
    folder = tmp_path_factory.mktemp("run")
    quick = [f"analysis.sharpness.{key}={value}" for key, value in QUICK.items()]
    analyses = ["analysis=[sharpness,plane,gradients]", *quick, "analysis.plane.points=3"]
    assert start(*CYCLES, *analyses, f"runs={folder}") == 0
    return only_run(folder)


@pytest.fixture(scope="module")
def subject(run: Path) -> Subject:
    return Subject(find_checkpoints([run]), CPU, 40)


@pytest.fixture(scope="module")
def data() -> Data:
    return check(compose(*TINY)).dataset.load(CPU)


def loss_of(network: nn.Module, data: Data) -> Loss:
    return Loss(network.eval(), Theta(network), data, data.train, lambda: None)


# the Hessian


def test_products_equal_those_of_the_dense_hessian(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64 and over several batches. Lanczos' and Hutchinson's estimates are its eigenvalue and its trace."""
    monkeypatch.setattr("distancing.landscape.loss.BATCH", 20)
    monkeypatch.setattr("distancing.landscape.loss.PIXELS", 1)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.ReLU(), nn.Linear(3, 10)).double()
    network.register_parameter("unused", nn.Parameter(torch.ones(2).double()))
    loss = loss_of(network, data)
    theta, images = loss.theta, data.normalise(data.train.images).double()

    def mean(vector: Tensor) -> Tensor:
        logits = torch.func.functional_call(network, theta.named(vector), (images,))
        return F.cross_entropy(logits, data.train.labels)

    vector = theta.vector.clone()
    dense, scale = torch.func.jacrev(torch.func.grad(mean))(vector), units.scale(theta, "filter")
    value, gradient = loss.value_and_gradient()
    assert loss.value() == pytest.approx(value) == pytest.approx(float(mean(vector)))
    torch.testing.assert_close(gradient, torch.func.grad(mean)(vector))
    generator = torch.Generator().manual_seed(0)
    for unit, matrix in ((torch.ones_like(scale), dense), (scale, scale[:, None] * dense * scale)):
        product = relative(loss.product, unit)
        v = units.random_step(theta, "element", generator)
        torch.testing.assert_close(product(v), matrix @ v)
        largest = float(torch.linalg.eigvalsh(matrix)[-1])
        ritz = [*islice(largest_eigenvalue(product, v, 1e-9), 300)]
        assert all(value <= largest * (1 + 1e-9) for value, _ in ritz)
        estimate, error = ritz[-1]
        assert estimate == pytest.approx(largest, rel=1e-9)
        assert 0 <= error <= 1e-9 * estimate
        signs = torch.randn(200, len(theta), dtype=torch.float64).sign()
        samples = trace_samples((relative(term, unit) for term in loss.products()), signs)
        torch.testing.assert_close(samples, torch.einsum("kp,pq,kq->k", signs, matrix, signs))
        assert abs(samples.mean() - matrix.trace()) < 4 * samples.std() / 200**0.5
        # the variance over independent signs is 2 Σ_{i≠j} H_ij²
        deviation = (2 * (matrix.square().sum() - matrix.diag().square().sum())).sqrt()
        assert float(samples.std()) == pytest.approx(float(deviation), rel=0.2)
    assert torch.equal(theta.vector, vector)


def test_a_spectrum_with_a_large_negative_end() -> None:
    """The largest eigenvalue is not that of the largest magnitude; samples of a diagonal matrix's trace are exact."""
    values = torch.linspace(-50, 3, 200, dtype=torch.float64)
    ones = torch.ones(200, dtype=torch.float64)
    *_, (largest, error) = islice(largest_eigenvalue(lambda v: values * v, ones, 1e-6), 300)
    assert largest == pytest.approx(3, abs=error)
    assert [*map(math.isnan, next(largest_eigenvalue(lambda v: v / 0, ones, 1e-6)))] == [True, True]
    signs = torch.randn(5, 200, dtype=torch.float64).sign()
    assert trace_samples([lambda v: values * v], signs).tolist() == pytest.approx([float(values.sum())] * 5)


class Quadratic:
    """½ θᵀAθ, with the interface of Loss."""

    def __init__(self, a: Tensor, theta: Any) -> None:
        self.a, self.theta = a, theta

    def value(self) -> float:
        return float(self.theta.vector @ self.a @ self.theta.vector / 2)

    def value_and_gradient(self) -> tuple[float, Tensor]:
        return self.value(), self.a @ self.theta.vector


def test_the_worst_place_of_a_quadratic_loss() -> None:
    """The worst rise from its minimum is ½ ρ² λ, for the largest eigenvalue λ of D A D."""
    torch.manual_seed(0)
    half, scale = torch.randn(6, 6, dtype=torch.float64), torch.rand(6, dtype=torch.float64) + 0.5
    theta = type("Vector", (), {"vector": torch.zeros(6, dtype=torch.float64)})
    loss: Any = Quadratic(half @ half.T, theta)
    largest = float(torch.linalg.eigvalsh(scale[:, None] * loss.a * scale)[-1])
    start = F.normalize(torch.ones(6, dtype=torch.float64), dim=0)
    rises = [worst(loss, lambda u: theta.vector.copy_(scale * u), [start], scale, 0.3, steps) for steps in (1, 3, 200)]
    assert rises == sorted(rises)
    assert rises[-1] == pytest.approx(0.3**2 * largest / 2)


def test_the_worst_place_of_a_perceptron() -> None:
    """Projected gradient ascents in float64, with shorter steps and from where one class's logit rises, find no higher
    place; without a start from each class Sharpness misses it."""
    config = check(compose("model=mlp", "model.width=16", "dataset.train_images=300"))
    data = config.dataset.load(CPU)
    images, labels = data.normalise(data.train.images), data.train.labels
    torch.manual_seed(0)
    network = config.model.build((1, 8, 8), 10)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()
    optimizer.zero_grad()
    loss, rises = loss_of(network, data), {}
    for starts in (0, 10):
        analysis = Sharpness(radii=[0.2], starts=starts, directions=2, eigenvalue_steps=1, probes=2)
        (rises[starts],) = (row["value"] for row in analysis.measure(loss, "it") if row["measure"] == "rise_worst")

    theta, place, scale = loss.theta, loss.theta.vector.double(), units.scale(loss.theta, "filter").double()
    exact = copy.deepcopy(network).double()

    def logits(u: Tensor) -> Tensor:
        return torch.func.functional_call(exact, theta.named(place + scale * u), (images.double(),))

    def height(u: Tensor) -> Tensor:
        return F.cross_entropy(logits(u), labels)

    highest, nothing = 0.0, torch.zeros_like(place)
    for label in range(10):
        u = 0.2 * F.normalize(torch.func.grad(lambda u, label=label: logits(u)[:, label].mean())(nothing), dim=0)
        for _ in range(40):
            slope, value = torch.func.grad_and_value(height)(u)
            highest = max(highest, float(value - height(nothing)))
            u = u + 0.05 * F.normalize(slope, dim=0)
            u *= min(1.0, 0.2 / float(u.norm()))
    assert rises[0] < 0.8 * highest
    assert 0.98 * highest < rises[10]


# rescaled networks


def mlp_by_layers(network: nn.Module) -> None:
    """Multiply the first layer with its bias by three and divide the next one by three."""
    network[1].weight *= 3
    network[1].bias *= 3
    network[3].weight /= 3


def mlp_by_units(network: nn.Module) -> None:
    """Scale each hidden unit by its own factor."""
    factors = torch.linspace(0.3, 3, 6)
    network[1].weight *= factors[:, None]
    network[1].bias *= factors
    network[3].weight /= factors


def before_batch_norm(network: nn.Module) -> None:
    """Scale every filter of three convolutions by its own factor, which the next batch norm undoes."""
    for conv, norm in (("conv1", "bn1"), ("layer2.0.conv1", "layer2.0.bn1"), ("layer3.0.conv2", "layer3.0.bn2")):
        filters, normed = network.get_submodule(conv).weight, network.get_submodule(norm)
        factors = torch.linspace(0.1, 3, len(filters))
        filters *= factors[:, None, None, None]
        normed.running_mean *= factors
        normed.running_var *= factors**2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rescale", "unit", "tolerance"),
    [
        (mlp_by_layers, "filter", 1e-3),
        (mlp_by_layers, "element", 1e-3),
        (mlp_by_units, "element", 1e-3),
        (before_batch_norm, "filter", 2e-3),  # batch norm's ε is not scaled
        (before_batch_norm, "element", 2e-3),
    ],
)
def test_a_rescaled_network_is_as_sharp(
    rescale: Callable[[nn.Module], None], unit: units.Unit, tolerance: float, subject: Subject, data: Data
) -> None:
    """The function and its relative sharpness stay the same; the raw Hessian's values change (Dinh et al. 2017)."""
    torch.manual_seed(1)
    if rescale is before_batch_norm:
        network = find_checkpoints([subject.checkpoints[2].file])[0].network(CPU)  # trained
    else:
        network = check(compose(*TINY, "model=mlp", "model.width=6")).model.build((1, 8, 8), 10)
    analysis, measures, logits = Sharpness(unit=unit, tolerance=0, **QUICK), [], []
    for _ in range(2):
        loss = loss_of(network, data)
        measures.append({(row["measure"], row["radius"]): row["value"] for row in analysis.measure(loss, "name")})
        with torch.no_grad():
            logits.append(network(data.normalise(data.test.images)))
            rescale(network)
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-3, atol=1e-2)
    for (measure, radius), value in measures[0].items():
        same = measures[1][measure, radius] == pytest.approx(value, rel=tolerance)
        raw = measure in ("hessian_max", "hessian_trace")
        assert same != raw, (measure, radius, value, measures[1][measure, radius])


def test_units(subject: Subject) -> None:
    """A random step moves every filter by its own norm, in any layout. Biases and batch norms are elements."""
    steps = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        network = subject.checkpoints[0].network(CPU).to(memory_format=memory_format)
        theta = Theta(network)
        u = units.random_step(theta, "filter", torch.Generator().manual_seed(3))
        steps.append(theta.named(units.scale(theta, "filter") * u))
    scale = theta.named(units.scale(theta, "filter"))
    for name, value in network.named_parameters():
        torch.testing.assert_close(steps[0][name], steps[1][name])
        if value.dim() == 1:
            assert not steps[0][name].any()
            assert torch.equal(scale[name], value.abs())
        else:
            torch.testing.assert_close(steps[0][name].flatten(1).norm(dim=1), value.detach().flatten(1).norm(dim=1))
    u = units.random_step(theta, "element", torch.Generator().manual_seed(3))
    assert u.square().mean().item() == pytest.approx(1)
    assert torch.equal(units.scale(theta, "element"), theta.vector.abs())


@pytest.mark.slow
def test_sharpness_of_a_run(subject: Subject, run: Path) -> None:
    """The worst point is higher than random ones as far away. Nothing is left changed. A second call agrees."""
    before = {name: value.clone() for name, value in subject.network.state_dict().items()}
    analysis = Sharpness(**QUICK)
    first, again = analysis(subject, track), analysis(subject, track)
    assert first.values == again.values
    assert first.values != Sharpness(**QUICK, seed=1)(subject, track).values
    assert all(torch.equal(value, before[name]) for name, value in subject.network.state_dict().items())
    assert all(parameter.grad is None for parameter in subject.network.parameters())
    with subject.at(subject.parameters[1]):
        loss = Loss(subject.network, subject.theta, subject.data, subject.data.train, lambda: None)
        base, scale = loss.value(), units.scale(subject.theta, "filter")
        generator, rises = torch.Generator().manual_seed(0), []
        for _ in range(3):
            u = units.random_step(subject.theta, "filter", generator)
            subject.theta.vector.copy_(subject.parameters[1] + 0.2 * scale * u)
            rises.append(loss.value() - base)
        assert first.values["settle-1/rise_random_0.2"] == pytest.approx(np.mean(rises), rel=1e-3)
        for i in range(10):
            subject.theta.vector.copy_(subject.parameters[1])
            u = F.normalize(units.random_step(subject.theta, "filter", torch.Generator().manual_seed(i)), dim=0)
            subject.theta.vector.copy_(subject.parameters[1] + 0.2 * scale * u)
            assert loss.value() - base < first.values["settle-1/rise_worst_0.2"]
    for name in subject.names:
        assert first.values[f"{name}/rise_worst_0.05"] < first.values[f"{name}/rise_worst_0.2"]
    assert result(run)["analysis"]["sharpness"].keys() == first.values.keys()


# the plane


def test_the_plane_passes_through_its_checkpoints(subject: Subject) -> None:
    before = {name: value.clone() for name, value in subject.network.state_dict().items()}
    plane = Plane(points=5, through=["settle-2", "descend", "settle-1"])
    findings = plane(subject, track)
    assert findings.rows == plane(subject, track).rows
    assert all(torch.equal(value, before[name]) for name, value in subject.network.state_dict().items())
    assert len(findings.rows) == 5 * 5 + 3 * 5 + 1
    edges = [row for row in findings.rows if row["part"] == "edge"]
    losses = []
    for row, i in zip(edges[::5], (2, 0, 1), strict=True):
        with subject.at(subject.parameters[i]):
            for split in ("train", "test"):
                loss, correct = subject.losses(split)
                assert row[f"{split}/loss"] == pytest.approx(float(loss.mean()), rel=1e-4)
                assert row[f"{split}/accuracy"] == float(correct.mean())
        losses.append(float(loss.mean()))
    with subject.at(subject.parameters.mean(0)):
        assert findings.values["test_centre"] == pytest.approx(float(subject.losses("test")[0].mean()), rel=1e-4)
    with subject.at(subject.parameters[2].lerp(subject.parameters[0], 0.4)):
        assert edges[2]["test/loss"] == pytest.approx(float(subject.losses("test")[0].mean()), rel=1e-4)
    assert findings.values["test_corners_max"] == pytest.approx(max(losses), rel=1e-4)
    assert findings.values["test_edges_max"] == max(float(row["test/loss"]) for row in edges)
    grid = [float(row["test/loss"]) for row in findings.rows if row["part"] == "grid"]
    low = [loss for loss in grid if loss <= findings.values["test_corners_max"]]
    assert findings.values["test_low_share"] == len(low) / 25
    assert findings.values["off_plane_max"] < 1e-5


def test_the_highest_corner_of_a_plane_bounds_the_low_share() -> None:
    """Here the edges rise above the corners, whose losses are 1, 2 and 3."""
    losses = {"edge": [1, 9, 9, 2, 9, 9, 3, 9, 9], "grid": [0, 3, 4, 8], "centre": [5]}
    rows: list[dict[str, float | str]] = [
        {"part": part, "train/loss": loss, "test/loss": loss} for part, values in losses.items() for loss in values
    ]
    values = Plane(points=3)._values(rows)
    names = ("corners_max", "edges_max", "centre", "low_share")
    assert [values[f"test_{name}"] for name in names] == [3, 9, 5, 0.5]


def test_geometry_of_a_plane() -> None:
    """Lengths on it are those of parameter space, and points off it are at their distance from it."""
    corners = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    frame = Frame(corners)
    a, b, c = (torch.tensor(frame.project(corner)) for corner in corners)
    assert a.abs().max() < 1e-6
    assert b[0] == pytest.approx((corners[1] - corners[0]).norm())
    assert torch.stack((b, c)).T[1:, 0].abs().max() < 1e-6
    assert (b - c).norm() == pytest.approx((corners[1] - corners[2]).norm())
    off = torch.randn(50, dtype=torch.float64)
    off -= frame.x.dot(off) * frame.x + frame.y.dot(off) * frame.y
    assert frame.project(frame.point(1.5, -2) + off) == pytest.approx((1.5, -2, float(off.norm())), abs=1e-5)
    for third in (corners[0], corners[1], corners[0].lerp(corners[1], 3.0)):
        with pytest.raises(LandscapeError, match="lie on one line"):
            Frame(torch.stack((corners[0], corners[1], third)))
    with pytest.raises(LandscapeError, match="lie on one line"):
        Frame(corners[[0, 0, 2]])


def test_the_hills_on_a_plane(subject: Subject, run: Path) -> None:
    """All checkpoints but the last have a hill, as wide as in training."""
    sigma = read_config(run / ".hydra/config.yaml").penalty.sigma  # type: ignore[union-attr]
    distances = (subject.parameters - subject.start).norm(dim=1)
    assert dict(hills(subject)) == pytest.approx({i: sigma * float(distances[i]) for i in (0, 1)})
    penalty = subject.config.penalty
    assert penalty is not None
    single = check(compose("phases=snapshot"))  # no phase has hills
    with patch.object(subject, "config", dataclasses.replace(subject.config, phases=single.phases)):
        assert hills(subject) == []
    others: tuple[dict[str, Any], ...] = ({"kernel": Laplace()}, {"distance": Euclidean(parameters="weights")})
    for other in others:  # whose σ is no radius of exp(−1/2) in parameter space
        config = dataclasses.replace(subject.config, penalty=dataclasses.replace(penalty, **other))
        with patch.object(subject, "config", config):
            assert hills(subject) == []


# the gradients


@pytest.mark.parametrize(("away", "pushed"), [(0.02, 3), (0.0, 2), (9.0, 0)])
def test_gradient_statistics_of_the_steps(away: float, pushed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cosine, ratio and angle of each pushed step from its vectors in float64, then the epoch's deciles.

    A hill does not push the first step if that is on its top, and none far away from it.
    """
    config = check(compose(*TINY, "penalty.sigma=1.5", "penalty.sigma_unit=absolute", "phases.descend.penalty=true"))
    trainer = Trainer(config, config.dataset.load(CPU), CPU)
    trainer.add_checkpoint({"name": "descend", "epoch": 0}, trainer.theta.vector + away)
    steps, push = [], trainer.stepper.push

    def watched(images: torch.Tensor) -> Any:
        theta, centres, widths = trainer.theta, trainer.checkpoints.parameters, trainer.hills.widths
        g = theta.gradient.double().clone()
        record = push(images)
        total = theta.gradient.double()
        h = config.penalty.energy(theta.vector.double(), centres.double(), widths.double())[1]  # type: ignore[union-attr]
        cosine, turn = F.cosine_similarity(g, h, dim=0), F.cosine_similarity(g, total, dim=0)
        if h.any():
            steps.append([float(cosine), float(h.norm() / g.norm()), math.degrees(math.acos(turn))])
        return record

    monkeypatch.setattr(trainer.stepper, "push", watched)
    one_epoch(trainer)
    trainer.end_epoch()
    assert len(steps) == pushed
    (row,) = trainer.rows
    assert row["gradient_pushed"] == pytest.approx(pushed / 3)  # steps of 16 images each
    if not steps:
        assert all(row[name] is None for name in GRADIENTS)
        return
    reference = np.array(steps).T
    assert row["gradient_cosine"] == pytest.approx(reference[0].mean(), rel=1e-3)
    for name, values in zip(("cosine", "ratio", "angle"), reference, strict=True):
        for part, q in (("_p10", 0.1), ("_p90", 0.9), *((("", 0.5),) if name != "cosine" else ())):
            assert row[f"gradient_{name}{part}"] == pytest.approx(np.quantile(values, q), rel=1e-3), name


def test_a_short_last_step_weighs_less() -> None:
    nan = math.nan
    cosines, ratios, weights = torch.tensor([[0.2, nan, 0.4], [1.0, 0.0, 3.0], [0.4, 0.4, 0.2]]).double()
    columns = gradients(cosines, ratios, weights)
    assert columns["gradient_pushed"] == pytest.approx(0.6)
    assert columns["gradient_cosine"] == pytest.approx((0.2 * 0.4 + 0.4 * 0.2) / 0.6)
    assert columns["gradient_ratio"] == pytest.approx(2)


@pytest.mark.parametrize("long", [1e-40, 1e-35, 1.0, 1e25])
@pytest.mark.parametrize("short", [1e-35, 1e-20, 1.0])
def test_cosine_and_ratio_of_any_size(long: float, short: float) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 3000)
    cosine, ratio = cosine_and_ratio(short * a, long * b)
    a64, b64 = (short * a).double(), (long * b).double()
    assert float(cosine) == pytest.approx(float(F.cosine_similarity(a64, b64, dim=0, eps=0)), rel=1e-3)
    largest = torch.finfo(torch.float32).max
    assert float(ratio) == pytest.approx(min(float(b64.norm() / a64.norm()), largest), rel=1e-4)
    nothing = torch.zeros(3000)
    cosine, ratio = cosine_and_ratio(short * a, nothing)
    assert cosine.isnan()
    assert ratio == 0
    assert cosine_and_ratio(nothing, nothing)[0].isnan()
    cosine, ratio = cosine_and_ratio(nothing, long * b)
    assert cosine.isnan()
    assert ratio == largest


def test_gradients_of_a_run(subject: Subject, run: Path) -> None:
    with open(run / "metrics.csv", newline="") as file:
        acting = [row for row in csv.DictReader(file) if row["phase"].startswith("escape")]
    values = Gradients()(subject, track).values
    assert values == result(run)["analysis"]["gradients"]
    assert values["epochs"] == len(acting) == 6
    column = {name: np.array([float(row[name]) for row in acting]) for name in GRADIENTS}
    assert values["cosine_mean"] == pytest.approx(column["gradient_cosine"].mean())
    assert values["angle_median"] == pytest.approx(np.median(column["gradient_angle"]))
    assert values["angle_max"] == column["gradient_angle_p90"].max()
    assert values["ratio_median"] == np.median(column["gradient_ratio"])
    assert values["escape-1/ratio_first"] == column["gradient_ratio"][0]
    assert values["escape-2/angle_last"] == column["gradient_angle"][-1]
    assert values["cosine_random"] == pytest.approx(len(subject.theta) ** -0.5)
    assert values["pushed_share"] == pytest.approx(np.mean([float(row[PUSHED]) for row in acting]))
    assert float(acting[0][PUSHED]) < 1  # the first step is on the hill's top
    assert 0 <= values["orthogonal_share"] <= 1


@pytest.mark.parametrize("earlier", [False, True])
def test_epochs_without_a_push_have_no_cosine(earlier: bool, run: Path, tmp_path: Path) -> None:
    """Nor in files of an earlier version, which wrote 0 and no share."""
    copy = shutil.copytree(run, tmp_path / run.name)
    with open(copy / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    acting = [row for row in rows if row[PUSHED]]
    for row in acting[1:]:
        row |= dict.fromkeys(GRADIENTS, "0.0" if earlier else "") | {PUSHED: "0.0"}
    acting[0] |= {"gradient_cosine": "-0.3", "gradient_cosine_p10": "-0.4", "gradient_cosine_p90": "-0.2"}

    def values() -> Mapping[str, float]:
        with open(copy / "metrics.csv", "w", newline="") as file:
            columns = [name for name in rows[0] if not (earlier and name == PUSHED)]
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        return Gradients()(Subject(find_checkpoints([copy]), CPU, 40), track).values

    first = values()
    assert first["epochs"] == len(acting)
    assert (first["cosine_mean"], first["orthogonal_share"]) == (-0.3, 0)
    assert first["escape-1/ratio_last"] == 0
    share = math.nan if earlier else float(acting[0][PUSHED]) / len(acting)
    assert first["pushed_share"] == pytest.approx(share, nan_ok=True)
    acting[0] |= acting[1]
    assert "cosine_mean" not in values()


# the command


def test_analyses_are_computed_once(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    analysis = result(run)["analysis"]
    assert set(analysis) == {"sharpness", "plane", "gradients"}
    for name in analysis:
        assert all((run / f"landscape/{name}.{suffix}").exists() for suffix in ("json", "csv", "png"))
    assert cli([str(run), "--only", "plane,gradients", "--set", "plane.points=3"]) == 0
    assert capsys.readouterr().out.count("(stored before)") == 2
    assert result(run)["analysis"] == analysis


@pytest.mark.slow
def test_refused_arguments(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = ["--folder", str(tmp_path)]
    files = [str(run / f"checkpoints/{name}.pt") for name in ("descend", "settle-1", "settle-2")]
    old = shutil.copytree(run, tmp_path / "old" / run.name)
    (old / "metrics.csv").write_text("epoch,phase,gradient_cosine\n1,escape-1,0\n")
    other = tmp_path / "plain"
    assert start(*TINY, "phases=snapshot", "phases.cycle.times=3", "penalty=none", f"runs={other}") == 0
    plain = str(only_run(other))
    capsys.readouterr()
    for arguments, message in (
        ([*files[:2], *folder, "--only=barrier,plane"], "plane needs at least 3 checkpoints, but there are 2"),
        ([str(run), "--only=plane", "--set=plane.through=[descend,settle-1,nowhere]"],
         "plane.through=nowhere is no checkpoint; there are descend, settle-1, settle-2"),
        ([str(run), "--only=plane", "--set=plane.through=[descend,settle-1,descend]"], "lie on one line"),
        ([str(run), "--only=plane", "--set=plane.through=[descend,settle-1]"], "plane.through"),
        ([str(run), "--only=plane", "--set=plane.points=2"], "plane.points=2: "),
        ([str(run), "--only=sharpness", "--set=sharpness.unit=layer"], "sharpness.unit='layer'"),
        ([str(run), "--only=sharpness", "--set=sharpness.radii=[]"], "sharpness.radii=[]"),
        ([str(run), "--only=sharpness", "--set=sharpness.radii=[0.1,-1]"], "sharpness.radii.1=-1"),
        ([str(run), plain, *folder, "--only=gradients"], "these checkpoints are of several"),
        ([plain, "--only=gradients"], "gradients needs a run with hills, but none acted in"),
        ([str(old), "--only=gradients", "--again"], "has no column 'gradient_cosine_p10': the run is"),
    ):  # fmt: skip
        assert cli(arguments) == 2, message
        err = capsys.readouterr().err
        assert err.startswith("error: ")
        assert message in err
        assert err.count("\n") == 1
    seeds = tmp_path / "seeds"  # without --only, analyses that can't be done are left out with a reason
    light = ["--set=barrier.points=3", "--set=valley.epochs=1", "--set=sharpness.probes=2", "--set=sharpness.images=20"]
    assert cli([files[0], f"{plain}/checkpoints/descend-1.pt", f"--folder={seeds}", *light]) == 0
    out = capsys.readouterr().out
    assert "plane  left out: plane needs at least 3 checkpoints, but there are 2" in out
    assert "gradients  left out: gradients analyses the training of one run, but these checkpoints are of" in out
    assert {path.name for path in seeds.glob("*.json")} == {"barrier.json", "valley.json", "sharpness.json"}
    (old / "metrics.csv").unlink()
    assert cli([str(old), "--only=gradients", "--again"]) == 2
    assert "metrics.csv can't be read: No such file" in capsys.readouterr().err

"""Barriers, curves and matching: closed forms, permuted copies, and whole runs with their outputs."""

import csv
import json
import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from conftest import TINY, only_run, result, start
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn import functional as F

from distancing.component import component
from distancing.data.batches import Epoch
from distancing.errors import LandscapeError
from distancing.experiment import main as experiment
from distancing.hills.theta import Theta
from distancing.landscape import lines
from distancing.landscape.__main__ import main as cli
from distancing.landscape.barrier import Barrier
from distancing.landscape.matching import match, permutation_groups, permuted
from distancing.landscape.path import Profile, height, pairs
from distancing.landscape.subject import Subject
from distancing.landscape.valley import Valley, bezier, length
from distancing.models import MLP, MobileNetV2, Model, ResNet
from distancing.models.preact import PreActResNet
from distancing.runs import RunDirectory, load, save
from distancing.stored import find_checkpoints

CPU = torch.device("cpu")
T = TypeVar("T")


def untracked(iterable: Iterable[T], description: str, total: int) -> Iterable[T]:
    """Show no progress bar, but check its total."""
    items = list(iterable)
    assert len(items) == total, description
    return items


# closed forms


def test_the_height_of_parabolas() -> None:
    """The loss of image n, c_n·(1 − x²) plus a line, rises by c_n above the chord from x = −1 to 1."""
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    c, tilt = torch.tensor([1.0, 2.0, 6.0]).double(), torch.tensor([5.0, -3.0, 0.5]).double()
    losses = (4 * t * (1 - t))[:, None] * c + t[:, None] * tilt + 7
    top, error = height(losses, t)
    assert top == pytest.approx(3)
    assert error == pytest.approx(c.std().item() / math.sqrt(3))
    assert height(losses[:, :1] - 9 * t[:, None] * (1 - t[:, None]), t)[0] == 0  # a valley is no barrier
    assert math.isnan(height(losses[:, :1], t)[1])


def test_pairs_and_their_names() -> None:
    assert pairs("successive", 3) == [(0, 1), (1, 2)]
    assert pairs("first", 3) == [(0, 1), (0, 2)]
    assert sorted(pairs("all", 3)) == [(0, 1), (0, 2), (1, 2)]
    assert pairs("ends", 3) == [(0, 2)]
    assert lines.tag("a+b=1/final", "π_2") == "a_b_1/final_to___2"


def test_a_bezier_curve_ends_where_it_should() -> None:
    a, bend, b = torch.randn(3, 50, dtype=torch.float32)
    curve = bezier(a, bend, b)
    assert torch.equal(curve(0.0), a)
    assert torch.equal(curve(1.0), b)
    torch.testing.assert_close(curve(0.5), a / 4 + bend / 2 + b / 4)
    straight = length(a, (a + b) / 2, b)
    assert straight == pytest.approx(float((a - b).norm()), rel=1e-5)
    points = torch.stack([curve(t) for t in torch.linspace(0, 1, 2001, dtype=torch.float64).tolist()])
    assert length(a, bend, b) == pytest.approx(float(points.diff(dim=0).norm(dim=1).sum()), rel=1e-4)


# matching

MODELS: dict[str, tuple[Model, tuple[int, int, int], int]] = {
    "mlp": (MLP(depth=3, width=9), (1, 4, 4), 27),
    "conv": (ResNet(depth=8, width=4), (3, 8, 8), 4 + 8 + 16 + 4 + 8 + 16),
    "pad": (ResNet(depth=14, width=4, shortcut="pad"), (3, 8, 8), 2 * (4 + 8 + 16)),  # no residual stream
    "preact": (PreActResNet(stages=2, blocks=1, width=4), (3, 8, 8), 2 * (4 + 8)),
    "mobilenet": (MobileNetV2(width=0.1), (3, 8, 8), 3 * 8 + 2 * 16 + 32 + 1280 + 12 * 48 + 5 * 96),
}


def random_network(model: Model, shape: tuple[int, int, int], seed: int) -> nn.Module:
    """Return a network in evaluation mode whose batch norms are not at their initial values."""
    torch.manual_seed(seed)
    network = model.build(shape, 5).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for positive, any_sign in ((module.weight, module.bias), (module.running_var, module.running_mean)):
                assert positive is not None
                assert any_sign is not None
                positive.data.uniform_(0.5, 2)
                any_sign.data.normal_()
    return network


@pytest.mark.parametrize("name", ["mlp", "conv", "pad", "preact", pytest.param("mobilenet", marks=pytest.mark.slow)])
def test_permuted_networks_are_the_same_and_are_recognised(name: str) -> None:
    model, shape, units = MODELS[name]
    network, copy = random_network(model, shape, 0), random_network(model, shape, 1)
    groups, images = permutation_groups(network, shape), torch.randn(4, *shape)
    assert sum(group.size for group in groups) == units
    orders = [torch.randperm(group.size) for group in groups]
    state = permuted(network.state_dict(), groups, orders)
    copy.load_state_dict(state)
    with torch.no_grad():
        expected = network(images)
        torch.testing.assert_close(copy(images), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    theta = Theta(network)
    a, b = theta.vector, theta.flatten(state)
    matched, moved = match(groups, a, b, theta, seed=3)
    assert not torch.equal(a, b)
    assert torch.equal(matched, a)
    assert moved == sum(int((order != torch.arange(len(order))).sum()) for order in orders) / units
    assert match(groups, a, a, theta)[1] == 0
    if units > 1000:
        return  # the rest would take long and show nothing new
    other = theta.flatten({key: value.detach() for key, value in random_network(model, shape, 2).named_parameters()})
    matched, _ = match(groups, a, other, theta)
    assert float((a - matched).norm()) < float((a - other).norm())
    torch.testing.assert_close(matched.sort().values, other.sort().values)  # permuted, not changed


def test_unknown_operations_fix_their_channels() -> None:
    """A layer that mixes channels fixes those of its input and output, and no others."""

    class Mix(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.cumsum(1)

    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), Mix(), nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2))
    (group,) = permutation_groups(network, (1, 2, 2))
    assert group.axes == (("3.weight", 0), ("3.bias", 0), ("5.weight", 1))
    pixels = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Flatten(), nn.Linear(12, 2))  # four inputs for each channel
    assert permutation_groups(pixels, (1, 2, 2)) == []


class Tied(nn.Module):
    """A perceptron whose second hidden layer is used twice, as another module or as a function."""

    def __init__(self, module: bool) -> None:
        super().__init__()
        self.last, self.first, self.second, self.third = (nn.Linear(n, m) for n, m in ((6, 2), (4, 6), (6, 6), (6, 6)))
        self.module = module
        self.third.weight = self.second.weight

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.second(F.relu(self.first(x.flatten(1)))))
        x = self.third(x) if self.module else F.linear(x, self.third.weight.t(), self.third.bias)
        logits: Tensor = self.last(F.relu(x))
        return logits


class Hidden(nn.Linear):
    """A layer that scales each unit by its place, so that no unit can move."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * torch.arange(1, 7).to(x)


@pytest.mark.parametrize(
    ("network", "number"),
    [(Tied(True), 1), (Tied(False), 0), (nn.Sequential(nn.Flatten(), Hidden(4, 6), nn.Linear(6, 2)), 0)],
)
def test_permuted_networks_whose_units_are_not_free(network: nn.Module, number: int) -> None:
    """The groups are those that leave the function as it is, and matching does not change it."""
    groups, images, theta = permutation_groups(network, (1, 2, 2)), torch.randn(9, 1, 2, 2), Theta(network)
    with torch.no_grad():
        before = network(images)
        matched, _ = match(groups, torch.randn(len(theta)), theta.vector, theta)
        theta.vector.copy_(matched)
        torch.testing.assert_close(network(images), before)
    assert len(groups) == number


class Sized(nn.Module):
    """A perceptron that reads the number of images from a shape, and multiplies its logits by a sum of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)
        self.register_buffer("number", torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(F.relu(self.first(x.reshape(x.shape[0], -1)))) * (1 + self.number)
        return logits


def test_numbers_in_the_graph_are_no_obstacle() -> None:
    (group,) = permutation_groups(Sized(), (1, 2, 2))
    assert group.axes == (("first.weight", 0), ("first.bias", 0), ("last.weight", 1))


class Branches(Tied):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum() > 0 else -x)


def test_a_network_whose_graph_cannot_be_read() -> None:
    with pytest.raises(LandscapeError, match=r"this network can't be read \(.*\); set barrier.matching=false"):
        permutation_groups(Branches(True), (1, 2, 2))


# runs


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run with three checkpoints and two analyses."""
    folder = tmp_path_factory.mktemp("runs")
    assert start(*RUN, f"runs={folder}") == 0
    return only_run(folder)


RUN = [*TINY, "phases=cycles", "phases.cycle.times=2", "epochs=8", "optimizer.lr=0.1", "analysis=[barrier,valley]",
       "analysis.barrier.points=5", "analysis.valley.points=5", "analysis.valley.epochs=2",
       "analysis.valley.images=40"]  # fmt: skip
PAIRS = ["descend_to_settle-1", "settle-1_to_settle-2"]


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / run.name))


def subject(run: Path, images: int = 100) -> Subject:
    return Subject(find_checkpoints([run]), CPU, images)


def swap(run: Path, name: str) -> None:
    """Permute the hidden units of a checkpoint."""
    file = run / f"checkpoints/{name}.pt"
    content = load(file)
    groups = permutation_groups(subject(file).network, (1, 8, 8))
    content["network"] = permuted(content["network"], groups, [torch.arange(group.size).roll(1) for group in groups])
    save(file, content)


def test_outputs_of_a_run(run: Path) -> None:
    """The maxima are those of the pairs; JSON, PNG, CSV, result.json and TensorBoard agree."""
    analysis = result(run)["analysis"]
    assert set(analysis) == {"barrier", "valley"}
    barrier = analysis["barrier"]
    for key in ("train_height", "test_height", "train_height_matched", "test_height_matched"):
        heights = {pair: barrier[f"{key}/{pair}"] for pair in PAIRS}
        top = max(heights, key=lambda pair: heights[pair])
        assert barrier[f"{key}_max"] == heights[top] >= 0
        assert barrier[f"{key}_max_se"] == barrier[f"{key}_se/{top}"]
    first = result(run)["checkpoints"][0]
    assert barrier[f"distance/{PAIRS[0]}"] == pytest.approx(first["distances"]["settle-1"], rel=1e-5)
    assert analysis["valley"]["length_over_distance/descend_to_settle-2"] >= 1 - 1e-6
    events = EventAccumulator(str(run)).Reload()
    for name, values in analysis.items():
        assert (run / f"landscape/{name}.png").read_bytes().startswith(b"\x89PNG")
        assert json.loads((run / f"landscape/{name}.json").read_text())["values"] == values
        assert f"analysis/{name}" in events.Tags()["images"]
        for key, value in values.items():
            assert events.Scalars(f"analysis/{name}/{key}")[0].value == pytest.approx(value, rel=1e-6)
    rows = list(csv.DictReader((run / "landscape/barrier.csv").open()))
    assert [(row["from"], row["path"], float(row["t"])) for row in rows[:5]] == [
        ("descend", "line", t) for t in (0, 0.25, 0.5, 0.75, 1)
    ]
    own = [row["test/loss_stored_statistics"] for row in rows[:5]]  # as in result.json, beside the barrier's own ends
    assert [float(own[0]), float(own[4])] == pytest.approx(
        [checkpoint["metrics"]["test"]["loss"] for checkpoint in result(run)["checkpoints"][:2]], rel=1e-5
    )
    assert own[1:4] == [""] * 3
    straight = [float(row["test/loss"]) for row in rows[:5]]
    rise = max(loss - straight[0] + k / 4 * (straight[0] - straight[4]) for k, loss in enumerate(straight))
    assert barrier[f"test_height/{PAIRS[0]}"] == pytest.approx(rise, abs=1e-9)


def test_analyses_restore_the_subject_and_are_deterministic(run: Path) -> None:
    """And the losses are those of the stored network, with batch-norm statistics over the training images."""
    stored, analyses = subject(run), (Barrier(points=3, pairs="all"), Valley(points=3, epochs=1, pairs="first"))
    before = {key: value.clone() for key, value in stored.network.state_dict().items()}
    first, again = ([analysis(stored, untracked) for analysis in analyses] for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert one.values == other.values
        assert one.rows == other.rows
    for key, value in stored.network.state_dict().items():
        assert torch.equal(value, before[key])
    assert not any(module.training for module in stored.network.modules())
    torch.manual_seed(1)
    assert Valley(points=3, epochs=1, pairs="first", seed=1)(stored, untracked).values != first[1].values
    with pytest.raises(ZeroDivisionError), stored.at(stored.parameters[1]):
        raise ZeroDivisionError
    for key, value in stored.network.state_dict().items():
        assert torch.equal(value, before[key])
    with stored.at(stored.parameters[1]) as network:
        losses, correct = stored.losses("test")
        inputs = stored.data.normalise(stored.data.train.images)
        logits = {mode: network.train(mode)(inputs).double() for mode in (False, True)}
        network.eval()
    torch.testing.assert_close(logits[False], logits[True], rtol=0.05, atol=0.05)  # all images are one batch
    row = next(row for row in first[0].rows if row["from"] == "settle-1" and row["t"] == 0)
    assert (row["test/loss"], row["test/accuracy"]) == (float(losses.mean()), float(correct.mean()))


def test_matching_removes_the_barrier_to_a_permuted_copy(copy: Path) -> None:
    shutil.copy(copy / "checkpoints/descend.pt", copy / "checkpoints/settle-1.pt")
    swap(copy, "settle-1")
    values = Barrier(points=5)(subject(copy), untracked).values
    assert values[f"units_moved/{PAIRS[0]}"] == 1
    assert values[f"distance_matched/{PAIRS[0]}"] == 0 < values[f"distance/{PAIRS[0]}"]
    for split in ("train", "test"):
        assert values[f"{split}_height_matched/{PAIRS[0]}"] <= 1e-6
        assert values[f"{split}_height/{PAIRS[0]}"] > 0.01
    alone = Barrier(points=5, matching=False)(subject(copy), untracked).values
    assert not any("matched" in key or "moved" in key for key in alone)
    assert alone[f"test_height/{PAIRS[0]}"] == values[f"test_height/{PAIRS[0]}"]


def test_a_curve_avoids_the_barrier_to_a_permuted_copy(copy: Path) -> None:
    """The ends stay fixed, and the curve's barrier is lower than the line's."""
    shutil.copy(copy / "checkpoints/settle-2.pt", copy / "checkpoints/descend.pt")
    swap(copy, "descend")
    stored, valley = subject(copy), Valley(points=5, epochs=60, lr=0.2, batch_size=16)
    a, b = stored.parameters[0].clone(), stored.parameters[2].clone()
    values = valley(stored, untracked).values
    assert torch.equal(stored.parameters[0], a)
    assert torch.equal(stored.parameters[2], b)
    pair = "descend_to_settle-2"
    assert values[f"train_height_curve/{pair}"] < 0.5 * values[f"train_height/{pair}"]
    assert values[f"length_over_distance/{pair}"] > 1


def test_a_curve_is_trained_by_the_gradient_of_its_bend(run: Path) -> None:
    """Two steps in float64: the gradient is autograd's, through the curve, and the learning rate falls on a cosine."""
    stored = subject(run)
    a, b = stored.parameters[0], stored.parameters[2]
    bend, velocity = a.lerp(b, 0.5).double(), torch.zeros(len(a), dtype=torch.float64)
    network, generator = subject(run).network.double().train(), torch.Generator().manual_seed(0)
    for rate, (images, labels) in zip((0.3, 0.15), Epoch(stored.data, 24, 0, 0).batches(), strict=True):
        t, bend = float(torch.rand((), generator=generator)), bend.requires_grad_()
        theta = stored.theta.named(bezier(a.double(), bend, b.double())(t))
        loss = F.cross_entropy(torch.func.functional_call(network, theta, (images.double(),)), labels)
        velocity = 0.9 * velocity + torch.autograd.grad(loss, bend)[0]
        bend = bend.detach() - rate * velocity
    trained = Valley(epochs=1, lr=0.3, batch_size=24).trained(stored, a, b, untracked)
    assert torch.allclose(trained.double(), bend, atol=1e-5)


@component
class Linear(Model):
    """f(x) = w₂ w₁ x with one hidden unit; (−w₁, −w₂) is the same function, and (0, 0) lies between them."""

    def network(self, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(image_shape), 1, False), nn.Linear(1, classes, False))


def test_a_linear_network_whose_barrier_is_known(run: Path) -> None:
    """From (w₁, w₂) to (−w₁, −w₂) the logits are scaled by (1 − 2t)². In the middle the loss is log 10."""
    line = subject(run)
    torch.manual_seed(0)
    line.network = Linear().build((1, 8, 8), 10)
    line.theta = Theta(line.network)
    line.parameters = torch.stack((line.theta.vector, -line.theta.vector))
    line.names = ["plus", "minus"]
    test = line.data.test
    with torch.no_grad():
        logits = line.network(line.data.normalise(test.images)).double()
    expected = torch.stack([F.cross_entropy((1 - 2 * t) ** 2 * logits, test.labels) for t in (0, 0.25, 0.5)])
    findings = Barrier(points=5)(line, untracked)
    assert [row["test/loss"] for row in findings.rows[:3]] == pytest.approx(expected.tolist(), rel=1e-6)
    assert findings.rows[2]["test/loss"] == pytest.approx(math.log(10))
    height = max(expected - expected[0]).item()
    assert findings.values["test_height/plus_to_minus"] == pytest.approx(height, abs=1e-7)


def test_a_value_that_is_not_finite_is_shown_as_it_is_stored(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A barrier on one image has no standard error, whether it is computed or was stored before."""
    one_image = ["--only=valley", "--set=valley.images=1", "--set=valley.epochs=1", "--set=valley.points=3"]
    shown = []
    for _ in range(2):
        assert cli([str(copy), *one_image]) == 0
        shown.append(capsys.readouterr().out.replace("  (stored before)", ""))
    assert "not finite" in shown[0]
    assert shown[0] == shown[1]


@pytest.mark.slow
def test_stored_analyses_are_reused_unless_their_inputs_change(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    five_points = ["--only", "barrier", "--set", "barrier.points=5"]
    three_points = ["--only", "barrier", "--set", "barrier.points=3"]
    calls = []
    real = Barrier.__call__
    monkeypatch.setattr(Barrier, "__call__", lambda *args: calls.append(args) or real(*args))
    assert cli([str(copy), *five_points]) == 0
    assert "stored before" in capsys.readouterr().out
    assert not calls
    assert cli([str(copy), *five_points, "--again"]) == 0
    assert len(calls) == 1
    assert cli([str(copy), *three_points]) == 0
    assert len(calls) == 2
    assert len((copy / "landscape/barrier.csv").read_text().splitlines()) == 1 + 2 * 2 * 3
    swap(copy, "settle-1")
    assert cli([str(copy), *three_points]) == 0
    assert len(calls) == 3
    assert result(copy)["analysis"]["barrier"][f"units_moved/{PAIRS[0]}"] > 0
    (copy / "landscape/barrier.png").unlink()
    assert cli([str(copy), *three_points]) == 0
    assert len(calls) == 4
    files = [str(copy / f"checkpoints/{name}.pt") for name in ("descend", "settle-1", "settle-2")]
    for _ in range(2):
        assert cli([*files, *three_points, f"--folder={copy}/other"]) == 0
    assert len(calls) == 5
    assert cli([files[0], files[2], files[1], *three_points, f"--folder={copy}/other"]) == 0  # other pairs
    assert len(calls) == 6


@pytest.mark.slow
def test_killed_between_training_and_analysis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Path) -> None:
    """The same command resumes with the missing analysis alone and ends with the same result."""

    class Killed(BaseException):
        pass

    def kill(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Valley, "__call__", kill)
        with pytest.raises(Killed):
            start(*RUN, f"runs={tmp_path}")
    killed = only_run(tmp_path)
    assert result(killed)["analysis"] is None
    monkeypatch.setattr(experiment, "train_run", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr(Barrier, "__call__", lambda *_: pytest.fail("analysed again"))
    assert start(*RUN, f"runs={tmp_path}") == 0
    assert result(killed)["analysis"] == result(run)["analysis"]


def test_a_run_is_analysed_while_it_trains(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = shutil.copytree(run, tmp_path / run.name)
    for name in ("result.json", "checkpoints/final.pt"):
        (copy / name).unlink()
    with RunDirectory(copy):  # by another process
        assert cli([str(copy), "--only=barrier"]) == 0
    assert "train_height_max" in capsys.readouterr().out


@pytest.mark.slow
def test_dropout_is_off(tmp_path: Path) -> None:
    """Analyses of a network with dropout give the same values a second time."""
    dropout = ["model=mobilenetv2", "model.width=0.1", "model.dropout=0.5", "analysis.valley.lr=0.01"]
    tiny = [setting for setting in RUN if not setting.startswith("model.")]
    assert start(*tiny, *dropout, f"runs={tmp_path}") == 0
    run = only_run(tmp_path)
    first = result(run)["analysis"]
    torch.manual_seed(9)
    settings = [f"--set={setting.removeprefix('analysis.')}" for setting in (*RUN, *dropout) if "analysis." in setting]
    assert cli([str(run), "--only=barrier,valley", *settings, "--again"]) == 0
    assert result(run)["analysis"] == first


@pytest.mark.slow
def test_refused_arguments(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    others, alone = {}, str(run / "checkpoints/descend.pt")
    for name, overrides in {
        "wide": ["model.width=3"],
        "other": ["model.width=2", "dataset.seed=5"],
    }.items():
        tiny = [override for override in TINY if not override.startswith("model.")]
        assert start(*tiny, *overrides, "phases=distancing", "epochs=2", f"runs={tmp_path / name}") == 0
        others[name] = str(only_run(tmp_path / name))
    capsys.readouterr()
    for arguments, message in (
        ([alone, "--only", "barrier", "--folder", str(tmp_path / "x")], "barrier needs at least 2 checkpoints, but"),
        ([str(run), others["wide"], "--folder", str(tmp_path / "x")], "are networks of different architectures"),
        ([str(run), others["other"], "--folder", str(tmp_path / "x")], "dataset.seed=0, but"),
        ([str(run), others["wide"]], "--folder=… is needed"),
        ([str(run), "--folder", alone], f"{alone} is a file: name a folder"),
        ([str(run), "--only", "volcano"], "--only=volcano is no analysis; there are barrier, "),
        ([str(run), "--set", "barrier.points=2"], "barrier.points=2: input should be greater than or equal to 3"),
        ([str(run), "--set", "barrier.pairs=some"], "barrier.pairs='some'"),
        ([str(run), "--set", "valley.lr=-1e-2"], "valley.lr=-0.01: input should be greater than"),
        ([str(run), "--set", "sharpness.radii=[0.1,-1e-2]"], "sharpness.radii.1=-0.01: input should be greater than"),
        ([str(run), "--set", "valley.speed=2"], "valley.speed is not a setting; allowed here: "),
        ([str(run), "--only", "valley", "--set", "valley.lr=1.0e+30", "--set", "valley.epochs=3"], "valley.lr=1e+30: "),
        ([str(tmp_path)], "is not the directory of a run or a sweep, nor a checkpoint file"),
    ):
        assert cli(arguments) == 2, arguments
        err = capsys.readouterr().err
        assert err.startswith("error: ")
        assert message in err
        assert err.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_the_highest_barrier_of_all_pairs_comes_first() -> None:
    t = torch.linspace(0, 1, 3, dtype=torch.float64)

    def hill(top: float) -> Profile:
        losses = torch.tensor([0, top, 0]).double()[:, None] * torch.tensor([0.5, 1.5]).double()
        return Profile(t, {"train": losses, "test": 2 * losses}, dict.fromkeys(("train", "test"), t))

    pairs = {("a", "b"): {"line": hill(1)}, ("b", "c"): {"line": hill(3)}, ("c", "d"): {"line": hill(2)}}
    values = lines.heights(pairs)
    assert (values["train_height_max"], values["test_height_max"]) == (3, 6)
    assert values["test_height_max_se"] == values["test_height_se/b_to_c"] == pytest.approx(3)
    assert next(iter(values)) == "train_height_max"
    for tops in ((math.nan, 1), (1, math.nan)):
        values = lines.heights({("a", str(i)): {"line": hill(top)} for i, top in enumerate(tops)})
        assert math.isnan(values["test_height_max"])


def test_many_pairs_are_drawn_eight_in_a_row() -> None:
    t = torch.linspace(0, 1, 3, dtype=torch.float64)
    flat = Profile(t, dict.fromkeys(("train", "test"), torch.ones(3, 4)), dict.fromkeys(("train", "test"), t))
    figure = lines.picture({(f"a{i}", f"b{i}"): {"line": flat, "matched": flat} for i in range(11)})
    assert [len(row.axes[0].lines) for row in figure.subfigs] == [8, 3]

"""The training step and the phases, on real digits, against hand-written references."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.utils._pytree as pytree
from conftest import TINY, compose, one_epoch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from distancing.config import check
from distancing.data.batches import Epoch
from distancing.hills.distances import Euclidean
from distancing.hills.theta import Theta, filter_direction
from distancing.models.evaluation import evaluate
from distancing.runs import RunDirectory
from distancing.training.loop import train
from distancing.training.step import CORRECT, COSINE, CROSS_ENTROPY, L2, PENALTY, RATIO
from distancing.training.trainer import Trainer


def trainer(*overrides: str) -> Trainer:
    config = check(compose(*TINY, *overrides))
    device = torch.device("cpu")
    return Trainer(config, config.dataset.load(device, config.memory_format(device)), device)


def drive(made: Trainer, folder: Any) -> Trainer:
    with RunDirectory(folder) as directory:
        assert train(made, directory, lambda *_: True, lambda _: None, lambda: None)
    return made


def test_the_loss_of_one_step_is_the_thesiss() -> None:
    """Cross entropy with labels smoothed by k, λ‖θ‖² (1.13) and s·Σ_c k(θ, θ_c) (2.9), in float64, by autograd."""
    made = trainer("model=mlp", "model.width=9", "label_smoothing=0.3", "optimizer=sgd", "optimizer.lr=0.01",
                   "optimizer.l2=0.02", "penalty.strength=2", "penalty.sigma=1.5", "penalty.sigma_unit=absolute",
                   "phases=distancing", "phases.descend.penalty=true")  # fmt: skip
    for shift in (0.02, -0.05):
        made.add_checkpoint({"name": str(shift)}, made.theta.vector + shift)
    images, labels = next(Epoch(made.data, 16, 0, 0).batches())

    network = check(compose(*TINY, "model=mlp", "model.width=9")).model.build((1, 8, 8), 10).double()
    network.load_state_dict(made.network.state_dict())
    logits = network(images.double())
    smoothed = torch.full((16, 10), 0.3 / 9, dtype=torch.float64)
    smoothed[torch.arange(16), labels] = 1 - 0.3
    cross_entropy = -(smoothed * logits.log_softmax(1)).sum(1).mean()
    parameters = sorted(network.parameters(), key=lambda p: p.dim() < 2)  # weights first
    theta = nn.utils.parameters_to_vector(parameters)
    l2 = 0.02 * (theta**2).sum()
    penalty = sum(
        2 * torch.exp(-((theta - (theta.detach() + shift)) ** 2).sum() / (2 * 1.5**2)) for shift in (0.02, -0.05)
    )
    gradients = [torch.autograd.grad(part, parameters, retain_graph=True) for part in (cross_entropy, l2, penalty)]
    data, decay, push = (torch.cat([g.flatten() for g in each]) for each in gradients)

    before, record = made.theta.vector.clone(), made.records[0]
    made.step(images, labels)
    expected = before.double() - 0.01 * (data + decay + push)
    torch.testing.assert_close(made.theta.vector.double(), expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(record[CROSS_ENTROPY].double(), cross_entropy, rtol=1e-5, atol=0)
    torch.testing.assert_close(record[L2].double(), l2, rtol=1e-5, atol=0)
    torch.testing.assert_close(record[PENALTY].double(), penalty, rtol=1e-5, atol=0)
    torch.testing.assert_close(record[COSINE].double(), F.cosine_similarity(data, push, dim=0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(record[RATIO].double(), push.norm() / data.norm(), rtol=1e-5, atol=0)
    assert record[CORRECT] == (logits.argmax(1) == labels).sum()


def test_the_default_speed_changes_nothing_beyond_rounding() -> None:
    """Steps with hills in another memory format, against PyTorch's plain one."""
    ends = {}
    for speed in ("plain", "default"):
        made = trainer(f"speed={speed}", "model.width=16", "phases.descend.penalty=true", "optimizer.l2=0.01")
        made.add_checkpoint({"name": "near"}, made.theta.vector + 0.01)
        for images, labels in itertools.islice(Epoch(made.data, 16, 0, 0).batches(), 3):
            made.step(images, labels)
        ends[speed] = torch.cat([value.flatten() for value in made.theta.named(made.theta.vector).values()])
    assert compose("speed=default").channels_last != compose("speed=plain").channels_last
    torch.testing.assert_close(ends["default"], ends["plain"], rtol=1e-4, atol=1e-6)


def test_a_run_of_two_phases_is_algorithm_3(tmp_path: Any) -> None:
    """Rows say which phase each epoch was, when the hill acted, and how far the network has come."""
    made = drive(trainer("phases=distancing", "epochs=7", "penalty.strength=3"), tmp_path)
    assert [row["phase"] for row in made.rows] == ["descend"] * 4 + ["escape"] * 3
    assert all(row["train/penalty"] == 0 and row["gradient_cosine"] is None for row in made.rows[:4])
    assert all(row["train/penalty"] > 0 and -1 <= row["gradient_cosine"] <= 1 for row in made.rows[4:])
    assert all(row["distance/descend"] is None for row in made.rows[:4])
    distances, heights = ([row[f"{name}/descend"] for row in made.rows[4:]] for name in ("distance", "hill"))
    assert distances == sorted(distances)
    assert heights == sorted(heights, reverse=True)
    for d, k in zip(distances, heights, strict=True):
        assert k == pytest.approx(torch.tensor(-(d**2) / (2 * made.hills.widths[0].item() ** 2)).exp().item(), rel=1e-4)
    for row in made.rows:
        assert row["train/loss"] == pytest.approx(row["train/cross_entropy"] + row["train/l2"] + row["train/penalty"])


def test_epoch_metrics_are_means_over_images() -> None:
    """48 images in batches of 20, 20 and 8: the last batch counts by its size."""
    made = trainer(
        "phases=single", "epochs=1", "batch_size=20", "optimizer.lr=1e-9", "dataset.augment=false"
    )  # θ hardly moves
    made.network.eval()
    made.network.train = lambda *_: made.network  # type: ignore[method-assign]  # batch norm off: batches don't matter
    one_epoch(made)
    made.end_epoch()
    scores = evaluate(made.network, made.data, made.data.train, made.stepper.autocast)
    assert made.rows[0]["train/cross_entropy"] == pytest.approx(scores["loss"], rel=1e-5)
    assert made.rows[0]["train/accuracy"] == pytest.approx(scores["accuracy"])


WAITS = ("_local_scalar_dense", "nonzero", "equal", "masked_select", "unique", "bincount")  # for what a device computes


class Watched(TorchDispatchMode):
    """Counts what would wait for a device, and keeps the largest new tensor's number of elements."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.waits, self.largest = 0, 0
        for name in ("tolist", "cpu", "numpy"):
            monkeypatch.setattr(torch.Tensor, name, self._counting(getattr(torch.Tensor, name)))

    def _counting(self, method: Any) -> Any:
        def counted(*args: Any) -> Any:
            self.waits += 1
            return method(*args)

        return counted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.waits += any(name in str(func) for name in WAITS)
        memory = {
            each.untyped_storage().data_ptr()
            for each in pytree.tree_leaves((args, kwargs))
            if hasattr(each, "data_ptr")
        }
        for each in pytree.tree_leaves(found):
            if isinstance(each, torch.Tensor) and each.untyped_storage().data_ptr() not in memory:
                self.largest = max(self.largest, each.numel())
        return found


PENALTIES = sorted(path.stem for path in (Path(__file__).parents[1] / "conf/penalty").glob("*.yaml"))


@pytest.mark.parametrize("penalty", [*PENALTIES, "well_tempered penalty.half_life=3 penalty.newest=1"])
def test_no_step_waits_for_the_device(penalty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An epoch of many steps waits as often as one of few: at its end."""
    monkeypatch.setattr(Euclidean, "_vjp_on_cpu", Euclidean._vjp_on_gpu)
    waits = {}
    for batch_size in (32, 64):
        made = trainer(f"batch_size={batch_size}", "phases.descend.penalty=true", *f"penalty={penalty}".split())
        for shift in (0.01, 0.02):
            made.add_checkpoint({"name": str(shift)}, made.theta.vector + shift)
        with monkeypatch.context() as patch, Watched(patch) as watched:
            one_epoch(made)
        waits[made.steps] = watched.waits
    assert len(waits) == 2
    assert len({*waits.values()}) == 1, waits


def test_hills_need_no_memory_beside_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """K·P for K places, kept once; and no step makes a difference of that size."""
    made = trainer("model.width=16", "phases=cycles", "phases.cycle.times=8", "epochs=17")
    bank = made.checkpoints.parameters.untyped_storage()
    assert len(bank) == 4 * 9 * len(made.theta)
    for i in range(9):
        made.add_checkpoint({"name": str(i)}, made.theta.vector + 0.01 * i)
    assert made.hills is not None
    for kept in (made.checkpoints.parameters, made.hills.checkpoints, made.hills.centres):
        assert kept.untyped_storage().data_ptr() == bank.data_ptr()
    with Watched(monkeypatch) as watched, torch.no_grad():
        made.stepper.push(made.data.normalise(made.data.train.images[:8]))
    assert watched.largest == len(made.theta)


def test_early_end_by_training_loss_leaves_its_epochs_to_the_rest(tmp_path: Any) -> None:
    made = drive(
        trainer("phases=distancing", "epochs=40", "phases.descend.until_loss=1.8", "optimizer.lr=0.1"), tmp_path
    )
    descend = [row for row in made.rows if row["phase"] == "descend"]
    assert 1 < len(descend) < 20
    assert descend[-1]["train/cross_entropy"] < 1.8 <= descend[-2]["train/cross_entropy"]
    assert len(made.rows) == 40


@pytest.mark.parametrize("folds", [[], ["dataset.validation_fraction=0", "dataset.folds=5", "dataset.fold=1"]])
def test_early_stopping_goes_back_to_the_best(folds: list[str], tmp_path: Any) -> None:
    """Label noise by a huge learning rate makes the validation loss rise: the checkpoint is the best epoch's."""
    settings = ["phases=distancing", "epochs=30", "phases.descend.patience=3", "optimizer.lr=0.3", *folds]
    made = drive(trainer(*settings), tmp_path)
    losses = [row["validation/loss"] for row in made.rows if row["phase"] == "descend"]
    best = min(range(len(losses)), key=losses.__getitem__)
    assert len(losses) == best + 1 + 3
    assert made.checkpoints.infos[0]["metrics"]["validation"]["loss"] == pytest.approx(losses[best], rel=1e-6)


@pytest.mark.parametrize(
    ("overrides", "restarts"),
    [
        (["phases=cycles", "scheduler=cosine", "epochs=14"], [0, 2, 6, 10]),  # descend 2, then escape 2, settle 2
        (["phases=snapshot", "scheduler=cosine", "phases.cycle.times=4"], [0, 2, 4, 6]),
        (["phases=single", "scheduler=cosine_restarts", "scheduler.period=3"], [0, 3, 6]),
    ],
)
def test_learning_rates_over_a_run(overrides: list[str], restarts: list[int], tmp_path: Any) -> None:
    made = drive(trainer(*overrides, "optimizer.lr=0.1"), tmp_path)
    lrs = [row["lr"] for row in made.rows]
    assert [i for i, lr in enumerate(lrs) if lr == 0.1] == restarts
    assert all(a > b for i, (a, b) in enumerate(itertools.pairwise(lrs)) if i + 1 not in restarts)


def test_a_random_direction_moves_filters_by_their_norm() -> None:
    """‖Δfilter‖ / ‖filter‖ is one number for all filters of all layers; biases and batch norms stay."""
    network = trainer().network
    named = {}
    for memory_format in (torch.contiguous_format, torch.channels_last):
        theta = Theta(network.to(memory_format=memory_format))
        direction = filter_direction(theta, torch.Generator().manual_seed(1))
        assert direction.norm().item() == pytest.approx(1, abs=1e-6)
        named[memory_format] = theta.named(direction)
    ratios = []
    for name, value in theta.named(theta.vector).items():
        moved = named[torch.channels_last][name]
        torch.testing.assert_close(moved, named[torch.contiguous_format][name])
        if value.dim() == 1:
            assert not moved.any()
        else:
            ratios.append(moved.flatten(1).norm(dim=1) / value.flatten(1).norm(dim=1))
    torch.testing.assert_close(torch.cat(ratios), ratios[0][0].expand(sum(map(len, ratios))))
    assert sum(map(len, ratios)) > 40


def test_a_jump_goes_its_length_once(tmp_path: Any) -> None:
    """…at the start of its phase, without the velocity, in a direction that follows from (seed, epoch); a run that
    goes on from then has it behind it."""
    made = trainer("phases=jumps", "phases.cycle.phases.escape.jump=3")
    one_epoch(made)
    made.end_epoch()
    before = made.theta.vector.clone()
    assert made.stepper.optimizer.state
    with RunDirectory(tmp_path) as directory:
        made.end_phase(directory)
        jump = made.theta.vector - before
        assert made.phase_name == "escape-1"
        assert jump.norm().item() == pytest.approx(3, rel=1e-5)
        assert torch.equal(made.checkpoints.parameters[0], before)
        assert not made.stepper.optimizer.state
        other = trainer("phases=jumps", "phases.cycle.phases.escape.jump=3")
        other.load_state_dict(made.state_dict(), directory)
        for each in (other, made):
            each.end_phase(directory)
            assert each.phase_name == "settle-1"
            assert torch.equal(each.theta.vector - before, jump)

    def jumped(seed: int, epoch: int) -> torch.Tensor:
        made.config, made.progress.phase, made.progress.epoch = dataclasses.replace(made.config, seed=seed), 1, epoch
        made.theta.vector.copy_(before)
        made._begin_phase()
        return made.theta.vector - before

    jumps = torch.stack([jumped(seed, epoch) for seed, epoch in ((1, 1), (1, 2), (0, 2), (2**32 - 1, 1), (0, 1))])
    assert torch.equal(jumps[-1], jump)
    assert (F.normalize(jumps) @ F.normalize(jumps).T - torch.eye(5)).abs().max() < 0.3


def test_an_independent_network_in_the_same_run(tmp_path: Any) -> None:
    """…begins where another seed's does, and leaves the generator of dropout as it was."""
    made = trainer("phases=independent", "phases.cycle.times=3")
    begins = [made.theta.vector.clone()]
    with RunDirectory(tmp_path) as directory:
        for _ in range(2):
            one_epoch(made)
            made.end_epoch()
            rng = torch.get_rng_state()
            made.end_phase(directory)
            assert torch.equal(torch.get_rng_state(), rng)
            assert not made.stepper.optimizer.state
            begins.append(made.theta.vector.clone())
        torch.manual_seed(made._phase_seed())
        dataset = made.config.dataset
        network = made.config.model.build(dataset.image_shape, dataset.classes)
        assert torch.equal(made.theta.flatten(network.state_dict()), begins[-1])
        assert all(torch.equal(made.network.state_dict()[name], x) for name, x in network.state_dict().items())
    assert min((a - b).norm() for a, b in itertools.combinations(begins, 2)) > begins[0].norm() / 2


def test_the_first_phase_may_jump() -> None:
    made, plain = trainer("phases=single", "phases.train.jump=0.5"), trainer("phases=single")
    assert (made.theta.vector - plain.theta.vector).norm().item() == pytest.approx(0.5, rel=1e-5)
    assert torch.equal(made.start, plain.start)

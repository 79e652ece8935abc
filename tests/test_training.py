"""The training step and the phases, on real digits, against hand-written references."""

import dataclasses
import itertools
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.utils._pytree as pytree
from conftest import TINY, compose, one_epoch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from distancing.config.checks import check
from distancing.data.batches import Epoch
from distancing.data.datasets import Digits
from distancing.hills import distances
from distancing.hills.distances import Euclidean
from distancing.hills.kernels import Gaussian
from distancing.hills.penalty import Penalty
from distancing.hills.theta import Theta, filter_direction
from distancing.models.evaluation import evaluate
from distancing.models.mlp import MLP
from distancing.runs import RunDirectory
from distancing.stored import Checkpoint
from distancing.training.loop import train
from distancing.training.optimizers import SGD
from distancing.training.plan import Phase
from distancing.training.schedules import Constant
from distancing.training.settings import Config
from distancing.training.step import CORRECT, COSINE, CROSS_ENTROPY, L2, PENALTY, RATIO
from distancing.training.trainer import Trainer


def settings(**changes: Any) -> Config:
    """Return the settings of a tiny run that descends and escapes, made of objects instead of YAML."""
    usual: dict[str, Any] = {
        "dataset": Digits(train_images=60), "model": MLP(width=9), "optimizer": SGD(lr=0.01), "scheduler": Constant(),
        "penalty": Penalty(distance=Euclidean(), kernel=Gaussian(), strength=2.0, sigma=1.5),
        "phases": {"descend": Phase(checkpoint=True), "escape": Phase(penalty=True)},
        "seed": 0, "epochs": 2, "batch_size": 16, "label_smoothing": 0.0, "device": "cpu", "precision": "fp32",
        "channels_last": False, "compile": False, "evaluate_every": 1, "save_every": 1,
        "name": "tiny", "runs": "runs", "overwrite": False, "hash": "0" * 8,
    }  # fmt: skip
    return Config(**{**usual, **changes})


def trainer_of(config: Config) -> Trainer:
    device = torch.device("cpu")
    return Trainer(config, config.dataset.load(device, config.memory_format(device)), device)


def build(*overrides: str) -> Trainer:
    return trainer_of(check(compose(*TINY, *overrides)))


def drive(trainer: Trainer, folder: Any) -> Trainer:
    with RunDirectory(folder) as directory:
        assert train(trainer, directory, lambda *_: True, lambda _: None, lambda: None)
    return trainer


def test_the_loss_of_one_step_is_that_of_the_thesis() -> None:
    """Cross entropy with labels smoothed by k, λ‖θ‖² (1.13) and s·Σ_c k(θ, θ_c) (2.9), in float64, by autograd."""
    phases = {"descend": Phase(penalty=True), "escape": Phase()}
    trainer = trainer_of(settings(label_smoothing=0.3, optimizer=SGD(lr=0.01, l2=0.02), phases=phases))
    for shift in (0.02, -0.05):
        trainer.add_checkpoint({"name": str(shift)}, trainer.theta.vector + shift)
    images, labels = next(Epoch(trainer.data, 16, 0, 0).batches())

    network = MLP(width=9).build((1, 8, 8), 10).double()
    network.load_state_dict(trainer.network.state_dict())
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
    data, decay, push = (torch.cat([g.flatten() for g in part]) for part in gradients)

    before, record = trainer.theta.vector.clone(), trainer.records[0]
    trainer.begin_epoch()
    trainer.step()
    expected = before.double() - 0.01 * (data + decay + push)
    torch.testing.assert_close(trainer.theta.vector.double(), expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(record[CROSS_ENTROPY].double(), cross_entropy, rtol=1e-5, atol=0)
    torch.testing.assert_close(record[L2].double(), l2, rtol=1e-5, atol=0)
    torch.testing.assert_close(record[PENALTY].double(), penalty, rtol=1e-5, atol=0)
    torch.testing.assert_close(record[COSINE].double(), F.cosine_similarity(data, push, dim=0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(record[RATIO].double(), push.norm() / data.norm(), rtol=1e-5, atol=0)
    assert record[CORRECT] == (logits.argmax(1) == labels).sum()


def test_the_default_speed_changes_nothing_beyond_rounding() -> None:
    """Steps with hills in another memory format agree with those in PyTorch's default one."""
    ends = {}
    for speed in ("plain", "default"):
        trainer = build(f"speed={speed}", "model.width=16", "phases.descend.penalty=true", "optimizer.l2=0.01")
        trainer.add_checkpoint({"name": "near"}, trainer.theta.vector + 0.01)
        trainer.begin_epoch()
        for _ in range(3):
            trainer.step()
        ends[speed] = torch.cat([value.flatten() for value in trainer.theta.named(trainer.theta.vector).values()])
    assert compose("speed=default").channels_last != compose("speed=plain").channels_last
    torch.testing.assert_close(ends["default"], ends["plain"], rtol=1e-4, atol=1e-6)


def test_a_run_of_two_phases_is_algorithm_3(tmp_path: Any) -> None:
    """Each row has the phase of its epoch, the height of the hill, and the distance to its checkpoint."""
    trainer = drive(build("phases=distancing", "epochs=7", "penalty.strength=3"), tmp_path)
    assert [row["phase"] for row in trainer.rows] == ["descend"] * 4 + ["escape"] * 3
    assert all(row["train/penalty"] == 0 and row["gradient_cosine"] is None for row in trainer.rows[:4])
    assert all(row["train/penalty"] > 0 and -1 <= row["gradient_cosine"] <= 1 for row in trainer.rows[4:])
    assert all(row["distance/descend"] is None for row in trainer.rows[:4])
    distances, heights = ([row[f"{name}/descend"] for row in trainer.rows[4:]] for name in ("distance", "hill"))
    assert distances == sorted(distances)
    assert heights == sorted(heights, reverse=True)
    for d, k in zip(distances, heights, strict=True):
        sigma = trainer.hills.widths[0].item()
        assert k == pytest.approx(math.exp(-(d**2) / (2 * sigma**2)), rel=1e-4)
    for row in trainer.rows:
        assert row["train/loss"] == pytest.approx(row["train/cross_entropy"] + row["train/l2"] + row["train/penalty"])


def test_epoch_metrics_are_means_over_images() -> None:
    """48 images in batches of 20, 20 and 8: the last batch counts by its size."""
    trainer = build(
        "phases=single", "epochs=1", "batch_size=20", "optimizer.lr=1e-9", "dataset.augment=false"
    )  # θ hardly moves
    trainer.network.eval()
    trainer.network.train = lambda *_: trainer.network  # type: ignore[method-assign]  # batch norm off: batches don't matter
    one_epoch(trainer)
    trainer.end_epoch()
    scores = evaluate(trainer.network, trainer.data, trainer.data.train, trainer.stepper.autocast)
    assert trainer.rows[0]["train/cross_entropy"] == pytest.approx(scores["loss"], rel=1e-5)
    assert trainer.rows[0]["train/accuracy"] == pytest.approx(scores["accuracy"])


WAITS = ("_local_scalar_dense", "nonzero", "equal", "masked_select", "unique", "bincount")  # these wait for the device


class Watched(TorchDispatchMode):
    """Count the operations that would wait for a device, and the elements of the largest new tensor."""

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
        outputs = func(*args, **(kwargs or {}))
        self.waits += any(name in str(func) for name in WAITS)
        memory = {
            leaf.untyped_storage().data_ptr()
            for leaf in pytree.tree_leaves((args, kwargs))
            if hasattr(leaf, "data_ptr")
        }
        for leaf in pytree.tree_leaves(outputs):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage().data_ptr() not in memory:
                self.largest = max(self.largest, leaf.numel())
        return outputs


PENALTIES = sorted(path.stem for path in (Path(__file__).parents[1] / "conf/penalty").glob("*.yaml"))


@pytest.mark.parametrize("penalty", [*PENALTIES, "well_tempered penalty.half_life=3 penalty.newest=1"])
def test_no_step_waits_for_the_device(penalty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An epoch of many steps waits as often as one of few: at its end."""
    waits = {}
    for batch_size in (32, 64):
        trainer = build(f"batch_size={batch_size}", "phases.descend.penalty=true", *f"penalty={penalty}".split())
        for shift in (0.01, 0.02):
            trainer.add_checkpoint({"name": str(shift)}, trainer.theta.vector + shift)
        with monkeypatch.context() as patch, Watched(patch) as watched:
            one_epoch(trainer)
        waits[trainer.steps] = watched.waits
    assert len(waits) == 2
    assert len({*waits.values()}) == 1, waits


def test_hills_need_no_memory_beside_their_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """K checkpoints take K·P numbers, stored once, and no step allocates a tensor of that size, but for small ones."""
    monkeypatch.setattr(distances, "SMALL", 0)
    trainer = build("model.width=16", "phases=cycles", "phases.cycle.times=8", "epochs=17")
    bank = trainer.checkpoints.parameters.untyped_storage()
    assert len(bank) == 4 * 9 * len(trainer.theta)
    for i in range(9):
        trainer.add_checkpoint({"name": str(i)}, trainer.theta.vector + 0.01 * i)
    assert trainer.hills is not None
    for kept in (trainer.checkpoints.parameters, trainer.hills.checkpoints, trainer.hills.centres):
        assert kept.untyped_storage().data_ptr() == bank.data_ptr()
    with Watched(monkeypatch) as watched, torch.no_grad():
        trainer.stepper.push(trainer.data.normalise(trainer.data.train.images[:8]))
    assert watched.largest == len(trainer.theta)


def test_early_end_by_training_loss_leaves_its_epochs_to_the_rest(tmp_path: Any) -> None:
    trainer = drive(
        build("phases=distancing", "epochs=40", "phases.descend.until_loss=1.8", "optimizer.lr=0.1"), tmp_path
    )
    descend = [row for row in trainer.rows if row["phase"] == "descend"]
    assert 1 < len(descend) < 20
    assert descend[-1]["train/cross_entropy"] < 1.8 <= descend[-2]["train/cross_entropy"]
    assert len(trainer.rows) == 40


def test_a_schedule_that_continues_after_an_early_end_still_reaches_its_end(tmp_path: Any) -> None:
    """Each escape ends after one epoch, and each settle takes the rest: its last step has the end of the cosine."""
    settings = ["phases=cycles", "phases.cycle.times=2", "epochs=25", "phases.cycle.phases.escape.until_loss=99"]
    trainer = drive(build(*settings, "scheduler=cosine", "optimizer.lr=0.1"), tmp_path)
    last = {row["phase"]: row["lr"] for row in trainer.rows}
    epochs = Counter(row["phase"] for row in trainer.rows)
    assert (epochs["escape-1"], epochs["escape-2"]) == (1, 1)
    for i in (1, 2):
        length = 1 + epochs[f"settle-{i}"]
        assert last[f"settle-{i}"] == pytest.approx(0.1 * (1 + math.cos(math.pi * (length - 1) / length)) / 2)


@pytest.mark.parametrize("folds", [[], ["dataset.validation_fraction=0", "dataset.folds=5", "dataset.fold=1"]])
def test_early_stopping_goes_back_to_the_best(folds: list[str], tmp_path: Any) -> None:
    """Label noise by a huge learning rate makes the validation loss rise: the checkpoint is the best epoch's."""
    settings = ["phases=distancing", "epochs=30", "phases.descend.patience=3", "optimizer.lr=0.3", "evaluate_every=30"]
    trainer = drive(build(*settings, *folds), tmp_path)
    losses = [row["validation/loss"] for row in trainer.rows if row["phase"] == "descend"]
    best = min(range(len(losses)), key=losses.__getitem__)
    assert len(losses) == best + 1 + 3
    last = [row for row in trainer.rows if row["phase"] == "descend"][-1]
    assert None not in (last["test/loss"], last["validation/accuracy"])  # as at the end of any phase
    assert trainer.checkpoints.infos[0]["metrics"]["validation"]["loss"] == pytest.approx(losses[best], rel=1e-6)


@pytest.mark.parametrize(
    ("overrides", "restarts"),
    [
        (["phases=cycles", "scheduler=cosine", "epochs=14"], [0, 2, 6, 10]),  # descend 2, then escape 2, settle 2
        (["phases=snapshot", "scheduler=cosine", "phases.cycle.times=4"], [0, 2, 4, 6]),
        (["phases=single", "scheduler=cosine_restarts", "scheduler.period=3"], [0, 3, 6]),
    ],
)
def test_learning_rates_over_a_run(overrides: list[str], restarts: list[int], tmp_path: Any) -> None:
    trainer = drive(build(*overrides, "optimizer.lr=0.1"), tmp_path)
    lrs = [row["lr"] for row in trainer.rows]
    assert [i for i, lr in enumerate(lrs) if lr == 0.1] == restarts
    assert all(a > b for i, (a, b) in enumerate(itertools.pairwise(lrs)) if i + 1 not in restarts)


def test_a_random_direction_moves_filters_by_their_norm() -> None:
    """‖Δfilter‖ / ‖filter‖ is one number for all filters of all layers; biases and batch norms stay."""
    network = build().network
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
    """A phase begins with the jump, without the velocity, in a direction that follows from (seed, epoch). A run that is
    resumed later does not jump again."""
    trainer = build("phases=jumps", "phases.cycle.phases.escape.jump=3")
    one_epoch(trainer)
    trainer.end_epoch()
    before = trainer.theta.vector.clone()
    assert trainer.stepper.optimizer.state
    with RunDirectory(tmp_path) as directory:
        trainer.end_phase(directory)
        jump = trainer.theta.vector - before
        assert trainer.phase_name == "escape-1"
        assert jump.norm().item() == pytest.approx(3, rel=1e-5)
        assert torch.equal(trainer.checkpoints.parameters[0], before)
        assert not trainer.stepper.optimizer.state
        other = build("phases=jumps", "phases.cycle.phases.escape.jump=3")
        other.load_state_dict(trainer.state_dict(), directory)
        for either in (other, trainer):
            either.end_phase(directory)
            assert either.phase_name == "settle-1"
            assert torch.equal(either.theta.vector - before, jump)

    def jumped(seed: int, epoch: int) -> torch.Tensor:
        trainer.config = dataclasses.replace(trainer.config, seed=seed)
        trainer.progress.phase, trainer.progress.epoch = 1, epoch
        trainer.theta.vector.copy_(before)
        trainer._begin_phase()
        return trainer.theta.vector - before

    jumps = torch.stack([jumped(seed, epoch) for seed, epoch in ((1, 1), (1, 2), (0, 2), (2**32 - 1, 1), (0, 1))])
    assert torch.equal(jumps[-1], jump)
    assert (F.normalize(jumps) @ F.normalize(jumps).T - torch.eye(5)).abs().max() < 0.3


def test_an_independent_network_in_the_same_run(tmp_path: Any) -> None:
    """It begins where the network of another seed begins, and leaves dropout's generator unchanged."""
    trainer = build("phases=independent", "phases.cycle.times=3")
    begins = [trainer.theta.vector.clone()]
    with RunDirectory(tmp_path) as directory:
        for _ in range(2):
            one_epoch(trainer)
            trainer.end_epoch()
            rng = torch.get_rng_state()
            trainer.end_phase(directory)
            assert torch.equal(torch.get_rng_state(), rng)
            assert not trainer.stepper.optimizer.state
            begins.append(trainer.theta.vector.clone())
        torch.manual_seed(trainer._phase_seed())
        dataset = trainer.config.dataset
        network = trainer.config.model.build(dataset.image_shape, dataset.classes)
        assert torch.equal(trainer.theta.flatten(network.state_dict()), begins[-1])
        assert all(torch.equal(trainer.network.state_dict()[name], x) for name, x in network.state_dict().items())
        for begin, info in zip(begins, trainer.checkpoints.infos, strict=False):
            checkpoint = Checkpoint(info["name"], directory.checkpoint(info["name"]), trainer.config)
            assert torch.equal(checkpoint.initial_parameters(trainer.theta, checkpoint.initial_seed), begin)
    assert min((a - b).norm() for a, b in itertools.combinations(begins, 2)) > begins[0].norm() / 2


def test_the_first_phase_may_jump() -> None:
    trainer, plain = build("phases=single", "phases.train.jump=0.5"), build("phases=single")
    assert (trainer.theta.vector - plain.theta.vector).norm().item() == pytest.approx(0.5, rel=1e-5)
    assert torch.equal(trainer.hills.start, plain.hills.start)

"""Algorithm 3 on real parts: the step, the epoch, the phase, and everything that changes meanwhile."""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from distancing.config import LARGE, Config
from distancing.data import Data, Epoch
from distancing.distances import PIECE
from distancing.evaluate import evaluate, loss_and_accuracy, predict
from distancing.features import Network
from distancing.penalty import Hills
from distancing.phases import Phase, share, unroll
from distancing.provenance import provenance
from distancing.storage import RunDirectory, StorageError, load, save
from distancing.theta import Theta, filter_direction

# what each step leaves in `records`; read once an epoch, so that no step waits for the device
CROSS_ENTROPY, L2, PENALTY, COSINE, RATIO, CORRECT = range(6)

# of an epoch's steps: the cosine between the data's gradient and the hills' (its mean), the ratio of their lengths and
# the angle by which the hills turn the gradient (their medians); and each one's deciles
GRADIENTS = [f"gradient_{name}{part}" for name in ("cosine", "ratio", "angle") for part in ("", "_p10", "_p90")]

Request = Literal["save", "stop"] | None  # of who watches the steps


class Diverged(Exception):
    """The loss or the parameters are no longer finite. `step` counts from 1 within the epoch."""

    def __init__(self, phase: str, epoch: int, step: int) -> None:
        super().__init__(f"the loss is not finite in phase {phase}, epoch {epoch}, step {step}")
        self.phase, self.epoch, self.step = phase, epoch, step


@dataclasses.dataclass
class Progress:
    """Where a run is. `epoch` and `step` count what is done: epochs of the run, steps of the next epoch."""

    epoch: int = 0
    step: int = 0
    phase: int = 0  # of the plan; its length once all are done
    phase_start: int = 0  # epochs done when it began
    phase_epochs: int = 0  # at most
    schedule_start: int = 0  # epochs done when the learning-rate schedule (re)started
    schedule_epochs: int = 0  # from there to its next restart
    seconds: float = 0.0  # of work in all
    training_seconds: float = 0.0  # of these, in training steps


class Trainer:
    """A run in memory: network, optimiser, stored checkpoints and progress. `train` drives it to its end."""

    def __init__(self, config: Config, data: Data, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        network = config.model.build(config.dataset.image_shape, config.dataset.classes)
        self.config, self.data, self.device = config, data, device
        self.network = network.to(device).to(memory_format=data.memory_format)
        self.forward = torch.compile(self.network, dynamic=False) if config.compile else self.network
        self.autocast = config.autocast(device)
        self.theta = Theta(self.network)
        self.start = self.theta.vector.clone()  # θ_0
        self.optimizer = config.optimizer.build(self.theta)
        # (1.1.4): PyTorch spreads its ε over all C classes, the thesis its k over the C − 1 wrong ones
        self.label_smoothing = config.label_smoothing * config.dataset.classes / (config.dataset.classes - 1)
        self.steps = -(-len(data.train) // config.batch_size)
        self.records = torch.zeros(self.steps, 6, device=device)
        self.nothing = torch.zeros((), device=device)

        self.plan = unroll(config.phases)
        self.progress = Progress()
        self.rows: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None  # of the phase, with early stopping
        self.final: dict[str, Any] | None = None  # the network at the end of the run
        self.checkpoints: list[dict[str, Any]] = []
        stored = sum(phase.checkpoint for phase in self.plan.values())
        self._bank = self.theta.vector.new_empty(stored, len(self.theta))  # all that the places will ever need
        seen = Network(self.theta, self.network, self._first_images, self.autocast)
        self.hills = Hills(config.penalty, self.start, seen) if config.penalty else None
        self._begin_phase()

    # one step

    def step(self, images: Tensor, labels: Tensor, record: Tensor) -> None:
        """One step down (2.9), cross entropy + λ‖θ‖² + hills; `record` [6] gets what it was made of."""
        theta = self.theta
        with self.autocast:
            logits = self.forward(images)
        cross_entropy = F.cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing)
        cross_entropy.backward()
        theta.collect_gradient()
        with torch.no_grad():
            l2 = self.config.optimizer.l2 * theta.vector.dot(theta.vector)  # its gradient is the optimiser's part
            penalty, cosine, ratio = self.push(images) if self.hills_act else [self.nothing] * 3
            correct = (logits.argmax(1) == labels).sum()
            torch.stack((cross_entropy.detach(), l2, penalty, cosine, ratio, correct.float()), out=record)
        self.optimizer.step()
        if self.hills_act and self.config.penalty and self.config.penalty.fixed_norm:
            self._keep_norm()

    def push(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(2.11) Add the hills' gradient to the data's: the energy; the cosine between the two, and how many times as
        long as the data's the hills' is."""
        assert self.hills is not None
        data = self.theta.gradient
        energy, push, k = self.hills.energy(self.theta.vector, images)
        self.hills.pass_time(k, 1 / self.steps)
        cosine, ratio = cosine_and_ratio(data, push)
        data += push
        return energy, cosine, ratio

    @property
    def hills_act(self) -> bool:
        return self.hills is not None and len(self.hills) > 0 and self.phase.penalty

    def _keep_norm(self) -> None:
        assert self.hills is not None
        with torch.no_grad():
            self.theta.vector.mul_(self.hills.norm / self.theta.vector.square().sum().sqrt())

    def _first_images(self, n: int) -> Tensor:
        return self.data.normalise(self.data.train.images[:n])

    # one epoch

    def epoch(self, on_step: Callable[[], bool]) -> None:
        """The rest of the current epoch; or up to the step after which `on_step` is false."""
        begun, progress, config = time.perf_counter(), self.progress, self.config
        self.network.train()
        batches = Epoch(self.data, config.batch_size, config.seed, progress.epoch).batches(progress.step)
        going_on = True
        while going_on and progress.step < self.steps:
            images, labels = next(batches)
            for group in self.optimizer.param_groups:
                group["lr"] = self._lr(progress.step)
            self.step(images, labels, self.records[progress.step])
            progress.step += 1
            going_on = on_step()
        self._check_finite(progress.step)  # waits for the device
        progress.training_seconds += time.perf_counter() - begun
        progress.seconds += time.perf_counter() - begun

    def _lr(self, step: int) -> float:
        t = self.progress.epoch - self.progress.schedule_start + step / self.steps
        rate = self.config.scheduler(self.config.optimizer.lr, t, self.progress.schedule_epochs)
        return rate if rate < LARGE else math.inf  # torch refuses what no float32 can hold; this diverges

    def _check_finite(self, steps: int) -> None:
        finite = self.records[:steps].isfinite().all(1).cpu()
        if not finite.all() or not self.theta.vector.isfinite().all():
            first = int(finite.int().argmin()) + 1 if not finite.all() else steps
            raise Diverged(self.phase_name, self.progress.epoch + 1, first)

    def end_epoch(self) -> bool:
        """Count the epoch and add its row; true if it was the phase's last."""
        begun, progress, phase = time.perf_counter(), self.progress, self.phase
        row: dict[str, Any] = {"epoch": progress.epoch + 1, "phase": self.phase_name, "lr": self._lr(0)}
        row |= self._train_metrics()
        progress.epoch, progress.step = progress.epoch + 1, 0
        over = progress.epoch - progress.phase_start >= progress.phase_epochs
        over = over or (phase.until_loss is not None and row["train/cross_entropy"] < phase.until_loss)
        due = over or progress.epoch % self.config.evaluate_every == 0
        for split in ("validation", "test"):
            if split in self.data.splits and (due or (split == "validation" and phase.patience)):
                row |= {f"{split}/{name}": value for name, value in self._evaluate(split).items()}
        if phase.patience:
            over = self._keep_best(row["validation/loss"], phase.patience) or over
        row |= self._places_metrics()
        progress.seconds += time.perf_counter() - begun
        row["seconds"] = progress.seconds - sum(each["seconds"] for each in self.rows)
        self.rows.append({name: row.get(name) for name in self.columns})
        return over

    def _train_metrics(self) -> dict[str, float | None]:
        records = self.records.cpu().double()
        n, size = len(self.data.train), self.config.batch_size
        weights = torch.tensor([min(size, n - i * size) / n for i in range(self.steps)], dtype=torch.float64)
        mean = weights @ records
        return {
            "train/cross_entropy": float(mean[CROSS_ENTROPY]),
            "train/l2": float(mean[L2]),
            "train/penalty": float(mean[PENALTY]),
            "train/loss": float(mean[CROSS_ENTROPY] + mean[L2] + mean[PENALTY]),
            "train/accuracy": float(records[:, CORRECT].sum()) / n,
            **(gradients(records[:, COSINE], records[:, RATIO], weights) if self.hills_act else {}),
        }

    def _places_metrics(self) -> dict[str, float]:
        """Where the parameters are: their norm, their distances (2.1) to the checkpoints, the hills' heights."""
        theta, names = self.theta.vector, [checkpoint["name"] for checkpoint in self.checkpoints]
        metrics = {"parameter_norm": float(theta.square().sum().sqrt())}
        metrics |= {f"distance/{name}": d for name, d in zip(names, distances(theta, self.places), strict=True)}
        if self.hills is not None and names:
            heights = self.hills.heights(theta).tolist()
            metrics |= {f"hill/{name}": k for name, k in zip(names, heights, strict=True)}
            if self.hills_change:
                strengths = self.hills.strengths.tolist()
                metrics |= {f"strength/{name}": s for name, s in zip(names, strengths, strict=True)}
        return metrics

    @property
    def hills_change(self) -> bool:
        penalty = self.config.penalty
        return penalty is not None and bool(penalty.growth or penalty.half_life)

    @property
    def columns(self) -> list[str]:
        """Of a row; those of checkpoints still to come are empty until then."""
        stored = [name for name, phase in list(self.plan.items())[:-1] if phase.checkpoint]
        splits = [split for split in ("validation", "test") if split in self.data.splits]
        hills = [f"hill/{name}" for name in stored] if self.hills is not None else []
        hills += [f"strength/{name}" for name in stored] if self.hills_change else []
        return [
            "epoch", "phase", "lr",
            *(f"train/{name}" for name in ("cross_entropy", "l2", "penalty", "loss", "accuracy")),
            *(f"{split}/{name}" for split in splits for name in ("loss", "accuracy")),
            "parameter_norm", *(f"distance/{name}" for name in stored), *hills, *GRADIENTS, "seconds",
        ]  # fmt: skip

    def _evaluate(self, split: str) -> dict[str, float]:
        return evaluate(self.network, self.data, self.data.splits[split], self.autocast)

    # one phase

    @property
    def done(self) -> bool:
        return self.progress.phase == len(self.plan)

    @property
    def phase_name(self) -> str:
        return list(self.plan)[self.progress.phase]

    @property
    def phase(self) -> Phase:
        return self.plan[self.phase_name]

    def _begin_phase(self) -> None:
        progress = self.progress
        coming = list(self.plan.values())[progress.phase :]
        epochs = share(coming, self.config.epochs - progress.epoch)
        progress.phase_start, progress.phase_epochs = progress.epoch, epochs[0]
        if progress.phase == 0 or coming[0].restart_schedule:
            restarts = [i for i, phase in enumerate(coming) if phase.restart_schedule and i > 0]
            progress.schedule_start = progress.epoch
            progress.schedule_epochs = sum(epochs[: restarts[0] if restarts else None])
        self.best = None
        if coming[0].reinitialise:
            self._reinitialise()
        if coming[0].jump:
            self._jump(coming[0].jump)

    def _reinitialise(self) -> None:
        """Begin again with other initial parameters, as an independent network."""
        dataset = self.config.dataset
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._epoch_seed())
            fresh = self.config.model.build(dataset.image_shape, dataset.classes)
        self.network.load_state_dict(fresh.state_dict())
        self.optimizer.state.clear()  # the velocity belonged to another place

    def _jump(self, length: float) -> None:
        """Go `length` in a random direction."""
        direction = filter_direction(self.theta, torch.Generator().manual_seed(self._epoch_seed()))
        self.theta.vector.add_(direction, alpha=length)
        self.optimizer.state.clear()  # the velocity belonged to another place

    def _epoch_seed(self) -> int:
        """What is random at the begin of a phase follows from (seed, epoch): a run that goes on needs no generator's
        state, and has what came of it in its own."""
        # mixed into 32 bits, since torch's CPU generator ignores the others
        (seed,) = np.random.SeedSequence([self.config.seed, self.progress.epoch]).generate_state(1)
        return int(seed)

    def end_phase(self, directory: RunDirectory) -> None:
        """Go back to the best parameters, store a checkpoint, go on to the next phase; as the phase says."""
        begun = time.perf_counter()
        if self.best is not None:
            self.network.load_state_dict(self.best["network"])
            self.optimizer.state.clear()  # the velocity belonged to another place
        if self.phase.checkpoint:
            info = self.save_checkpoint(directory, self.phase_name)
            self.add_place(info, self.theta.vector)
        self.progress.phase += 1
        if not self.done:
            self._begin_phase()
        self.progress.seconds += time.perf_counter() - begun

    def _keep_best(self, loss: float, patience: int) -> bool:
        """Remember the parameters if they are the phase's best so far; true if they haven't been for too long."""
        loss = loss if math.isfinite(loss) else math.inf
        if self.best is None or loss < self.best["loss"]:
            network = {name: value.clone() for name, value in self.network.state_dict().items()}
            self.best = {"loss": loss, "epoch": self.progress.epoch, "network": network}
        return self.progress.epoch - int(self.best["epoch"]) >= patience

    def save_checkpoint(self, directory: RunDirectory, name: str) -> dict[str, Any]:
        """Store the network, named tensors as its `state_dict`, with what is known of it; returns the latter.

        Its logits are kept beside it, for the ensemble.

        Raises Diverged if its training loss is not finite.
        """
        last = list(self.plan)[-1]
        phase = last if self.done else self.phase_name
        info: dict[str, Any] = {"name": name, "phase": phase, "epoch": self.progress.epoch}
        splits = self.data.splits
        logits = {name: predict(self.network, self.data, split, self.autocast) for name, split in splits.items()}
        info["metrics"] = {name: loss_and_accuracy(logits[name], split.labels.cpu()) for name, split in splits.items()}
        if not math.isfinite(info["metrics"]["train"]["loss"]):
            raise Diverged(phase, self.progress.epoch, self.steps)
        network = {key: value.cpu().contiguous().clone() for key, value in self.network.state_dict().items()}
        save(directory.checkpoint(name), {**info, "config_hash": self.config.hash, "network": network})
        directory.save_logits(name, {split.fingerprint: logits[name] for name, split in splits.items()})
        return info

    @property
    def places(self) -> Tensor:
        """θ_c [K, P]."""
        return self._bank[: len(self.checkpoints)]

    def add_place(self, info: dict[str, Any], place: Tensor) -> None:
        k = len(self.checkpoints)
        self.checkpoints.append(info)
        if k == len(self._bank):  # more than the phases store
            self._bank = torch.cat((self._bank, place[None]))
        self._bank[k] = place
        if self.hills is not None:
            self.hills.put(self.places)

    # the state of an unfinished run

    def state_dict(self) -> dict[str, Any]:
        """All that a later process needs to go on as if there had been no break; the places are in their files."""
        cuda = self.device.type == "cuda"
        return {
            "provenance": provenance(),
            "config_hash": self.config.hash,
            "threads": torch.get_num_threads(),  # on which the last digits depend
            "progress": dataclasses.asdict(self.progress),
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "records": self.records,
            "best": self.best,
            "checkpoints": self.checkpoints,
            "strengths": self.hills.strengths if self.hills is not None else None,
            "rows": self.rows,
            "rng": torch.get_rng_state(),  # of dropout; order and augmentation need none
            "cuda_rng": torch.cuda.get_rng_state(self.device) if cuda else None,
        }

    def load_state_dict(self, state: dict[str, Any], directory: RunDirectory) -> None:
        """Raises StorageError for a state of another run, or if a checkpoint's file is damaged or of another run."""
        if state.get("config_hash", self.config.hash) != self.config.hash:
            raise StorageError(f"{directory.path} holds the state of another run, {state['config_hash']}")
        self.progress = Progress(**state["progress"])
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.records.copy_(state["records"])
        self.best, self.rows = state["best"], state["rows"]
        for info in state["checkpoints"]:
            stored = load(directory.checkpoint(info["name"]), self.device)
            if stored["config_hash"] != self.config.hash:
                raise StorageError(f"{directory.checkpoint(info['name'])} is the checkpoint of another run")
            self.add_place(info, self.theta.flatten(stored["network"]))
        if self.hills is not None:
            self.hills.strengths.copy_(state["strengths"])
        torch.set_rng_state(state["rng"].cpu())
        if self.device.type == "cuda" and state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"].cpu(), self.device)


def cosine_and_ratio(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Of two vectors [P]: the cosine between them, 0 if one is 0; and ‖b‖ / ‖a‖, where a is 0 the largest float there
    is. The far side of a hill is as steep as 1e-30, whose square is no float32."""
    units = [x.aminmax() for x in (a, b)]
    a_unit, b_unit = (torch.maximum(-low, high).clamp_min(torch.finfo(a.dtype).tiny) for low, high in units)
    products = torch.zeros(3, dtype=a.dtype, device=a.device)
    for x, y in zip(a.split(PIECE), b.split(PIECE), strict=True):
        x, y = x / a_unit, y / b_unit
        products += torch.stack((x.dot(y), x.dot(x), y.dot(y)))
    lengths = products[1:].sqrt()
    cosine = products[0] / lengths.prod().clamp_min(1)  # 1: the largest element, squared
    ratio = b_unit / a_unit * lengths[1] / lengths[0].clamp_min(1)
    return cosine, ratio.clamp_max(torch.finfo(a.dtype).max)  # infinite it would pass for a divergence


def gradients(cosines: Tensor, ratios: Tensor, weights: Tensor) -> dict[str, float]:
    """GRADIENTS of an epoch, from each step's cosine and ratio [S] and its share of the images, in float64."""
    # between g and g + h, where h is `ratio` times as long as g: degrees
    angles = torch.atan2(ratios * (1 - cosines.square()).clamp_min(0).sqrt(), 1 + ratios * cosines).rad2deg()
    deciles = torch.stack((cosines, ratios, angles)).quantile(cosines.new_tensor([0.1, 0.5, 0.9]), dim=1)
    low, middle, high = (each.tolist() for each in deciles)
    middle[0] = float(weights @ cosines)
    return dict(zip(GRADIENTS, [x for each in zip(middle, low, high, strict=True) for x in each], strict=True))


def distances(theta: Tensor, places: Tensor) -> list[float]:
    """(2.1) ‖θ − θ_c‖ from θ [P] to each place [K, P]."""
    found: list[float] = (theta - places).square().sum(1).sqrt().tolist()
    return found


def train(
    trainer: Trainer,
    directory: RunDirectory,
    on_step: Callable[[float, str], Request],
    on_epoch: Callable[[dict[str, Any]], None],
    before_save: Callable[[], None],
) -> bool:
    """Drive the run to its end, saving its state as it goes; false if `on_step` asked to stop before that.

    on_step: gets the epochs done (a fraction) and the phase; may ask to save the state after this step, or to
        save it and stop.
    on_epoch: gets each new row. before_save: called before a state that includes those rows is written.
    Raises Diverged, and leaves the last good state as it is.
    """
    request: Request = None

    def save_state() -> None:
        before_save()
        directory.save_state(trainer.state_dict(), trainer.progress.epoch, trainer.progress.step)

    def stepped() -> bool:
        nonlocal request
        progress = trainer.progress
        request = on_step(progress.epoch + progress.step / trainer.steps, trainer.phase_name)
        return request is None

    if trainer.progress.epoch == trainer.progress.step == 0:
        save_state()  # a disk that can't be written to is found out before any work
    while not trainer.done:
        trainer.epoch(stepped)
        epoch_over = trainer.progress.step == trainer.steps
        phase_over = epoch_over and trainer.end_epoch()
        if epoch_over:
            on_epoch(trainer.rows[-1])
        if phase_over:
            trainer.end_phase(directory)
        if phase_over or request or (epoch_over and trainer.progress.epoch % trainer.config.checkpoint_every == 0):
            save_state()
        if request == "stop" and not trainer.done:
            return False
    trainer.final = trainer.save_checkpoint(directory, "final")
    return True

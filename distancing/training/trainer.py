"""The trainer of a run: its network, optimiser, hills and checkpoints, and its position in the plan."""

import dataclasses
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from torch.optim.optimizer import StateDict

from distancing.component.trust import own_modules
from distancing.data.batches import Data
from distancing.errors import StorageError
from distancing.hills.hills import Hills
from distancing.hills.theta import filter_direction
from distancing.models.evaluation import batch_norms, evaluate, refresh_batch_norm
from distancing.runs import RunDirectory
from distancing.runs.metrics_file import Row
from distancing.training.averaging import Average
from distancing.training.checkpoints import About, Checkpoints, Info, save_checkpoint
from distancing.training.early_stopping import Best
from distancing.training.gradient_check import GradientCheck
from distancing.training.metrics import columns, distances, training_metrics
from distancing.training.plan import Phase, checkpoints, unroll
from distancing.training.progress import Diverged, Progress
from distancing.training.provenance import device_name, provenance
from distancing.training.replay import CudaGraphs, Replay
from distancing.training.settings import LARGE, Config
from distancing.training.step import PENALTY, Stepper


class Trainer:
    """A run in memory, which `loop.train` takes to its end.

    progress: the position in the plan. rows: the rows of metrics.csv so far. best: the phase's best network so far.
    average: the average of the phase's parameters; None if it has none.
    records: the records of this epoch's steps [S, 6]. replay: takes the steps, on a GPU as captured graphs.
    final: the name, phase, epoch, passes and metrics of the final network; None before the end.
    devices: the names of the devices that the run has trained on, one after the other.
    gradient_check: the outcome of the check of this machine's gradient; None if it was not checked.
    """

    def __init__(self, config: Config, data: Data, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        self.config, self.data, self.device = config, data, device
        self.network = config.build_network(device)
        self.stepper = Stepper(config, self.network, data, device)
        self.theta, self.records = self.stepper.theta, self.stepper.records
        self.steps = len(self.records)  # the number of steps of an epoch
        graphs = CudaGraphs(device) if config.graph and device.type == "cuda" else None
        self.replay = Replay(self.stepper.step, graphs, self.theta.clear_gradients, _host_work(config))
        self.plan = unroll(config.phases)
        self.progress = Progress(initial_seed=config.seed)
        self.best = Best()
        self.average: Average | None = None
        self.rows: list[Row] = []
        self.final: Info | None = None
        self.devices = [device_name(device)]
        self.gradient_check: GradientCheck | None = None
        self.checkpoints = Checkpoints(self.theta, len(checkpoints(self.plan)))
        if config.penalty:
            self.stepper.hills = Hills(
                self.network,
                config.penalty,
                steps_per_epoch=self.steps,
                inputs=self._spread_images,
                autocast=self.stepper.autocast,
                theta=self.theta,
            )
        self._begin_phase()

    # steps

    def begin_epoch(self) -> None:
        """Prepare the remaining steps of this epoch."""
        self.network.train()
        rates = [self._lr(step) for step in range(self.steps)]
        self.stepper.begin(self.progress.epoch, self.progress.step, rates, [self._noise(lr) for lr in rates])

    def step(self) -> None:
        """Take one step, and count it."""
        images = min(self.config.batch_size, len(self.data.train) - self.progress.step * self.config.batch_size)
        self.replay(images, self.hills_act, self.phase.temperature is not None)
        self._count(images, images)
        if self.hills is not None and self.hills_act:
            self._count(*self.hills.features.passes(images, len(self.hills.strengths[self.hills.acting])))
        self.progress.step += 1

    def _count(self, forward: int, backward: int) -> None:
        """Count the images of forward and backward passes."""
        self.progress.forward += forward
        self.progress.backward += backward

    @property
    def hills_act(self) -> bool:
        """True if the hills push in this phase."""
        return self.hills is not None and len(self.hills) > 0 and self.phase.penalty

    @property
    def hills(self) -> Hills | None:
        return self.stepper.hills

    @property
    def epochs_done(self) -> float:
        """The number of epochs done, with the fraction of the current one."""
        return self.progress.epoch + self.progress.step / self.steps

    @contextmanager
    def training_time(self) -> Iterator[None]:
        """Measure the time of the training steps inside the `with` block."""
        begun = time.perf_counter()
        yield
        self.progress.training_seconds += time.perf_counter() - begun
        self.progress.seconds += time.perf_counter() - begun

    def check_finite(self) -> None:
        """Raise Diverged if the loss or the parameters are not finite after these steps. This waits for the device."""
        steps = self.progress.step
        finite = self.records[:steps, : PENALTY + 1].isfinite().all(1).cpu()  # the cosine is NaN without a push
        if not finite.all() or not self.theta.vector.isfinite().all():
            first = int(finite.int().argmin()) + 1 if not finite.all() else steps
            raise Diverged(self.phase_name, self.progress.epoch + 1, first)

    def _lr(self, step: int) -> float:
        progress = self.progress
        # the rate at the end of the step, as in the papers whose phases have rates of their own
        after = progress.epoch - progress.phase_start + (step + 1) / self.steps
        if (rate := self.phase.own_lr(after, progress.phase_epochs)) is None:
            t = progress.epoch - progress.schedule_start + step / self.steps
            rate = self.config.scheduler(self.config.optimizer.lr, t, progress.schedule_epochs)
        return rate if rate < LARGE else math.inf  # torch refuses rates above float32's range; infinity diverges

    def _noise(self, lr: float) -> float:
        """Return the standard deviation of the noise on the gradient of the mean loss, as the phase says."""
        if self.phase.temperature is None:
            return 0.0
        # exp(−N · loss / T) is a density of temperature T / N
        return self.config.optimizer.noise(lr, self.phase.temperature / len(self.data.train))

    # epochs

    def end_epoch(self) -> bool:
        """Count the epoch and add its row of metrics; return True if it was the phase's last."""
        begun, progress, phase = time.perf_counter(), self.progress, self.phase
        training = training_metrics(self.records, len(self.data.train), self.config.batch_size, self.hills_act)
        row: dict[str, float | str] = {"epoch": progress.epoch + 1, "phase": self.phase_name, "lr": self._lr(0)}
        row |= training
        progress.epoch, progress.step = progress.epoch + 1, 0
        over = progress.epoch - progress.phase_start >= progress.phase_epochs
        if self.average and phase.average and (progress.epoch - progress.phase_start) % phase.average == 0:
            self.average.add(self.theta.vector)
        over = over or (phase.until_loss is not None and training["train/cross_entropy"] < phase.until_loss)
        if phase.patience:
            row |= self._scores("validation")
            epochs_since_best = self.best.keep(self.network, float(row["validation/loss"]), progress.epoch)
            over = over or epochs_since_best >= phase.patience
        if over or progress.epoch % self.config.evaluate_every == 0:
            for split in ("test",) if phase.patience else ("validation", "test"):
                row |= self._scores(split)
        row |= self._position_metrics()
        progress.seconds += time.perf_counter() - begun
        row["seconds"] = progress.seconds - sum(float(earlier["seconds"] or 0) for earlier in self.rows)
        self.rows.append({name: row.get(name) for name in self.columns})
        return over

    def _scores(self, split: str) -> dict[str, float]:
        """Return the loss and the accuracy on a split; {} if the data have none of this name."""
        if split not in self.data.splits:
            return {}
        scores = evaluate(self.network, self.data, self.data.splits[split], self.stepper.autocast)
        return {f"{split}/{name}": value for name, value in scores.items()}

    def _position_metrics(self) -> dict[str, float]:
        """Return the norm of θ, its distances to the checkpoints (2.1), and the heights and strengths of the hills."""
        theta, names = self.theta.vector, self.checkpoints.names
        metrics = {"parameter_norm": float(theta.square().sum().sqrt())}
        values = {"distance": distances(theta, self.checkpoints.parameters)}
        if self.hills is not None and names:
            values["hill"] = self.hills.heights(theta).tolist()
            if self.hills.penalty.changes:
                values["strength"] = self.hills.strengths.tolist()
        for column, numbers in values.items():
            metrics |= {f"{column}/{name}": number for name, number in zip(names, numbers, strict=True)}
        return metrics

    @property
    def columns(self) -> list[str]:
        """The columns of metrics.csv."""
        splits = [split for split in ("validation", "test") if split in self.data.splits]
        return columns(self.config, splits, checkpoints(dict(list(self.plan.items())[:-1])))

    # phases

    @property
    def done(self) -> bool:
        """True if all phases have ended."""
        return self.progress.phase == len(self.plan)

    @property
    def phase_name(self) -> str:
        return list(self.plan)[min(self.progress.phase, len(self.plan) - 1)]

    @property
    def phase(self) -> Phase:
        return self.plan[self.phase_name]

    def end_phase(self, directory: RunDirectory) -> None:
        """Move to the best or the average parameters, store checkpoints, and begin the next phase."""
        begun = time.perf_counter()
        if self.best.kept is not None:
            self._move(self.best.kept["network"])
        if self.average:
            self._store_samples(self.average, directory)
            self._move_to(self.average.mean)
        if self.average or self.phase.temperature:  # the noise in the velocity is that of the last, smallest rate
            self.stepper.optimizer.state.clear()
        if self.phase.checkpoint:
            self.add_checkpoint(self.save_checkpoint(directory, self.phase_name), self.theta.vector)
        self.progress.phase += 1
        if not self.done:
            self._begin_phase()
        self.progress.seconds += time.perf_counter() - begun

    def _store_samples(self, average: Average, directory: RunDirectory) -> None:
        """Store the phase's networks that are drawn from the Gaussian around the average."""
        generator = torch.Generator().manual_seed(self._phase_seed())
        names = self.phase.stored(self.phase_name)
        for name in names[: self.phase.samples or 0]:
            self._move_to(average.sample(generator))
            self.add_checkpoint(self.save_checkpoint(directory, name), self.theta.vector)

    def _begin_phase(self) -> None:
        self.progress.begin_phase(list(self.plan.values())[self.progress.phase :], self.config.epochs)
        self.best = Best()
        self.replay.forget()
        if self.phase.reinitialise:
            self.progress.initial_seed = self._phase_seed()
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.progress.initial_seed)
                self._move(self.config.build_network(self.device).state_dict())
        if self.phase.jump:
            direction = filter_direction(self.theta, torch.Generator().manual_seed(self._phase_seed()))
            self.theta.vector.add_(direction, alpha=self.phase.jump)
            self.stepper.optimizer.state.clear()
        self.average = Average(self.theta.vector, self.phase.rank) if self.phase.average else None

    def _move(self, network: dict[str, Tensor]) -> None:
        """Set the parameters and buffers, and clear the velocity, which belongs to the old parameters."""
        self.network.load_state_dict(network)
        self.stepper.optimizer.state.clear()

    def _move_to(self, parameters: Tensor) -> None:
        """Set the parameters [P], and the batch-norm statistics that fit them."""
        self.theta.vector.copy_(parameters)
        refresh_batch_norm(self.network, self.data, self.stepper.autocast)
        if batch_norms(self.network):
            self._count(len(self.data.train), 0)

    def _phase_seed(self) -> int:
        """Return a seed that depends on (seed, epoch) alone, so that a resumed run needs no generator state."""
        # 32 bits, because torch's CPU generator ignores the others
        (seed,) = np.random.SeedSequence([self.config.seed, self.progress.epoch]).generate_state(1)
        return int(seed)

    # checkpoints and the state of an unfinished run

    def save_checkpoint(self, directory: RunDirectory, name: str) -> Info:
        """Store the network as checkpoint `name`; return its info. Raise Diverged if its loss is not finite."""
        progress, images = self.progress, len(self.data.train)
        about = About(
            name=name, phase=self.phase_name, epoch=progress.epoch, initial_seed=progress.initial_seed,
            forward=progress.forward / images, backward=progress.backward / images,
        )  # fmt: skip
        info = save_checkpoint(directory, self.network, self.data, self.stepper.autocast, about, self.config.hash)
        if not math.isfinite(info["metrics"]["train"]["loss"]):
            raise Diverged(self.phase_name, progress.epoch, self.steps)
        return info

    def add_checkpoint(self, info: Info, parameters: Tensor) -> None:
        """Add a checkpoint with these parameters [P], and put a hill there."""
        self.checkpoints.add(info, parameters)
        if self.hills is not None:
            self.hills.put(self.checkpoints.parameters)

    def state_dict(self) -> StateDict:
        """Return the state from which a later process resumes bit for bit; checkpoints have their own files."""
        cuda = self.device.type == "cuda"
        return {
            "provenance": provenance(self.config.own_modules),
            "config_hash": self.config.hash,
            "images": self.data.train.fingerprint,
            "devices": self.devices,
            "threads": torch.get_num_threads(),  # the last digits depend on it
            "progress": dataclasses.asdict(self.progress),
            "network": self.network.state_dict(),
            "optimizer": self.stepper.optimizer.state_dict(),
            "records": self.records,
            "best": self.best.kept,
            "average": self.average.state_dict() if self.average else None,
            "checkpoints": self.checkpoints.infos,
            "strengths": self.hills.strengths if self.hills is not None else None,
            "rows": self.rows,
            "rng": torch.get_rng_state(),  # for dropout and the noise alone
            "cuda_rng": torch.cuda.get_rng_state(self.device) if cuda else None,
        }

    def load_state_dict(self, state: StateDict, directory: RunDirectory) -> None:
        """Resume from a state. Raise StorageError if it belongs to another run, or a checkpoint's file is damaged."""
        if state.get("config_hash", self.config.hash) != self.config.hash:
            raise StorageError(f"{directory.path} holds the state of another run, {state['config_hash']}")
        if state.get("images", images := self.data.train.fingerprint) != images:  # missing from older states
            raise StorageError(
                f"{directory.path} began with other training images than the data set has now: restore them, or set "
                "overwrite=true to start over"
            )
        earlier = state.get("devices", self.devices)  # missing from older states
        self.devices = earlier if earlier[-1:] == self.devices else [*earlier, *self.devices]
        self.progress = Progress(**state["progress"])
        self.network.load_state_dict(state["network"])
        self.stepper.optimizer.load_state_dict(state["optimizer"])
        self.records.copy_(state["records"])
        self.best, self.rows = Best(state["best"]), state["rows"]
        self.average = Average.from_state(state.get("average"))  # missing from the states of older versions
        self.checkpoints.load(state["checkpoints"], directory, self.config.hash)
        if self.hills is not None:
            if len(self.checkpoints):
                self.hills.put(self.checkpoints.parameters)
            self.hills.strengths.copy_(state["strengths"])
        self.replay.forget()
        torch.set_rng_state(state["rng"].cpu())
        if self.device.type == "cuda" and state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"].cpu(), self.device)

    def _spread_images(self, n: int) -> Tensor:
        return self.data.normalise(self.data.train.spread(n).images)


def _host_work(config: Config) -> str:
    """Return why a step of this config may do work on the host, which a replay would leave out; "" if it does not."""
    parts = [config.model, config.optimizer]
    parts += [config.penalty, config.penalty.distance, config.penalty.kernel] if config.penalty else []
    modules = own_modules(parts)
    return f"{modules[0]} has components of your own, which may do work on the host" if modules else ""

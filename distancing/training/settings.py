"""The settings of one run, and what they determine: its directory, its device, its network."""

import functools
import itertools
import math
import re
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Lt
from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt, model_validator
from torch import nn
from typing_extensions import Self

from distancing.component import component
from distancing.component.analysis import Analysis
from distancing.component.trust import own_modules
from distancing.data.datasets import Dataset
from distancing.errors import ConfigError
from distancing.hills.penalty import Penalty
from distancing.models import Model
from distancing.models.evaluation import batch_norms
from distancing.models.layout import unsafe_in_channels_last
from distancing.training.optimizers import Optimizer
from distancing.training.plan import Cycle, Phase, checkpoints, keys, share, size, stored, unroll
from distancing.training.schedules import Schedule
from distancing.training.trial import optimizer_problem, penalty_problem, schedule_problem, try_out

LARGE = 1e38  # below the largest float32, with room for a factor
LONGEST = 10**6  # epochs, steps: the files of states are named by six digits of each


def _smoothed_entropy(k: float, classes: int) -> float:
    """Return the entropy of a label with smoothing k, which is the smallest cross entropy, in nats."""
    return -(1 - k) * math.log(1 - k) - k * math.log(k / (classes - 1)) if k else 0.0


def _threads(value: object) -> object:
    if value != "auto" and (type(value) is not int or value < 1):
        raise ValueError(f"threads={value!r}: expected auto, or an integer from 1 to the number of cores")
    return value


@component
class Evaluation:
    """Other images on which the ensemble of a run is judged at its end.

    ood: other data sets, whose images it should tell from the test images: choices of `dataset`, .npz files or folders
        of images.
    corruptions: a folder of corrupted test images, in files like those of CIFAR-10-C. `auto` takes CIFAR-10-C in the
        folder of the data set, and makes the images if it is not there. null for no corruptions.
    """

    ood: list[str] = Field(default_factory=list)
    corruptions: str | None = None


@component
class Config:
    """All settings of one run.

    dataset: the images.
    model: the network.
    optimizer: the optimiser.
    scheduler: the learning-rate schedule.
    penalty: the hills; null for none.
    phases: the phases of the run by name, in their order.
    analysis: the analyses at the end of the run, by name.
    evaluate: other images on which the ensemble is judged at the end of the run.
    seed: the seed of the initial parameters, the order of the images and their augmentation.
    epochs (epochs): the length of the run, which its phases share.
    batch_size (images): the size of a batch.
    label_smoothing: the thesis's k: the true class gets 1 − k, and every other class k/(C − 1).
    device: the device to train on; `auto` takes a GPU if there is one.
    threads: the number of CPU threads. `auto` takes the cores that this process may use and that other processes leave
        free when the run starts; a resumed run keeps its number.
    precision: the precision of the forward and backward pass. With `tf32`, a GPU rounds the factors of products to 11
        significant bits. With `bf16`, the parameters and the penalty stay in fp32.
    channels_last: store images and convolutions with the channels last in memory. Where a layer's gradient is computed
        wrongly in this layout, the run uses the contiguous one, and says so.
    compile: compile the network with torch.compile. The first step takes minutes; later runs reuse the compiled code.
    graph: capture the steps of a phase as one CUDA graph, where the device has them, and replay it. Where a step cannot
        be captured, the run takes plain steps, and says why.
    evaluate_every (epochs): the interval between two evaluations on the validation and test images.
    save_every (epochs): the interval between two saved states, from which a stopped run resumes.
    name: the readable part of the name of the run's directory.
    runs: the folder of all runs.
    overwrite: start over, even if the run has finished.
    verify: train the run a second time when it has ended, and compare the two bit for bit.
    hash: a hash of all settings that can change the run's numbers.
    """

    dataset: Dataset
    model: Model
    optimizer: Optimizer
    scheduler: Schedule
    penalty: Penalty | None
    phases: dict[str, Phase | Cycle]
    analysis: dict[str, Analysis] = Field(default_factory=dict)  # missing from the configs of older runs
    evaluate: Evaluation = Field(default_factory=Evaluation)  # likewise
    seed: Annotated[NonNegativeInt, Lt(2**32)]
    epochs: Annotated[PositiveInt, Lt(LONGEST)]
    batch_size: PositiveInt
    label_smoothing: Annotated[float, Ge(0), Lt(1)]
    device: Literal["auto", "cpu", "cuda", "mps"]
    threads: Annotated[PositiveInt | Literal["auto"], BeforeValidator(_threads)] = "auto"  # likewise
    precision: Literal["fp32", "tf32", "bf16"]
    channels_last: bool
    compile: bool
    graph: bool = False  # likewise
    evaluate_every: PositiveInt
    save_every: PositiveInt
    name: str
    runs: str
    overwrite: bool
    verify: bool = False  # likewise
    hash: str

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not re.fullmatch(r"[\w.+-]{1,100}", self.name):
            raise ValueError(f"name={self.name!r} may have 1 to 100 letters, digits and . _ + -")
        if not self.runs.strip() or not self.runs.isprintable():
            raise ValueError(f"runs={self.runs!r} is not the name of a folder")
        if self.dataset.classes < 2:
            kind = type(self.dataset).__name__
            raise ValueError(f"dataset: {kind} has one class only, and training needs two or more")
        if self.batch_size > self.dataset.available:
            raise ValueError(f"batch_size={self.batch_size} is above the {self.dataset.available} training images")
        if any(isinstance(phase, Cycle) and phase.times > self.epochs for phase in self.phases.values()):
            raise ValueError(_too_short(self.epochs, self.phases))
        if problem := self.model.problem(self.dataset.image_shape, self.dataset.classes):
            raise ValueError(f"model: {problem}")
        plan, key = unroll(self.phases), keys(self.phases)
        if not plan:
            raise ValueError("phases is empty: a run needs at least one phase")
        for name, phase in plan.items():
            if not re.fullmatch(r"[\w-]{1,50}", name) or name == "final":
                raise ValueError(f"{key[name]}: a phase's name may have letters, digits, _ and -, and not be 'final'")
            if phase.temperature:
                try:
                    self.optimizer.noise(self.optimizer.lr, phase.temperature)
                except ValueError as error:
                    raise ValueError(f"{key[name]}.temperature={phase.temperature}: {error}") from None
            if phase.patience and not self.dataset.held_out:
                raise ValueError(
                    f"{key[name]}.patience={phase.patience} needs dataset.validation_fraction > 0, or dataset.folds"
                )
        names = checkpoints(plan)
        if duplicates := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two checkpoints are named {duplicates[0]}: rename one of the phases")
        for (before, first), (name, phase) in itertools.pairwise(plan.items()):
            if first.lr and not (phase.lr or phase.restart_schedule):
                raise ValueError(
                    f"{key[name]} follows {before}, which has an lr of its own: set its lr or restart_schedule=true"
                )
        for name in self.analysis:
            if not re.fullmatch(r"[\w-]{1,50}", name):
                raise ValueError(f"analysis.{name}: an analysis's name may have letters, digits, _ and -")
        if (self.evaluate.ood or self.evaluate.corruptions) and len(stored(plan)) < 2:
            raise ValueError("evaluate needs an ensemble, but these phases store one network only")
        if all(phase.epochs for phase in plan.values()):
            total = sum(phase.epochs or 0 for phase in plan.values())
            if total != self.epochs:
                raise ValueError(
                    f"epochs={self.epochs}, but the phases' own epochs are {total} in total: "
                    "change one of them, or set one phase's epochs to null for the rest"
                )
        try:
            shares = share(list(plan.values()), self.epochs)
        except ValueError:
            raise ValueError(_too_short(self.epochs, self.phases)) from None
        for (name, phase), epochs in zip(plan.items(), shares, strict=True):
            if epochs < phase.least:
                raise ValueError(f"{key[name]} has {epochs} epochs, and its average needs {phase.least} or more")
        if self.label_smoothing > (most := 1 - 1 / self.dataset.classes):
            raise ValueError(f"label_smoothing={self.label_smoothing} is above 1 − 1/classes = {most:.4g}")
        lowest = _smoothed_entropy(self.label_smoothing, self.dataset.classes)
        for name, phase in plan.items():
            if phase.until_loss and phase.until_loss <= lowest:
                raise ValueError(
                    f"{key[name]}.until_loss={phase.until_loss} can't be reached: with "
                    f"label_smoothing={self.label_smoothing}, no cross entropy is below {lowest:.4g}"
                )
        if self.dataset.size % self.batch_size == 1 and batch_norms(self.build_network(torch.device("cpu"))):
            raise ValueError(
                f"batch_size={self.batch_size} leaves a last batch of one of the {self.dataset.size} training "
                "images, which batch norm cannot normalise"
            )
        self._try_own_components()
        return self

    def _try_own_components(self) -> None:
        """Raise ValueError for a component of a module outside of this package that does not do what it must."""
        try_out("optimizer", self.optimizer, partial(optimizer_problem, self.optimizer))
        try_out("scheduler", self.scheduler, partial(schedule_problem, self.scheduler, self.optimizer.lr, self.epochs))
        if self.penalty:
            for key in ("distance", "kernel"):
                try_out(f"penalty.{key}", getattr(self.penalty, key), partial(self._penalty_problem, self.penalty, key))

    def _penalty_problem(self, penalty: Penalty, key: str) -> str | None:
        network = self.build_network(torch.device("cpu"))
        return penalty_problem(penalty, network, torch.randn(4, *self.dataset.image_shape), key)

    @property
    def directory(self) -> str:
        """The run's directory, whose name follows from the config alone."""
        return f"{self.runs}/{self.name}-{self.hash}"

    @property
    def own_modules(self) -> tuple[str, ...]:
        """The modules outside of this package that define components of this run."""
        penalty = [self.penalty, self.penalty.distance, self.penalty.kernel] if self.penalty else []
        single = self.dataset, self.model, self.optimizer, self.scheduler
        return own_modules([*single, *penalty, *self.analysis.values()])

    def autocast(self, device: torch.device) -> torch.autocast:
        """Return the context in which the network computes, in bf16 if `precision` says so."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def autocast_of_stored(self, device: torch.device) -> torch.autocast:
        """Return the context in which stored networks compute: that of training, but fp32 on a CPU.

        Runs are often trained on a GPU and analysed on a CPU, which may emulate bf16 slowly.
        """
        return self.autocast(device) if device.type != "cpu" else torch.autocast("cpu", enabled=False)

    def operations(self) -> float:
        """Return the floating-point operations of a forward pass of one batch, or infinity without enough memory."""
        try:
            return self.batch_size * self.model.operations(self.dataset.image_shape, self.dataset.classes)
        except (MemoryError, RuntimeError):
            return math.inf

    def build_network(self, device: torch.device) -> nn.Module:
        """Return the initialised network on `device`, in its memory layout.

        Its parameters are drawn from torch's global generator.
        """
        network = self.model.build(self.dataset.image_shape, self.dataset.classes)
        return network.to(device).to(memory_format=self.memory_format(device))

    def memory_format(self, device: torch.device) -> torch.memory_format:
        """Return the layout of images and convolutions: channels_last if it is set, and safe on `device`."""
        safe = self.channels_last and not self.unsafe_layers(device)
        return torch.channels_last if safe else torch.contiguous_format

    def unsafe_layers(self, device: torch.device) -> list[str]:
        """Return the names of the layers that do not allow channels_last on `device`."""
        if device.type != "cpu":
            return []
        return list(_unsafe_layers(self.model, self.dataset.image_shape, self.dataset.classes))

    @property
    def torch_device(self) -> torch.device:
        """The device to train on. Raise ConfigError if this machine does not have it."""
        return device_named(self.device)


def device_named(name: str, key: str = "device=") -> torch.device:
    """Return a device of this machine; `auto` is a GPU if there is one. Raise ConfigError if it does not exist.

    key: what the user has written before the name.
    """
    exists = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    available = [device for device in exists if exists[device]]
    if name not in (*available, "auto"):
        raise ConfigError(f"{key}{name} is not on this machine, which has {', '.join(available)}")
    return torch.device(available[0] if name == "auto" else name)


def _too_short(epochs: int, phases: Mapping[str, Phase | Cycle]) -> str:
    """Return the error for phases that do not fit into the run's epochs."""
    phase_count, least = size(phases)
    cycles = {name: phase for name, phase in phases.items() if isinstance(phase, Cycle)}
    fewer = "".join(f"; phases.{name}.times={c.times} repeats {len(c.phases)} of them" for name, c in cycles.items())
    return (
        f"epochs={epochs}: the {phase_count} phases need at least {least} epochs{fewer}; phases=single needs one epoch"
    )


@functools.cache
def _unsafe_layers(model: Model, image_shape: tuple[int, int, int], classes: int) -> tuple[str, ...]:
    with torch.random.fork_rng([]):
        try:
            with torch.device("meta"):  # neither memory nor random numbers
                network = model.network(image_shape, classes)
        except Exception:  # a network may need real numbers; `Model.problem` has built it, too
            network = model.network(image_shape, classes)
    return tuple(unsafe_in_channels_last(network))

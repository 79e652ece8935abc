"""The schema of result.json, which a run writes when it ends. Numbers that are not finite are stored as null."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from distancing.errors import StorageError
from distancing.runs.directory import RunDirectory
from distancing.runs.ensemble import EnsembleResult
from distancing.runs.files import Json

Metrics = Mapping[str, Mapping[str, float | None]]  # split → loss and accuracy


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """Where the loss stopped being finite.

    phase: the name of the phase.
    epoch: counted from 1.
    step: counted from 1 within the epoch.
    """

    phase: str
    epoch: int
    step: int

    def __str__(self) -> str:
        return f"phase {self.phase}, epoch {self.epoch}, step {self.step}"


@dataclass(frozen=True, kw_only=True)
class GradientCheck:
    """The outcome of `training.gradient_check`.

    parameter: the parameter tensor with the largest error.
    error: this error, relative to the norm of the tensor's gradient.
    tolerance: the largest error that is accepted.
    layout: `channels_last` or `contiguous`.
    cpu: the instruction set of PyTorch's own kernels.
    """

    parameter: str
    error: float
    tolerance: float
    layout: str
    cpu: str


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """A stored checkpoint, or the final network.

    name: the name of the checkpoint, which is that of its phase; `final` for the final network.
    phase: the phase at whose end it was stored.
    epoch (epochs): the run's epochs until then.
    initial_seed: the seed of the initial parameters from which it was trained, which is that of the run unless a phase
        reinitialises.
    forward (passes): the forward passes over the training images until then, of training and of batch-norm statistics.
        Evaluations do not count.
    backward (passes): the backward passes over the training images until then.
    metrics: loss (nats) and accuracy of each split, from 0 to 1.
    file: the path of its parameters within the run's directory.
    distances: ‖θ − θ_c‖ to every checkpoint of the run and to the final network, by name.
    """

    name: str
    phase: str
    epoch: int
    metrics: Metrics
    file: str
    distances: dict[str, float | None]
    initial_seed: int | None = None
    forward: float | None = None
    backward: float | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a run that has finished or diverged.

    Fields with a default are missing from the results of older versions. Unknown fields, of newer ones, are ignored.

    status: `finished`, or `diverged` if the loss was no longer finite.
    diverged: where the run diverged.
    name: the readable part of the directory's name.
    config_hash: the hash in the directory's name.
    seed: the seed.
    epochs (epochs): how long the run trained.
    seconds (seconds): training and evaluation together, over all processes of the run.
    images_per_second (images/s): the speed of training, without evaluation.
    peak_memory (bytes): the largest memory of the GPU, or of the whole process if there is no GPU.
    parameters: the number of parameters.
    threads: the number of CPU threads.
    gradient_check: the check of the gradient before the first step.
    metrics: loss (nats) and accuracy of the final network on each split; null if the run diverged.
    checkpoints: the stored checkpoints, in their order.
    final: the final network; null if the run diverged.
    device: the name of the GPU, or `cpu` and its instruction set; several if the run was resumed on another.
    source: a hash of the code.
    git_commit: the commit of the checkout; null for an installed package.
    versions: the versions of Python and of the libraries.
    ensemble: the scores of the checkpoints as an ensemble; null if there is one network only.
    analysis: the values of each analysis by name.
    notes: a line for each phase that ended without reaching its `until_loss`.
    verified: whether a second training gave the same bits; null if none was asked for.
    """

    status: Literal["finished", "diverged"]
    diverged: Divergence | None = None
    name: str
    config_hash: str
    seed: int
    epochs: int
    seconds: float
    images_per_second: float
    peak_memory: int | None = None
    parameters: int
    threads: int | None = None
    gradient_check: GradientCheck | None = None
    metrics: Metrics | None
    checkpoints: list[CheckpointInfo]
    final: CheckpointInfo | None
    device: str
    source: str | None = None
    git_commit: str | None = None
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    ensemble: EnsembleResult | None = None
    analysis: dict[str, dict[str, float | None]] | None = None
    notes: list[str] = dataclasses.field(default_factory=list)
    verified: bool | None = None

    @property
    def networks(self) -> list[CheckpointInfo]:
        """The checkpoints, and behind them the final network, if there is one."""
        return [*self.checkpoints, *([self.final] if self.final else [])]

    @property
    def objective(self) -> float:
        """The loss that an optimising sweeper minimises: on the validation split, or on the training split without one.

        It is infinite for a run that diverged. The test set decides nothing.
        """
        loss = self.metrics.get("validation", self.metrics["train"])["loss"] if self.metrics else None
        return math.inf if loss is None else loss

    def to_dict(self) -> Json:
        """Return the fields as result.json has them, in its order."""
        return dataclasses.asdict(self)


def read_result(directory: RunDirectory) -> Result | None:
    """Return the run's result, or None if the run has not ended. Raise StorageError if the file is damaged."""
    if (content := directory.read_result()) is None:
        return None
    try:
        return TypeAdapter(Result).validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise StorageError(f"{directory.path}/result.json is damaged ({reason}); overwrite=true starts over") from error

"""The schema of result.json, which a run writes when it ends. Numbers that are not finite are stored as null."""

import dataclasses
import math
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from distancing.errors import StorageError
from distancing.runs.directory import RunDirectory

Metrics = dict[str, dict[str, float | None]]  # split → loss and accuracy


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """Where the loss stopped being finite. `step` counts from 1 within the epoch."""

    phase: str
    epoch: int
    step: int

    def __str__(self) -> str:
        return f"phase {self.phase}, epoch {self.epoch}, step {self.step}"


@dataclass(frozen=True, kw_only=True)
class GradientCheck:
    """The outcome of `training.gradient_check`.

    parameter: the parameter with the largest error. error: this error (see `relative_errors`).
    tolerance: the largest error that is accepted. layout: `channels_last` or `contiguous`.
    cpu: the instruction set of PyTorch's own kernels.
    """

    parameter: str
    error: float
    tolerance: float
    layout: str
    cpu: str


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """A stored checkpoint. distances: ‖θ − θ_c‖ to every checkpoint of the run, by name."""

    name: str
    phase: str
    epoch: int
    metrics: Metrics
    file: str
    distances: dict[str, float | None]


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a run that has finished or diverged; README.md documents each field.

    Fields with a default are missing from the results of older versions. Unknown fields, of newer ones, are ignored.
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
    ensemble: dict[str, Any] | None = None
    analysis: dict[str, dict[str, Any]] | None = None
    verified: bool | None = None

    @property
    def networks(self) -> list[CheckpointInfo]:
        """The checkpoints, and behind them the final network, if there is one."""
        return [*self.checkpoints, *([self.final] if self.final else [])]

    @property
    def objective(self) -> float:
        """What an optimising sweeper minimises: the validation loss, or without a validation split the training loss.

        It is infinite for a run that diverged. The test set decides nothing.
        """
        loss = self.metrics.get("validation", self.metrics["train"])["loss"] if self.metrics else None
        return math.inf if loss is None else loss

    def to_dict(self) -> dict[str, Any]:
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

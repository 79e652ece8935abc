"""The table of ensembles that `distancing ensemble --compare` writes as CSV or JSON, and reads again."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from distancing.errors import EnsembleError
from distancing.runs import metrics_file
from distancing.runs.ensemble import Number
from distancing.runs.files import export


@dataclass(frozen=True, kw_only=True)
class Row:
    """An ensemble, what it cost, and its scores on the test images. Files of older versions lack some of the fields.

    kind: the settings in which its runs differ from others of the sweep.
    trial: the settings that were tried for this kind.
    trials: how many of these the sweep has of this length, those that diverged included.
    seed: the seed of the run; null if there are several runs.
    epochs_each (epochs): planned for one member; if a run has several checkpoints, all its epochs over their number.
    epochs (epochs): trained for all members.
    forward (passes): the forward passes over the training images for all members.
    backward (passes): likewise the backward passes.
    members: the number of members.
    operations: the floating-point operations of all members for one image.
    validation_calibrated_nll (nats): the calibrated negative log-likelihood on the validation images; null if there are
        none. The temperature of each half of them is found on the other half.
    temperature_from: the images on which the temperature for the test images was found (`SplitResult`).
    member_accuracy: the mean accuracy of the members.
    correlation: c/v of (1.14).
    ood_auroc: the area under the ROC curve of the entropy, mean over the other data sets of --ood (`OodResult`).
    ood_mutual_information_auroc: the same of the mutual information; null for a single network.
    member_ood_auroc: the same of the entropy of one member, mean over the members.
    corrupted_error, corrupted_calibrated_nll, corrupted_calibrated_ece: means over the 15 corruptions and the five
        severities (`CorruptedScores`).

    The other scores are those of `Scores`.
    """

    kind: str
    trial: str = ""
    trials: int = 1
    seed: int | None = None
    epochs_each: float
    epochs: int
    forward: float | None = None
    backward: float | None = None
    members: int
    operations: float | None = None
    validation_calibrated_nll: float | None = None
    temperature_from: Literal["validation", "halves"] | None = None
    member_accuracy: Number
    accuracy: Number
    nll: Number
    calibrated_nll: float | None = None
    brier: Number
    ece: Number
    calibrated_ece: float | None = None
    adaptive_ece: float | None = None
    classwise_ece: float | None = None
    aurc: float | None = None
    coverage80_accuracy: float | None = None
    correlation: float | None = None
    ood_auroc: float | None = None
    ood_mutual_information_auroc: float | None = None
    member_ood_auroc: float | None = None
    corrupted_error: float | None = None
    corrupted_calibrated_nll: float | None = None
    corrupted_calibrated_ece: float | None = None

    @property
    def planned(self) -> int:
        """The planned number of epochs of all members together."""
        return round(self.members * self.epochs_each)


def write_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the fields of rows to a CSV file."""
    export(path, metrics_file.to_text(list(rows[0]), rows))


def read_csv(path: Path) -> list[Row]:
    """Return the rows in a file of `write_csv`. Raise EnsembleError if it is none."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            cells = map(dict.items, csv.DictReader(file))
            given = [{name: value for name, value in row if value or name == "kind"} for row in cells]
        return TypeAdapter(list[Row]).validate_python(given)
    except (ValidationError, ValueError, csv.Error) as error:
        raise EnsembleError(f"{path} was not written by --compare --csv: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return f"row {first['loc'][0]}, {'.'.join(map(str, first['loc'][1:]))}: {first['msg']}"
    return str(error)

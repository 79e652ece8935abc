"""What can be asked of a run: every number of result.json by a short name, and every column of metrics.csv."""

import csv
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distancing.flat import flat
from distancing.report.runs import Run

Array = NDArray[np.float64]

# how result.json's paths are said shorter: the first pattern that fits
SHORT = (
    (r"metrics\.", ""),
    (r"(checkpoints\.[^.]+)\.metrics\.", r"\1."),
    (r"ensemble\.splits\.([^.]+)\.ensemble\.", r"ensemble.\1."),
    (r"ensemble\.splits\.([^.]+)\.", r"ensemble.\1."),
    (r"ensemble\.parameter_average\.", "average."),
    (r"analysis\.", ""),
)
NO_METRICS = re.compile(r"seed$|diverged|final\.|versions|checkpoints\.[^.]+\.epoch$")
UNITS = {
    "accuracy": "%", "loss": "nats", "nll": "nats", "cross_entropy": "nats", "penalty": "nats", "l2": "nats",
    "mutual_information": "nats", "test_height_max": "nats", "train_height_max": "nats",
    "test_height_matched_max": "nats", "train_height_matched_max": "nats",
    "seconds": "s", "images_per_second": "images/s",
}  # fmt: skip
NAMES = {
    "train": "training", "nll": "NLL", "ece": "ECE", "brier": "Brier score", "correlation": "c/v", "seconds": "time",
    "cross_entropy": "cross entropy", "mutual_information": "mutual information", "images_per_second": "speed",
    "test_height_max": "test", "test_height_matched_max": "test, units matched",
    "train_height_max": "training", "train_height_matched_max": "training, units matched",
    "distance": "distance ‖θ − θ_c‖", "parameter_norm": "‖θ‖", "hill": "height of the hill",
}  # fmt: skip
HIGHER_IS_BETTER = ("accuracy", "images_per_second")
TAIL = 1 << 16  # bytes of metrics.csv: more than a row has


def numbers(run: Run) -> dict[str, float]:
    """Of a finished run: short name → value, accuracies in percent. Empty for any other: its numbers are no answer."""
    if run.state != "finished":
        return {}
    found: dict[str, float] = {}
    for path, value in flat(run.result).items():
        if isinstance(value, (int, float)) and not isinstance(value, bool) and not NO_METRICS.match(path):
            name = _short(path)
            found[name] = value * scale(name)
    for split, members in _members(run.result).items():
        for metric in members[0]:
            values = [each[metric] for each in members if isinstance(each.get(metric), (int, float))]
            if len(values) == len(members):
                name = f"members.{split}.{metric}"
                found[name] = scale(name) * math.fsum(values) / len(values)
    for split, matrix in _disagreement(run.result).items():
        pairs = [value for i, row in enumerate(matrix) for value in row[i + 1 :]]
        found[f"ensemble.{split}.disagreement"] = math.fsum(pairs) / len(pairs)
    distances = (run.result.get("final") or {}).get("distances")
    if isinstance(distances, dict) and len(distances) > 1:  # in the order of the checkpoints; the last is its own
        first = next(iter(distances.values()))
        if isinstance(first, (int, float)):
            found["distance"] = first
    return found


def _short(path: str) -> str:
    for pattern, replacement in SHORT:
        name, fits = re.subn(f"^{pattern}", replacement, path)
        if fits:
            return name
    return path


def _members(result: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Split → the scores of each of the ensemble's members."""
    splits = (result.get("ensemble") or {}).get("splits")
    found = splits.items() if isinstance(splits, dict) else ()
    return {name: split["members"] for name, split in found if isinstance(split, dict) and split.get("members")}


def _disagreement(result: Mapping[str, Any]) -> dict[str, list[list[float]]]:
    """Split → the share of images on which two members differ, for every two of them."""
    splits = (result.get("ensemble") or {}).get("splits")
    found = {name: split.get("disagreement") for name, split in splits.items()} if isinstance(splits, dict) else {}
    return {name: matrix for name, matrix in found.items() if isinstance(matrix, list) and len(matrix) > 1}


def scale(name: str) -> float:
    return 100.0 if _last(name).endswith("accuracy") else 1.0


def higher_is_better(name: str) -> bool:
    return _last(name).endswith(HIGHER_IS_BETTER)


def unit(name: str) -> str:
    return UNITS.get(_last(name), "%" if scale(name) != 1 else "")


def _last(name: str) -> str:
    return re.split(r"[./]", name)[-1]


def label(name: str) -> str:
    """For people, with the unit: test.accuracy → test accuracy, %."""
    words = " ".join(NAMES.get(part, part) for part in re.split(r"[./]", name))
    return f"{words}, {unit(name)}" if unit(name) else words


# metrics.csv


def last(run: Run, columns: Sequence[str], damage: list[str]) -> dict[str, float]:
    """The last whole row's values of these columns, where there are any. Reads the end of the file only."""
    path = run.path / "metrics.csv"
    try:
        with open(path, "rb") as file:
            names = next(csv.reader([file.readline().decode()]), [])
            start = file.tell()
            file.seek(max(start, file.seek(0, 2) - TAIL))
            lines = file.read().decode(errors="replace").split("\n")
        if lines[-1]:
            damage.append(f"{path}: the last row is half-written")
        row = dict(zip(names, next(csv.reader([lines[-2] if len(lines) > 1 else ""]), []), strict=False))
        return {name: float(row[name]) * scale(name) for name in columns if row.get(name)}
    except (OSError, ValueError, csv.Error) as error:
        damage.append(f"{path} is damaged ({error})" if not isinstance(error, FileNotFoundError) else f"{path} is gone")
        return {}


def columns(run: Run) -> list[str]:
    """Those of metrics.csv; none if it can't be read."""
    try:
        with open(run.path / "metrics.csv", encoding="utf-8") as file:
            return next(csv.reader(file), [])
    except (OSError, ValueError, csv.Error):
        return []


def curves(run: Run, wanted: Sequence[str], damage: list[str]) -> tuple[dict[str, Array], list[str]]:
    """Column → its values [epochs], nan where there are none; and the phase of each epoch.

    A row that can't be read ends the curve.
    """
    path = run.path / "metrics.csv"
    phases: list[str] = []
    values: list[list[float]] = []
    there: list[str] = []
    try:
        with open(path, encoding="utf-8", newline="") as file:
            text = file.read()
            if not text.endswith("\n"):  # the last number may be a part of one
                damage.append(f"{path}: the last row is half-written")
            rows = csv.reader(text[: text.rfind("\n") + 1].splitlines())
            names = next(rows, [])
            there = [name for name in wanted if name in names]
            places, phase = [names.index(name) for name in there], names.index("phase")
            for row in rows:
                if len(row) != len(names):
                    raise ValueError(f"row {len(values) + 1} is half-written")
                values.append([float(row[i]) if row[i] else math.nan for i in places])
                phases.append(row[phase])
    except (OSError, ValueError, csv.Error) as error:
        damage.append(f"{path} is damaged ({error})" if not isinstance(error, FileNotFoundError) else f"{path} is gone")
    table = np.array(values, dtype=float).reshape(len(values), len(there))
    return {name: table[:, i] * scale(name) for i, name in enumerate(there)}, phases[: len(values)]


def metrics_of(values: Mapping[Run, Mapping[str, float]]) -> list[str]:
    """All names that some run has a number for."""
    return sorted({name for each in values.values() for name in each})

"""The metrics of a run: every number in result.json under a short name, and every column of metrics.csv."""

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from distancing.report.runs import Run
from distancing.runs import metrics_file
from distancing.runs.files import Json
from distancing.runs.flat import flat

Array = NDArray[np.float64]

# short names for the paths in result.json: the first pattern that matches is replaced
SHORT = (
    (r"metrics\.", ""),
    (r"(checkpoints\.[^.]+)\.metrics\.", r"\1."),
    (r"ensemble\.splits\.([^.]+)\.ensemble\.", r"ensemble.\1."),
    (r"ensemble\.splits\.([^.]+)\.", r"ensemble.\1."),
    (r"ensemble\.parameter_average\.", "parameter_average."),
    (r"analysis\.", ""),
)
NOT_METRICS = re.compile(r"seed$|diverged|final\.|versions|checkpoints\.[^.]+\.(epoch|initial_seed)$")
UNITS = {
    "accuracy": "%", "loss": "nats", "nll": "nats", "cross_entropy": "nats", "penalty": "nats", "l2": "nats",
    "mutual_information": "nats", "calibrated_nll": "nats", "test_height_max": "nats", "train_height_max": "nats",
    "test_height_matched_max": "nats", "train_height_matched_max": "nats",
    "seconds": "s", "images_per_second": "images/s",
}  # fmt: skip
NAMES = {
    "train": "training", "nll": "NLL", "ece": "ECE",
    "calibrated_nll": "calibrated NLL", "calibrated_ece": "calibrated ECE",
    "adaptive_ece": "adaptive ECE", "classwise_ece": "class-wise ECE", "aurc": "AURC",
    "coverage80_accuracy": "accuracy at 80 % coverage", "chance_disagreement": "disagreement by chance",
    "brier": "Brier score", "correlation": "c/v", "seconds": "time",
    "cross_entropy": "cross entropy", "mutual_information": "mutual information", "images_per_second": "speed",
    "test_height_max": "test", "test_height_matched_max": "test, units matched",
    "train_height_max": "training", "train_height_matched_max": "training, units matched",
    "distance": "distance ‖θ − θ_c‖", "parameter_norm": "‖θ‖", "hill": "height of the hill",
}  # fmt: skip
HIGHER_IS_BETTER = ("accuracy", "images_per_second", "auroc", "aupr")
TAIL = 1 << 16  # bytes at the end of metrics.csv, which have the last values of most columns


def result_numbers(run: Run) -> dict[str, float]:
    """Return the numbers in result.json by their short names, accuracies in percent; {} if the run has not finished."""
    if run.state != "finished":
        return {}
    numbers: dict[str, float] = {}
    for path, value in flat(run.result).items():
        if isinstance(value, (int, float)) and not isinstance(value, bool) and not NOT_METRICS.match(path):
            name = _short(path)
            numbers[name] = value * scale(name)
    for split, members in _members(run.result).items():
        for metric in members[0]:
            values = [scores[metric] for scores in members if isinstance(scores.get(metric), (int, float))]
            if len(values) == len(members):
                name = f"members.{split}.{metric}"
                numbers[name] = scale(name) * math.fsum(values) / len(values)
    for name in ("disagreement", "chance_disagreement"):
        for split, matrix in _matrices(run.result, name).items():
            pairs = [value for i, row in enumerate(matrix) for value in row[i + 1 :]]
            if None not in pairs:
                numbers[f"ensemble.{split}.{name}"] = math.fsum(pairs) / len(pairs)
    distances = (run.result.get("final") or {}).get("distances")
    if isinstance(distances, dict) and len(distances) > 1:  # by checkpoint; the last is to itself
        first = next(iter(distances.values()))
        if isinstance(first, (int, float)):
            numbers["distance"] = first
    return numbers


def _short(path: str) -> str:
    for pattern, replacement in SHORT:
        name, matches = re.subn(f"^{pattern}", replacement, path)
        if matches:
            return name
    return path


def _splits(result: Json) -> dict[str, Json]:
    """Return the ensemble's results by split."""
    splits = (result.get("ensemble") or {}).get("splits")
    if not isinstance(splits, dict):
        return {}
    return {name: split for name, split in splits.items() if isinstance(split, dict)}


def _members(result: Json) -> dict[str, list[Json]]:
    """Return split → the scores of each ensemble member."""
    return {name: split["members"] for name, split in _splits(result).items() if split.get("members")}


def _matrices(result: Json, key: str) -> dict[str, list[list[float]]]:
    """Return split → the matrix of this name, with a value for every pair of members."""
    matrices = {name: split.get(key) for name, split in _splits(result).items()}
    return {name: matrix for name, matrix in matrices.items() if isinstance(matrix, list) and len(matrix) > 1}


def metric_names(numbers: Mapping[Run, Mapping[str, float]]) -> list[str]:
    """Return the names of the metrics that at least one run has."""
    return sorted({name for of_run in numbers.values() for name in of_run})


def scale(name: str) -> float:
    """Return the factor from the stored value to the reported one: 100 for accuracies, which are in percent."""
    return 100.0 if _last_part(name).endswith("accuracy") else 1.0


def higher_is_better(name: str) -> bool:
    """Return whether a higher value of this metric is better."""
    return _last_part(name).endswith(HIGHER_IS_BETTER)


def unit(name: str) -> str:
    """Return the unit of a metric; "" if it has none."""
    return UNITS.get(_last_part(name), "%" if scale(name) != 1 else "")


def _last_part(name: str) -> str:
    return _parts(name)[-1]


def _parts(name: str) -> list[str]:
    """Return the parts of a metric's name, in which the dot of a number, as in rise_random_0.1, divides nothing."""
    return re.split(r"/|(?<!\d)\.|\.(?!\d)", name)


def label(name: str) -> str:
    """Return a metric's name for people, with its unit: test.accuracy → test accuracy, %."""
    words = " ".join(NAMES.get(part, part) for part in _parts(name))
    return f"{words}, {unit(name)}" if unit(name) else words


# metrics.csv


def column_names(run: Run) -> list[str]:
    """Return the columns of metrics.csv; [] if it can't be read."""
    return _read(run, [], tail=0).columns


def last_values(run: Run, columns: Sequence[str], damage: list[str]) -> dict[str, float]:
    """Return the last value of each of these columns of metrics.csv. Columns without values are left out."""
    table = _read(run, damage, TAIL)
    if any(not any(row[name] for row in table.rows) for name in columns if name in table.columns):
        table = _read(run, damage)  # such a column ends early, as that of a hill that acts no more
    texts = {name: row[name] for row in table.rows for name in columns if row.get(name)}  # the last one stays
    try:
        return {name: float(text) * scale(name) for name, text in texts.items()}
    except ValueError as error:
        damage.append(f"{run.name}/metrics.csv is damaged ({error})")
        return {}


def curves(run: Run, columns: Sequence[str], damage: list[str]) -> tuple[dict[str, Array], list[str]]:
    """Return column → its values [epochs], nan where there are none; and the phase of each epoch.

    The curves end before the first damaged row.
    """
    table = _read(run, damage)
    present = [name for name in columns if name in table.columns]
    phases: list[str] = []
    values: list[list[float]] = []
    try:
        for row in table.rows:
            phase = row["phase"]
            values.append([float(row[name]) if row[name] else math.nan for name in present])
            phases.append(phase)
    except (ValueError, KeyError) as error:
        damage.append(f"{run.name}/metrics.csv is damaged ({error})")
    array = np.array(values, dtype=float).reshape(len(values), len(present))
    return {name: array[:, i] * scale(name) for i, name in enumerate(present)}, phases


def _read(run: Run, damage: list[str], tail: int | None = None) -> metrics_file.MetricsTable:
    """Read the run's metrics.csv, or its end. Add a line to `damage` if it is damaged or missing."""
    name = f"{run.name}/metrics.csv"
    try:
        table = metrics_file.read(run.path / "metrics.csv", tail)
    except FileNotFoundError:
        damage.append(f"{name} is missing")
    except (OSError, ValueError) as error:
        damage.append(f"{name} is damaged ({error})")
    else:
        if table.damage:
            damage.append(f"{name}: {table.damage}")
        return table
    return metrics_file.MetricsTable([], [], None)

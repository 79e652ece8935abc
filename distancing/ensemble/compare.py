"""Collect the ensembles in sweeps, of one run's checkpoints or of several runs, and score each of them."""

import dataclasses
import functools
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from distancing.ensemble.corruptions import SEVERITIES
from distancing.ensemble.judge import Weights, scored
from distancing.ensemble.row import Row
from distancing.ensemble.shift import Shift
from distancing.errors import EnsembleError
from distancing.models import Model
from distancing.runs import Listed, RunDirectory
from distancing.runs.ensemble import Scores
from distancing.stored import checkpoint_files, find_checkpoints

VARIED = ("seed", "dataset.bootstrap_seed", "dataset.fold")  # settings in which members of one ensemble may differ
SAME = ("epochs", "phases.cycle.times", "sweep")  # settings that do not make another kind of ensemble
CHOICES = ("dataset", "model", "penalty", "phases")  # choices of groups that make another kind
PARTS = ("dataset.", "model.")  # settings that do, too


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """Stored networks that are scored together.

    kind: the settings in which its runs differ from others of the sweep. files: its checkpoints. epochs: trained for
    all of them. epochs_each: planned for one; if a run has several checkpoints, all its epochs over their number.
    forward, backward: passes over the training images for all of them; None in runs of older versions. trial: the
    settings that were tried for this kind. trials: how many of these the sweep has of this length, those that diverged
    included. seed: the seed of the run; None if there are several runs.
    """

    kind: str
    files: tuple[Path, ...]
    epochs: int
    epochs_each: float
    forward: float | None
    backward: float | None
    trial: str = ""
    trials: int = 1
    seed: int | None = None


def ensembles(runs: Sequence[Listed], sizes: Sequence[int] = (), tuned: bool = False) -> list[Ensemble]:
    """Return the ensembles of the finished runs.

    A run with several checkpoints is an ensemble by itself. Runs with one checkpoint are grouped in the order of the
    list, as many as another ensemble has members, if as many epochs were planned in total. With `sizes`, each ensemble
    has so many members instead: the first checkpoints of a run, which is skipped if it has fewer, or so many runs.

    tuned: the runs of a kind make the same choices, and have the same data set and network; their other settings are
    trials. Otherwise each setting in which runs differ makes another kind.

    Raise EnsembleError if all runs have one checkpoint and `sizes` does not say how many to group.
    """
    names = _names(runs, tuned)
    tried: dict[tuple[str, int], set[str]] = defaultdict(set)  # those of a kind and a length
    for run, (kind, trial) in names.items():
        tried[kind, run.epochs].add(trial)
    results = {run: RunDirectory(run.path).read_result() or {} for run in runs}
    results = {run: result for run, result in results.items() if result.get("status") == "finished"}
    collected: list[Ensemble] = []
    costs: set[tuple[int, int]] = set()  # members, planned epochs
    single: dict[tuple[str, str, int], list[tuple[Path, dict[str, Any]]]] = defaultdict(list)
    for run, result in results.items():
        kind, trial = names[run]
        files = checkpoint_files(run.path)
        if len(files) == 1:
            single[kind, trial, run.epochs].append((files[0], result))
            continue
        costs |= {(len(files), run.epochs), (1, run.epochs)}  # the run, and one network that is trained as long
        networks = [*result["checkpoints"], result["final"]]
        for size in sizes or [len(files)]:
            if size <= len(files):
                last = networks[size - 1]
                collected.append(
                    Ensemble(
                        kind, tuple(files[:size]), last["epoch"], run.epochs / len(files), last.get("forward"),
                        last.get("backward"), trial, len(tried[kind, run.epochs]), result["seed"],
                    )
                )  # fmt: skip
    if single and not costs and not sizes:
        raise EnsembleError("each run of the sweep has one network; set --members to how many make an ensemble")
    for (kind, trial, epochs), ended in single.items():
        for size in sizes or sorted({size for size, total in costs if size * epochs == total}):
            for i in range(0, len(ended) - size + 1, size):
                files, members = zip(*ended[i : i + size], strict=True)
                forward, backward = (
                    _sum(member["final"].get(key) for member in members) for key in ("forward", "backward")
                )
                seed = members[0]["seed"] if size == 1 else None
                trained = sum(member["epochs"] for member in members)
                collected.append(
                    Ensemble(kind, files, trained, epochs, forward, backward, trial, len(tried[kind, epochs]), seed)
                )
    return sorted(collected, key=lambda ensemble: (len(ensemble.files), ensemble.epochs_each))


def _names(runs: Sequence[Listed], tuned: bool) -> dict[Listed, tuple[str, str]]:
    """Return the kind of ensemble of each run and its trial.

    A kind is named by overrides that not all runs have, and a trial by those that not all runs of its kind have.
    """
    common = _common(runs)
    naming = {run: [o for o in run.overrides if o not in common and not (tuned and _is_tried(o))] for run in runs}
    keys = {_key(override) for overrides in naming.values() for override in overrides}
    last_parts = Counter(map(_last_part, keys))
    short = {key for key in keys if last_parts[_last_part(key)] == 1}
    kinds = {run: _text(overrides, short) for run, overrides in naming.items()}
    shared = {kind: _common([run for run in runs if kinds[run] == kind]) for kind in set(kinds.values())}
    return {
        run: (kind, _text(o for o in run.overrides if tuned and _is_tried(o) and o not in shared[kind]))
        for run, kind in kinds.items()
    }


def _common(runs: Sequence[Listed]) -> set[str]:
    """Return the overrides that all of the runs have."""
    return set.intersection(*(set(run.overrides) for run in runs)) if runs else set()


def _is_tried(override: str) -> bool:
    key = _key(override)
    return key not in CHOICES and not key.startswith(PARTS)


def _sum(values: Iterable[float | None]) -> float | None:
    """Return the sum, or None if a value is missing."""
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)


def _text(overrides: Iterable[str], short: Container[str] = ()) -> str:
    """Return the overrides that make a kind of ensemble or a trial, with only the last parts of the `short` keys."""
    choices = []
    for override in overrides:
        key, value = _key(override), override.partition("=")[2]
        if key not in VARIED and key not in SAME:
            choices.append(f"{_last_part(key) if key in short else key}={value}")
    return " ".join(choices)


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+")


def _last_part(key: str) -> str:
    return key.rpartition(".")[2]


def row_of(ensemble: Ensemble, device: torch.device, weights: Weights) -> Row:
    """Return the ensemble's row, with its scores on the test images."""
    members = find_checkpoints(ensemble.files)
    splits = scored(members, device, weights, training=False).splits
    configs = [member.config for member in members]
    test, validation = splits["test"], splits.get("validation")
    return Row(
        **_fields_of_row(ensemble),
        members=len(members),
        operations=sum(_operations(c.model, c.dataset.image_shape, c.dataset.classes) for c in configs),
        validation_calibrated_nll=validation.ensemble.calibrated_nll if validation else None,
        temperature_from=test.temperature_from,
        member_accuracy=statistics.fmean(scores.accuracy for scores in test.members),
        **_fields_of_row(test.ensemble),
        correlation=test.correlation,
    )


def shifted(row: Row, ensemble: Ensemble, shift: Shift, device: torch.device, weights: Weights) -> Row:
    """Return the ensemble's row with its scores on other data sets and under corruptions."""
    members = find_checkpoints(ensemble.files)
    result, _ = shift.judge(members, device, scored(members, device, weights, training=False))
    scores: dict[str, Any] = {}
    if result.ood:
        of_sets = list(result.ood.values())
        scores["ood_auroc"] = statistics.fmean(of_set.entropy.auroc for of_set in of_sets)
        scores["member_ood_auroc"] = statistics.fmean(m.auroc for of_set in of_sets for m in of_set.members or [])
        if len(members) > 1:
            information = statistics.fmean(of_set.mutual_information.auroc for of_set in of_sets)
            scores["ood_mutual_information_auroc"] = information
    if result.corruptions:
        severities = [result.corruptions.severity[str(number)] for number in SEVERITIES]
        for name in ("error", "calibrated_nll", "calibrated_ece"):
            scores[f"corrupted_{name}"] = statistics.fmean(getattr(severity, name) for severity in severities)
    return dataclasses.replace(row, **scores)


def _fields_of_row(source: Ensemble | Scores) -> dict[str, Any]:
    """Return the fields that a row has, too."""
    wanted = {field.name for field in dataclasses.fields(Row)}
    return {field.name: getattr(source, field.name) for field in dataclasses.fields(source) if field.name in wanted}


@functools.cache
def _operations(model: Model, image_shape: tuple[int, int, int], classes: int) -> int:
    return model.operations(image_shape, classes)


def chosen(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of the trial of each kind with the lowest mean of the calibrated NLL on the validation images.

    Kinds are tuned for each number of members and epochs. A trial of which runs are missing, because they diverged, is
    not chosen. Raise EnsembleError if there are no validation images, nothing to choose from, or the kinds had
    different numbers of trials for the same budget.
    """
    if any(row.validation_calibrated_nll is None for row in rows):
        raise EnsembleError(
            "--choose needs the calibrated NLL on validation images: set dataset.validation_fraction > 0 in the sweep, "
            "and compare the sweep again if its CSV is of an older version"
        )
    if not any(row.trial for row in rows):
        raise EnsembleError(
            "--choose: no kind has several trials: leave --choose out. If a CSV was written without it, "
            "compare the sweep again"
        )
    budgets: dict[int, dict[str, int]] = defaultdict(dict)
    for row in rows:
        budgets[row.planned][row.kind] = row.trials
    for epochs, trials in budgets.items():
        if len(set(trials.values())) > 1:
            counts = "; ".join(f"{kind}: {number}" for kind, number in trials.items())
            raise EnsembleError(
                f"--choose needs the same number of trials of each kind, and with {epochs} epochs there are: {counts}"
            )
    groups: dict[tuple[Any, ...], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        groups[row.members, row.epochs_each, row.kind][row.trial].append(row)
    best: list[Row] = []
    for by_trial in groups.values():
        most = max(map(len, by_trial.values()))
        complete = [trial for trial in by_trial.values() if len(trial) == most]
        best += min(complete, key=_criterion)
    return best


def _criterion(trial: Iterable[Row]) -> float:
    """Return the mean of the calibrated NLL on the validation images; ∞ if one of them is NaN."""
    known = (row.validation_calibrated_nll for row in trial)
    mean = statistics.fmean(nll for nll in known if nll is not None)
    return math.inf if math.isnan(mean) else mean

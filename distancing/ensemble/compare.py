"""Collect the ensembles in sweeps, of one run's checkpoints or of several runs, and score each of them."""

import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from distancing.ensemble.judge import Weights, scored
from distancing.errors import EnsembleError
from distancing.runs import Listed, RunDirectory
from distancing.stored import checkpoint_files, find_checkpoints

VARIED = ("seed", "dataset.bootstrap_seed", "dataset.fold")  # settings in which members of one ensemble may differ
LENGTHS = ("epochs=", "phases.cycle.times=")  # settings that do not make another kind of ensemble


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """Stored networks that are scored together.

    kind: the settings in which its runs differ from others of the sweep. files: its checkpoints. epochs: trained for
    all of them. epochs_each: trained for one; if a run has several checkpoints, all its epochs over their number.
    """

    kind: str
    files: tuple[Path, ...]
    epochs: int
    epochs_each: float


def ensembles(runs: Sequence[Listed], sizes: Sequence[int] = ()) -> list[Ensemble]:
    """Return the ensembles of the finished runs.

    A run with several checkpoints is an ensemble by itself. Runs with one checkpoint are grouped in the order of the
    list, as many as another ensemble has members, if that took as many epochs in total. With `sizes`, each ensemble
    has so many members instead: the first checkpoints of a run, which is skipped if it has fewer, or so many runs.

    Raises EnsembleError if all runs have one checkpoint and `sizes` does not say how many to group.
    """
    results = {run: RunDirectory(run.path).read_result() or {} for run in runs}
    results = {run: result for run, result in results.items() if result.get("status") == "finished"}
    common = set.intersection(*(set(run.overrides) for run in results)) if results else set()
    collected: list[Ensemble] = []
    single: dict[tuple[str, int], list[Path]] = defaultdict(list)
    for run, result in results.items():
        kind = _kind(override for override in run.overrides if override not in common)
        files = checkpoint_files(run.path)
        if len(files) == 1:
            single[kind, run.epochs].append(files[0])
            continue
        ends = [checkpoint["epoch"] for checkpoint in (*result["checkpoints"], result["final"])]
        for size in sizes or [len(files)]:
            if size <= len(files):
                collected.append(Ensemble(kind, tuple(files[:size]), ends[size - 1], run.epochs / len(files)))
    costs = {(len(ensemble.files), ensemble.epochs) for ensemble in collected}
    if single and not costs and not sizes:
        raise EnsembleError("each run of the sweep has one network; set --members to how many make an ensemble")
    for (kind, epochs), files in single.items():
        for size in sizes or sorted({size for size, total in costs if size * epochs == total}):
            for i in range(0, len(files) - size + 1, size):
                collected.append(Ensemble(kind, tuple(files[i : i + size]), size * epochs, epochs))
    return sorted(collected, key=lambda ensemble: (len(ensemble.files), ensemble.epochs_each))


def _kind(overrides: Iterable[str]) -> str:
    """Return the kind of ensemble that a run's overrides say, with the last parts of their keys."""
    choices = (override for override in overrides if override.split("=")[0].lstrip("+") not in VARIED)
    return " ".join(
        choice.rpartition(".")[2] if "." in choice.partition("=")[0] else choice
        for choice in choices
        if not choice.startswith(LENGTHS)
    )


def compare(
    ensembles: Iterable[Ensemble], device: torch.device, weights: Weights = "equal", split: str = "test"
) -> list[dict[str, Any]]:
    """Return a row for each ensemble: `kind`, `members`, `epochs_each`, `epochs`, and its scores on the split."""
    return [
        {
            "kind": ensemble.kind,
            "members": len(ensemble.files),
            "epochs_each": ensemble.epochs_each,
            "epochs": ensemble.epochs,
            **_scores(scored(find_checkpoints(ensemble.files), device, weights)["splits"][split]),
        }
        for ensemble in ensembles
    ]


def _scores(split: dict[str, Any]) -> dict[str, float | None]:
    """Return the members' mean accuracy, the ensemble's scores, and the correlation c/v of the errors (1.14)."""
    names = ("accuracy", "nll", "calibrated_nll", "brier", "ece", "calibrated_ece")
    ensemble = {name: split["ensemble"].get(name) for name in names}
    member = statistics.fmean(scores["accuracy"] for scores in split["members"])
    return {"member_accuracy": member, **ensemble, "correlation": split["correlation"]}

"""Ensembles of several kinds side by side: each of a sweep's runs, or so many of its runs together."""

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

APART = ("seed", "dataset.bootstrap_seed", "dataset.fold")  # settings in which the runs of one ensemble differ


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """kind: the settings that its runs share and others don't. files: its networks. epochs: that they took in all;
    each: for each of them, as planned (a run's epochs over all the networks that it stored)."""

    kind: str
    files: tuple[Path, ...]
    epochs: int
    each: float


def ensembles(runs: Sequence[Listed], sizes: Sequence[int] = ()) -> list[Ensemble]:
    """Of a sweep's finished runs: one that stored several networks is an ensemble by itself. Those that stored one are
    taken together in the order of the list, as many as another ensemble has members and for as many epochs in all.

    sizes: take the first so many networks of a run, and so many single ones together, instead. A run that stored fewer
    is left out. Raises EnsembleError if nobody says how many.
    """
    done = {run: result for run in runs if (result := RunDirectory(run.path).read_result() or {}).get("status") ==
            "finished"}  # fmt: skip
    common = set.intersection(*(set(run.overrides) for run in done)) if done else set()
    found: list[Ensemble] = []
    single: dict[tuple[str, int], list[Path]] = defaultdict(list)
    for run, result in done.items():
        apart = (o for o in run.overrides if o not in common and o.split("=")[0].lstrip("+") not in APART)
        kind = " ".join(o.rpartition(".")[2] if "." in o.partition("=")[0] else o for o in apart if not o.startswith(
            ("epochs=", "phases.cycle.times=")))  # fmt: skip
        stored = checkpoint_files(run.path)
        if len(stored) == 1:
            single[kind, run.epochs].append(stored[0])
            continue
        ends = [place["epoch"] for place in (*result["checkpoints"], result["final"])]  # a network is there by then
        for size in sizes or [len(stored)]:
            if size <= len(stored):
                found.append(Ensemble(kind, tuple(stored[:size]), ends[size - 1], run.epochs / len(stored)))
    costs = {(len(each.files), each.epochs) for each in found}
    if single and not costs and not sizes:
        raise EnsembleError("no run of the sweep has several networks: say with --members how many make an ensemble")
    for (kind, epochs), alike in single.items():
        for size in sizes or sorted({size for size, total in costs if size * epochs == total}):
            for i in range(0, len(alike) - size + 1, size):
                found.append(Ensemble(kind, tuple(alike[i : i + size]), size * epochs, epochs))
    return sorted(found, key=lambda each: (len(each.files), each.each))


def compare(
    found: Iterable[Ensemble], device: torch.device, weights: Weights = "equal", split: str = "test"
) -> list[dict[str, Any]]:
    """A row for each ensemble: `kind`, `members`, `epochs_each`, `epochs`, and its scores on the split."""
    return [
        {
            "kind": each.kind,
            "members": len(each.files),
            "epochs_each": each.each,
            "epochs": each.epochs,
            **_scores(scored(find_checkpoints(each.files), device, weights)["splits"][split]),
        }
        for each in found
    ]


def _scores(split: dict[str, Any]) -> dict[str, float | None]:
    """A member's mean accuracy; the ensemble's scores; the correlation c/v of the members' errors (1.14)."""
    ensemble = {name: split["ensemble"][name] for name in ("accuracy", "nll", "brier", "ece")}
    member = statistics.fmean(each["accuracy"] for each in split["members"])
    return {"member_accuracy": member, **ensemble, "correlation": split["correlation"]}

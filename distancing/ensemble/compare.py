"""Ensembles of several kinds side by side: each of a sweep's runs, or so many of its runs together."""

import dataclasses
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from distancing.ensemble.judge import Weights, judge
from distancing.ensemble.members import EnsembleError, find, of_run
from distancing.storage import Listed, RunDirectory

APART = ("seed", "dataset.bootstrap_seed", "dataset.fold")  # settings in which the runs of one ensemble differ
COLUMNS = {
    "member acc.": lambda split: statistics.fmean(each["accuracy"] for each in split["members"]),
    "ensemble acc.": lambda split: split["ensemble"]["accuracy"],
    "NLL": lambda split: split["ensemble"]["nll"],
    "Brier": lambda split: split["ensemble"]["brier"],
    "ECE": lambda split: split["ensemble"]["ece"],
    "c/v": lambda split: math.nan if split["correlation"] is None else split["correlation"],
}


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """kind: the settings that its runs share and others don't. epochs: of all its runs together."""

    kind: str
    runs: tuple[Path, ...]
    members: int
    epochs: int


def ensembles(runs: Sequence[Listed], members: int | None = None) -> list[Ensemble]:
    """Of a sweep's finished runs: one that stored several networks is an ensemble by itself. Those that stored one are
    taken together in the order of the list, as many as another ensemble has members and for as many epochs in all.

    members: take so many together instead, whatever it costs. Raises EnsembleError if nobody says how many.
    """
    done = [run for run in runs if (RunDirectory(run.path).read_result() or {}).get("status") == "finished"]
    common = set.intersection(*(set(run.overrides) for run in done)) if done else set()
    found: list[Ensemble] = []
    single: dict[tuple[str, int], list[Path]] = defaultdict(list)
    for run in done:
        apart = (o for o in run.overrides if o not in common and o.split("=")[0].lstrip("+") not in APART)
        kind = " ".join(o for o in apart if not o.startswith(("epochs=", "phases.cycle.times=")))
        stored = len(of_run(run.path))
        if stored > 1:
            found.append(Ensemble(kind, (run.path,), stored, run.epochs))
        else:
            single[kind, run.epochs].append(run.path)
    costs = {(each.members, each.epochs) for each in found}
    if single and not costs and not members:
        raise EnsembleError("no run of the sweep has several networks: say with --members how many make an ensemble")
    for (kind, epochs), alike in single.items():
        for size in [members] if members else sorted({size for size, total in costs if size * epochs == total}):
            for i in range(0, len(alike) - size + 1, size):
                found.append(Ensemble(kind, tuple(alike[i : i + size]), size, size * epochs))
    return sorted(found, key=lambda each: (each.epochs, each.members))


def compare(found: Iterable[Ensemble], device: torch.device, weights: Weights = "equal") -> list[dict[str, Any]]:
    """Of each ensemble what `judge` says, and its `kind`, `total_epochs` and number of members, `k`."""
    return [{"kind": each.kind, "total_epochs": each.epochs, "k": each.members,
             **judge(find(each.runs), device, weights)} for each in found]  # fmt: skip


def table(found: Sequence[dict[str, Any]], split: str = "test") -> Table:
    """A row for each kind, number of members and of epochs: mean ± standard error over the ensembles."""
    rows = Table(title=f"ensembles, on the {split} images", title_justify="left", box=None)
    for column in ("epochs", "members", "kind", "n", *COLUMNS):
        rows.add_column(column, justify="left" if column == "kind" else "right")
    groups: dict[tuple[int, int, str], list[dict[str, Any]]] = defaultdict(list)
    for each in found:
        groups[each["total_epochs"], each["k"], each["kind"]].append(each["splits"][split])
    for (epochs, k, kind), splits in groups.items():
        cells = [_mean([of(each) for each in splits], "acc" in name) for name, of in COLUMNS.items()]
        rows.add_row(str(epochs), str(k), kind, str(len(splits)), *cells)
    return rows


def _mean(values: list[float], percent: bool) -> str:
    """Mean ± standard error."""
    scale, digits = (100, 2) if percent else (1, 4)
    said = f"{scale * statistics.fmean(values):.{digits}f}"
    return said if len(values) < 2 else f"{said} ± {scale * statistics.stdev(values) / len(values) ** 0.5:.{digits}f}"

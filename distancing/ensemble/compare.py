"""Ensembles of several kinds side by side: each of a sweep's runs, or so many of its runs together."""

import dataclasses
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from distancing.ensemble.judge import judge
from distancing.ensemble.members import EnsembleError, find, of_run
from distancing.storage import Listed, RunDirectory

APART = ("seed", "dataset.bootstrap_seed", "dataset.fold")  # settings in which the runs of one ensemble differ
COLUMNS = {
    "member acc.": lambda split: statistics.fmean(each["accuracy"] for each in split["members"]),
    "ensemble acc.": lambda split: split["ensemble"]["accuracy"],
    "NLL": lambda split: split["ensemble"]["nll"],
    "Brier": lambda split: split["ensemble"]["brier"],
    "ECE": lambda split: split["ensemble"]["ece"],
    "c/v": lambda split: split["correlation"],
}


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """kind: the settings that its runs share and others don't. epochs: of all its runs together."""

    kind: str
    runs: tuple[Path, ...]
    epochs: int


def ensembles(runs: Sequence[Listed], members: int | None = None) -> Iterator[Ensemble]:
    """Of a sweep's finished runs: one that stored several networks is an ensemble by itself; those that stored one
    are taken together, as many as `members` at a time (None: as the others have), in the order of their seeds.

    Raises EnsembleError if nobody says how many.
    """
    done = [run for run in runs if (RunDirectory(run.path).read_result() or {}).get("status") == "finished"]
    common = set.intersection(*(set(run.overrides) for run in done)) if done else set()
    stored = {run: len(of_run(run.path)) for run in done}
    single: dict[str, list[Listed]] = defaultdict(list)
    for run in done:
        kind = " ".join(o for o in run.overrides if o not in common and o.split("=")[0].lstrip("+") not in APART)
        if stored[run] > 1:
            yield Ensemble(kind, (run.path,), run.epochs)
        else:
            single[kind].append(run)
    size = members or max(Counter(k for k in stored.values() if k > 1).items(), key=lambda it: it[1], default=(0, 0))[0]
    if single and size < 2:
        raise EnsembleError("no run of the sweep has several networks: say with --members how many make an ensemble")
    for kind, alike in single.items():
        for i in range(0, len(alike) - size + 1, size):
            together = alike[i : i + size]
            yield Ensemble(kind, tuple(run.path for run in together), sum(run.epochs for run in together))


def compare(found: Iterable[Ensemble], device: torch.device, weights: str = "equal") -> dict[str, list[dict[str, Any]]]:
    """Each kind's ensembles: what `judge` says of them, and with `total_epochs`."""
    kinds: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for ensemble in found:
        kinds[ensemble.kind].append({"total_epochs": ensemble.epochs, **judge(find(ensemble.runs), device, weights)})
    return dict(kinds)


def table(kinds: dict[str, list[dict[str, Any]]], split: str = "test") -> Table:
    """A row for each kind: mean ± standard error over its ensembles."""
    rows = Table(title=f"ensembles, on the {split} images", title_justify="left", box=None)
    rows.add_column("kind")
    for column in ("members", "epochs", "n", *COLUMNS):
        rows.add_column(column, justify="right")
    for kind, found in kinds.items():
        counts = {len(each["members"]) for each in found}, {each["total_epochs"] for each in found}
        cells = [_mean([of(each["splits"][split]) for each in found], "acc" in name) for name, of in COLUMNS.items()]
        rows.add_row(kind, *("–".join(map(str, sorted(each))) for each in counts), str(len(found)), *cells)
    return rows


def _mean(values: list[float], percent: bool) -> str:
    """Mean ± standard error."""
    scale, digits = (100, 2) if percent else (1, 4)
    said = f"{scale * statistics.fmean(values):.{digits}f}"
    return said if len(values) < 2 else f"{said} ± {scale * statistics.stdev(values) / len(values) ** 0.5:.{digits}f}"

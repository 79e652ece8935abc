"""Kinds of ensembles for people: one table, a picture of how they do as they get more epochs, and a CSV of it all."""

import csv
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table

from distancing.errors import EnsembleError
from distancing.report.figures import COLOURS, MARKS
from distancing.report.significance import holm, unpaired

Row = Mapping[str, Any]  # of `compare.compare`
Key = tuple[int, float, str]  # members, epochs for each, kind
SCORES = {
    "member_accuracy": "member acc.", "accuracy": "ensemble acc.", "nll": "NLL", "brier": "Brier", "ece": "ECE",
    "correlation": "c/v",
}  # fmt: skip
DRAWN = {"nll": "NLL, nats", "accuracy": "accuracy, %", "ece": "expected calibration error"}


def write_csv(found: Sequence[Row], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        rows = csv.DictWriter(file, list(found[0]), lineterminator="\n")
        rows.writeheader()
        rows.writerows(found)


def read_csv(path: Path) -> list[dict[str, Any]]:
    """What `write_csv` wrote. Raises EnsembleError for anything else."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return [
                {"kind": row["kind"], "members": int(row["members"]), "epochs_each": float(row["epochs_each"]),
                 "epochs": int(row["epochs"]), **{name: float(row[name]) if row[name] else None for name in SCORES}}
                for row in csv.DictReader(file)
            ]  # fmt: skip
    except (KeyError, ValueError, csv.Error) as error:
        raise EnsembleError(f"{path} was not written by --compare --csv: {error!r}") from error


def grouped(found: Sequence[Row]) -> dict[Key, list[Row]]:
    groups: dict[Key, list[Row]] = defaultdict(list)
    for row in found:
        groups[row["members"], row["epochs_each"], row["kind"]].append(row)
    return dict(sorted(groups.items(), key=lambda each: each[0][:2]))


def header(baseline: str | None) -> list[str]:
    compared = ["Δ NLL", "p"] if baseline else []
    return ["members", "epochs each", "epochs", "kind", "n", *SCORES.values(), *compared]


def cells(found: Sequence[Row], baseline: str | None) -> list[list[str]]:
    """A row for each kind, number of members and of epochs for each: mean ± standard error over the ensembles.

    baseline: a part of a kind's name. All others are compared with it in their NLL, where both have as many members for
    as many epochs each. Raises EnsembleError if it is not the name of one kind.
    """
    groups = grouped(found)
    compared = _compared(groups, baseline) if baseline else {}
    rows = []
    for (members, each, kind), ensembles in groups.items():
        epochs = f"{statistics.fmean(row['epochs'] for row in ensembles):g}"
        scores = [_mean([row[name] for row in ensembles], name.endswith("accuracy")) for name in SCORES]
        row = [str(members), f"{each:g}", epochs, kind, str(len(ensembles)), *scores]
        rows.append([*row, *compared.get((members, each, kind), [])])
    return rows


def _compared(groups: Mapping[Key, Sequence[Row]], baseline: str) -> dict[Key, list[str]]:
    kinds = sorted({kind for *_, kind in groups})
    fits = [kind for kind in kinds if kind == baseline] or [kind for kind in kinds if baseline in kind]
    if len(fits) != 1:
        raise EnsembleError(f"--baseline={baseline} is in the names of {len(fits)} kinds, of {'; '.join(kinds)}")
    found = {}
    for (members, each, kind), rows in groups.items():
        base = groups.get((members, each, fits[0]))
        if base and kind != fits[0]:
            found[members, each, kind] = unpaired([row["nll"] for row in rows], [row["nll"] for row in base])
    corrected = holm([p for _, p in found.values()])
    said = {key: [f"{difference:+.4f}", "–" if p is None else f"{p:.2g}"]
            for (key, (difference, _)), p in zip(found.items(), corrected, strict=True)}  # fmt: skip
    return said | {key: ["baseline", ""] for key in groups if key[2] == fits[0]}


def _mean(values: Sequence[float | None], percent: bool) -> str:
    """Mean ± standard error."""
    scale, digits = (100, 2) if percent else (1, 4)
    known = [scale * value for value in values if value is not None]
    if len(known) < len(values) or any(map(math.isnan, known)):
        return "–"
    said = f"{statistics.fmean(known):.{digits}f}"
    return said if len(known) < 2 else f"{said} ± {statistics.stdev(known) / len(known) ** 0.5:.{digits}f}"


def table(found: Sequence[Row], baseline: str | None = None) -> Table:
    rows = Table(title="ensembles, on the test images", title_justify="left", box=None)
    for column in header(baseline):
        rows.add_column(column, justify="left" if column == "kind" else "right")
    for row in cells(found, baseline):
        rows.add_row(*row)
    return rows


def markdown(found: Sequence[Row], baseline: str | None = None) -> str:
    names = header(baseline)
    rule = ["---" if name == "kind" else "---:" for name in names]
    return "".join(f"| {' | '.join(row)} |\n" for row in (names, rule, *cells(found, baseline)))


def picture(found: Sequence[Row]) -> Figure:
    """A column for each number of members, a line for each kind: each score over the epochs in all, with ± the standard
    error over the ensembles."""
    groups = grouped(found)
    sizes, kinds = sorted({members for members, *_ in groups}), list(dict.fromkeys(row["kind"] for row in found))
    figure = Figure(figsize=(2 + 2.6 * len(sizes), 8.5), dpi=110, layout="constrained", facecolor="white")
    panels = figure.subplots(len(DRAWN), len(sizes), squeeze=False, sharey="row")
    for line, (name, label) in zip(panels, DRAWN.items(), strict=True):
        scale = 100 if name == "accuracy" else 1
        for axes, size in zip(line, sizes, strict=True):
            for i, kind in enumerate(kinds):
                mine = [rows for (members, _, k), rows in groups.items() if (members, k) == (size, kind)]
                x = [statistics.fmean(row["epochs"] for row in rows) for rows in mine]
                values = [[scale * row[name] for row in rows] for rows in mine]
                errors = [statistics.stdev(v) / len(v) ** 0.5 if len(v) > 1 else 0.0 for v in values]
                axes.errorbar(x, [*map(statistics.fmean, values)], errors, label=kind, color=COLOURS[i % len(COLOURS)],
                              marker=MARKS[i % len(MARKS)], ms=4, lw=1, capsize=2)  # fmt: skip
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter("{x:.0f}")
            if name != "accuracy":
                axes.set_yscale("log")
            axes.spines[["top", "right"]].set_visible(False)
        line[0].set_ylabel(label)
    for axes, size in zip(panels[0], sizes, strict=True):
        axes.set_title(f"{size} members")
    for axes in panels[-1]:
        axes.set_xlabel("epochs in all")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def write_picture(found: Sequence[Row], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(picture(found)).print_png(path)

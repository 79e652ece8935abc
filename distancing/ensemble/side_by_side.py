"""Kinds of ensembles side by side: a table, a figure of their scores over the epochs, and a CSV of all ensembles."""

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
from distancing.report.significance import holm, mean_sd, paired, unpaired

Row = Mapping[str, Any]  # an ensemble, of `compare.compare`
Key = tuple[int, float, str]  # members, epochs each, kind
SCORES = {
    "member_accuracy": "member acc.",
    "accuracy": "ensemble acc.",
    "nll": "NLL",
    "brier": "Brier",
    "ece": "ECE",
    "correlation": "c/v",
}
TEXTS = ("kind", "trial")  # columns that are not numbers
COSTS = ("forward", "backward", "operations", "validation")
DRAWN = {"nll": "NLL, nats", "accuracy": "accuracy, %", "ece": "expected calibration error"}


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Write the rows to a CSV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def read_csv(path: Path) -> list[dict[str, Any]]:
    """Return the rows in a file of `write_csv`. Raise EnsembleError if it is none."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return [
                {
                    "kind": row["kind"],
                    "members": int(row["members"]),
                    "epochs_each": float(row["epochs_each"]),
                    "epochs": int(row["epochs"]),
                    "trial": row.get("trial") or "",  # this and the following are missing from older files
                    "trials": int(row.get("trials") or 1),
                    "seed": int(row["seed"]) if row.get("seed") else None,
                    **{name: float(row[name]) if row.get(name) else None for name in COSTS},
                    **{name: float(row[name]) if row[name] else None for name in SCORES},
                }
                for row in csv.DictReader(file)
            ]
    except (KeyError, ValueError, csv.Error) as error:
        raise EnsembleError(f"{path} was not written by --compare --csv: {error!r}") from error


def grouped(rows: Sequence[Row]) -> dict[Key, list[Row]]:
    """Return the rows by members, epochs each and kind, sorted by the first two."""
    groups: dict[Key, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["members"], row["epochs_each"], row["kind"]].append(row)
    return dict(sorted(groups.items(), key=lambda item: item[0][:2]))


def header(baseline: str | None) -> list[str]:
    """Return the table's column names."""
    compared = ["Δ NLL", "p"] if baseline else []
    return [
        "members",
        "epochs each",
        "epochs",
        "kind",
        "n",
        *SCORES.values(),
        "forward",
        "backward",
        "inference",
        *compared,
    ]


def cells(rows: Sequence[Row], baseline: str | None) -> list[list[str]]:
    """Return the table's rows, one for each group: mean ± standard error over its ensembles.

    Forward and backward are passes over the training images for the whole ensemble. Inference is the cost of a
    prediction, in networks of the smallest size.

    baseline: a part of one kind's name. The NLL of other kinds is compared with that of the baseline with the same
    number of members and epochs each, or else with as many epochs in all. Raises EnsembleError if no kind or several
    have this name.
    """
    groups = grouped(rows)
    smallest = min((row["operations"] / row["members"] for row in rows if row.get("operations")), default=1.0)
    compared = _compared(groups, baseline) if baseline else {}
    table = []
    for (members, epochs_each, kind), ensembles in groups.items():
        epochs = f"{statistics.fmean(row['epochs'] for row in ensembles):g}"
        scores = [_mean_and_error([row[name] for row in ensembles], name.endswith("accuracy")) for name in SCORES]
        costs = [_mean([row.get(name) for row in ensembles]) for name in ("forward", "backward")]
        costs.append(_mean([row["operations"] / smallest if row.get("operations") else None for row in ensembles]))
        row = [str(members), f"{epochs_each:g}", epochs, kind, str(len(ensembles)), *scores, *costs]
        table.append([*row, *compared.get((members, epochs_each, kind), [])])
    return table


def _compared(groups: Mapping[Key, Sequence[Row]], baseline: str) -> dict[Key, list[str]]:
    """Return Δ NLL and Holm's p of each group that has a baseline, and a mark for the baselines."""
    kinds = sorted({kind for *_, kind in groups})
    matching = [kind for kind in kinds if kind == baseline] or [kind for kind in kinds if baseline in kind]
    if len(matching) != 1:
        raise EnsembleError(f"--baseline={baseline} is in the names of {len(matching)} kinds, of {'; '.join(kinds)}")
    by_epochs = {rows[0]["epochs"]: rows for (*_, kind), rows in groups.items() if kind == matching[0]}
    tests = {}
    for (members, epochs_each, kind), rows in groups.items():
        base = groups.get((members, epochs_each, matching[0])) or by_epochs.get(rows[0]["epochs"])
        if base and kind != matching[0]:
            tests[members, epochs_each, kind] = _difference(rows, base)
    compared = {key: ["baseline", ""] for key in groups if key[2] == matching[0]}
    for (key, (difference, _)), p in zip(tests.items(), holm([p for _, p in tests.values()]), strict=True):
        compared[key] = [f"{difference:+.4f}", "–" if p is None else f"{p:.2g}"]
    return compared


def _difference(rows: Sequence[Row], base: Sequence[Row]) -> tuple[float, float | None]:
    """Return the difference of the mean NLL and its p: of a test paired by seed if both have the same seeds."""
    values, reference = ({row.get("seed"): row["nll"] for row in group} for group in (rows, base))
    if None not in values and values.keys() == reference.keys() and len(values) == len(rows) == len(base):
        comparison = paired(values, reference)
        assert comparison is not None
        return comparison.difference, comparison.p
    return unpaired([row["nll"] for row in rows], [row["nll"] for row in base])


def trials(rows: Sequence[Row], best: Sequence[Row]) -> list[list[str]]:
    """Return a table of all trials, with the mean of the score on the validation images and of the NLL on the test
    images. A star marks the chosen ones, `best`."""
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["members"], row["epochs"], row["kind"], row["trial"]].append(row)
    table = [["members", "epochs", "kind", "trial", "n", "validation", "NLL", "chosen"]]
    for (members, epochs, kind, trial), group in groups.items():
        scores = [_mean_and_error([row[name] for row in group], False) for name in ("validation", "nll")]
        mark = "*" if group[0] in best else ""
        table.append([str(members), str(epochs), kind, trial, str(len(group)), *scores, mark])
    return table


def _mean(values: Sequence[float | None]) -> str:
    """Return the mean, or a dash if a value is missing."""
    known = [value for value in values if value is not None]
    return "–" if not known or len(known) < len(values) else f"{statistics.fmean(known):.4g}"


def _mean_and_error(values: Sequence[float | None], percent: bool) -> str:
    """Return mean ± standard error, without the error for a single value, or a dash if one is not finite."""
    scale, digits = (100, 2) if percent else (1, 4)
    known = [scale * value for value in values if value is not None]
    if len(known) < len(values) or not all(map(math.isfinite, known)):
        return "–"
    mean, sd = mean_sd(known)
    return f"{mean:.{digits}f}" if sd is None else f"{mean:.{digits}f} ± {sd / len(known) ** 0.5:.{digits}f}"


def terminal(title: str, table: Sequence[Sequence[str]]) -> Table:
    """Return a table, whose first row is its header, for a terminal."""
    lines = Table(title=title, title_justify="left", box=None)
    for column in table[0]:
        lines.add_column(column, justify="left" if column in TEXTS else "right")
    for row in table[1:]:
        lines.add_row(*row)
    return lines


def markdown(table: Sequence[Sequence[str]]) -> str:
    """Return a table, whose first row is its header, in Markdown."""
    rule = ["---" if name in TEXTS else "---:" for name in table[0]]
    return "".join(f"| {' | '.join(row)} |\n" for row in (table[0], rule, *table[1:]))


def picture(rows: Sequence[Row]) -> Figure:
    """Draw each score over the total number of epochs, ± the standard error over the ensembles.

    Columns are numbers of members, lines are kinds.
    """
    groups = grouped(rows)
    sizes, kinds = sorted({members for members, *_ in groups}), list(dict.fromkeys(row["kind"] for row in rows))
    figure = Figure(figsize=(2 + 2.6 * len(sizes), 8.5), dpi=110, layout="constrained", facecolor="white")
    panels = figure.subplots(len(DRAWN), len(sizes), squeeze=False, sharey="row")
    for axes_row, (name, label) in zip(panels, DRAWN.items(), strict=True):
        scale = 100 if name == "accuracy" else 1
        for axes, size in zip(axes_row, sizes, strict=True):
            for i, kind in enumerate(kinds):
                points = [group for (members, _, k), group in groups.items() if (members, k) == (size, kind)]
                x = [statistics.fmean(row["epochs"] for row in group) for group in points]
                values = [mean_sd([scale * row[name] for row in group]) for group in points]
                means = [mean for mean, _ in values]
                errors = [(sd or 0.0) / len(group) ** 0.5 for (_, sd), group in zip(values, points, strict=True)]
                style = {"color": COLOURS[i % len(COLOURS)], "marker": MARKS[i % len(MARKS)], "label": kind}
                axes.errorbar(x, means, errors, ms=4, lw=1, capsize=2, **style)
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter("{x:.0f}")
            if name != "accuracy":
                axes.set_yscale("log")
            axes.spines[["top", "right"]].set_visible(False)
        axes_row[0].set_ylabel(label)
    for axes, size in zip(panels[0], sizes, strict=True):
        axes.set_title(f"{size} members")
    for axes in panels[-1]:
        axes.set_xlabel("epochs in all")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def write_picture(rows: Sequence[Row], path: Path) -> None:
    """Draw `picture` into a PNG file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(picture(rows)).print_png(path)

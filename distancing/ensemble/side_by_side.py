"""Kinds of ensembles side by side: a table, a figure of their scores over the epochs, and a CSV of all ensembles."""

import dataclasses
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from rich.table import Column, Table

from distancing.ensemble.calibration import Equivalent
from distancing.ensemble.row import Row
from distancing.errors import EnsembleError
from distancing.report.figures import COLOURS, MARKS
from distancing.report.significance import holm, mean_sd, paired, unpaired

Key = tuple[int, float, str]  # members, epochs each, kind
SCORES = {
    "member_accuracy": "member acc.",
    "accuracy": "ensemble acc.",
    "nll": "NLL",
    "calibrated_nll": "calibrated NLL",
    "brier": "Brier",
    "ece": "ECE",
    "calibrated_ece": "calibrated ECE",
    "aurc": "AURC",
    "correlation": "c/v",
    "ood_auroc": "OOD AUROC",
    "ood_mutual_information_auroc": "OOD AUROC, mutual inf.",
    "member_ood_auroc": "member OOD AUROC",
    "corrupted_error": "corrupted error",
    "corrupted_calibrated_nll": "corrupted cal. NLL",
    "corrupted_calibrated_ece": "corrupted cal. ECE",
}
TEXTS = ("kind", "trial")  # columns that are not numbers
DRAWN = {
    "nll": "NLL, nats",
    "calibrated_nll": "calibrated NLL, nats",
    "accuracy": "accuracy, %",
    "ece": "expected calibration error",
}


def records(rows: Sequence[Row], best: Sequence[Row], independent: str | None = None) -> list[dict[str, Any]]:
    """Return the fields of the rows, for a CSV or JSON file.

    independent: as in `cells`. It adds `deep_ensemble_equivalent`, that of each ensemble by itself: a number, or text
    such as "< 1" beyond the measured numbers. It is None for the independent networks. best: the rows whose independent
    networks are the yardstick.
    """
    fields = [dataclasses.asdict(row) for row in rows]
    if independent:
        yardstick, own = _independent(grouped(best), independent)
        for row, record in zip(rows, fields, strict=True):
            nll = None if _key(row) in own else row.calibrated_nll
            record["deep_ensemble_equivalent"] = None if nll is None else yardstick.bounded(yardstick.of(nll))
    return fields


def grouped(rows: Sequence[Row]) -> dict[Key, list[Row]]:
    """Return the rows by members, epochs each and kind, sorted by the first two."""
    groups: dict[Key, list[Row]] = defaultdict(list)
    for row in rows:
        groups[_key(row)].append(row)
    return dict(sorted(groups.items(), key=lambda item: item[0][:2]))


def _key(row: Row) -> Key:
    return row.members, row.epochs_each, row.kind


def present(rows: Sequence[Row]) -> list[str]:
    """Return the names of the scores that at least one row has."""
    return [name for name in SCORES if any(getattr(row, name) is not None for row in rows)]


def header(
    rows: Sequence[Row], baseline: str | None, independent: str | None = None, score: str | None = None
) -> list[str]:
    """Return the table's column names."""
    compared = [f"Δ {SCORES[_judged_by(rows, score)]}", "p"] if baseline else []
    equivalent = ["deep-ensemble equivalent"] if independent else []
    names = [SCORES[name] for name in present(rows)]
    costs = ["forward", "backward", "inference"]
    return ["members", "epochs each", "epochs", "kind", "n", *names, *equivalent, *costs, *compared]


def comparison(
    rows: Sequence[Row], baseline: str | None = None, independent: str | None = None, score: str | None = None
) -> list[list[str]]:
    """Return the table with its header; see `cells`."""
    return [header(rows, baseline, independent, score), *cells(rows, baseline, independent, score)]


def cells(
    rows: Sequence[Row], baseline: str | None, independent: str | None = None, score: str | None = None
) -> list[list[str]]:
    """Return the table's rows, one for each group: mean ± standard error over its ensembles.

    Forward and backward are passes over the training images for the whole ensemble. Inference is the cost of a
    prediction, in networks of the smallest size.

    baseline: a part of one kind's name. The score of other kinds is compared with that of the baseline with the same
    number of members and epochs each, or else with as many epochs in all. score: one of SCORES; without one the
    calibrated NLL, or the raw NLL if rows of an older version have no calibrated one. independent: a part of the name
    of the kind whose members are independent networks, for the deep-ensemble equivalent. Raise EnsembleError if no
    kind or several have such a name, or rows lack the score.
    """
    groups = grouped(rows)
    smallest = min((row.operations / row.members for row in rows if row.operations), default=1.0)
    compared = _compared(groups, baseline, score) if baseline else {}
    equivalent = _equivalents(groups, independent) if independent else {}
    table = []
    for key, ensembles in groups.items():
        members, epochs_each, kind = key
        epochs = f"{statistics.fmean(row.epochs for row in ensembles):g}"
        scores = [
            _mean_and_error([getattr(row, name) for row in ensembles], name.endswith("accuracy"))
            for name in present(rows)
        ]
        costs = [_mean([getattr(row, name) for row in ensembles]) for name in ("forward", "backward")]
        costs.append(_mean([row.operations / smallest if row.operations else None for row in ensembles]))
        row = [str(members), f"{epochs_each:g}", epochs, kind, str(len(ensembles)), *scores]
        table.append([*row, *equivalent.get(key, []), *costs, *compared.get(key, [])])
    return table


def _equivalents(groups: Mapping[Key, Sequence[Row]], independent: str) -> dict[Key, list[str]]:
    """Return the deep-ensemble equivalent of each group, and the interval of one standard error.

    The independent networks are those of the most epochs each.
    """
    equivalent, own = _independent(groups, independent)
    known = _calibrated_nll(groups)
    return {key: [_interval(equivalent, *known[key]) if key in known and key not in own else "–"] for key in groups}


def _independent(groups: Mapping[Key, Sequence[Row]], independent: str) -> tuple[Equivalent, list[Key]]:
    """Return the independent networks of the most epochs each, as a yardstick, and their groups."""
    kind = kind_named((key[2] for key in groups), independent, "independent")
    known = _calibrated_nll(groups)
    longest = max((key[1] for key in known if key[2] == kind), default=0.0)
    own = [key for key in known if key[1:] == (longest, kind)]
    if not own:
        raise EnsembleError(f"--independent={independent}: {kind} has no calibrated NLL: compare the sweep again")
    return Equivalent([key[0] for key in own], [known[key][0] for key in own], [known[key][1] for key in own]), own


def _calibrated_nll(groups: Mapping[Key, Sequence[Row]]) -> dict[Key, tuple[float, float]]:
    """Return the mean calibrated NLL and its standard error of each group that has one."""
    nll = {key: [row.calibrated_nll for row in rows if row.calibrated_nll is not None] for key, rows in groups.items()}
    return {key: _mean_and_se(values) for key, values in nll.items() if len(values) == len(groups[key])}


def _interval(independent: Equivalent, nll: float, error: float) -> str:
    """Return the equivalent and its interval, such as 3.2 (2.9 to 3.6), with < and > beyond the measured numbers."""
    numbers = (independent.of(nll), *independent.interval(nll, error))
    mean, low, high = (f"{n:.1f}" if isinstance(n, float) else n for n in map(independent.bounded, numbers))
    return mean if mean == low == high else f"{mean} ({low} to {high})"


def _mean_and_se(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and its standard error, which is 0 for a single value."""
    mean, sd = mean_sd(values)
    return mean, (sd or 0.0) / len(values) ** 0.5


def kind_named(kinds: Iterable[str], name: str, option: str) -> str:
    """Return the kind of this name, or the only one that has it in its name. Raise EnsembleError otherwise."""
    kinds = sorted(set(kinds))
    matching = [kind for kind in kinds if kind == name] or [kind for kind in kinds if name in kind]
    if len(matching) == 1:
        return matching[0]
    several = f"is in the names of {len(matching)} kinds; write one"
    problem = several if matching else "is in no kind's name; the kinds are"
    raise EnsembleError(f"--{option}={name} {problem}: {'; '.join(matching or kinds)}")


def _compared(groups: Mapping[Key, Sequence[Row]], baseline: str, score: str | None) -> dict[Key, list[str]]:
    """Return Δ and Holm's p of each group that has a baseline, and a mark for the baselines."""
    score = _judged_by([row for group in groups.values() for row in group], score)
    matching = kind_named((key[2] for key in groups), baseline, "baseline")
    by_epochs = {rows[0].planned: rows for key, rows in groups.items() if key[2] == matching}
    tests = {}
    for (members, epochs_each, kind), rows in groups.items():
        base = groups.get((members, epochs_each, matching)) or by_epochs.get(rows[0].planned)
        if base and kind != matching:
            tests[members, epochs_each, kind] = _difference(rows, base, score)
    compared = {key: ["baseline", ""] for key in groups if key[2] == matching}
    for (key, (difference, _)), p in zip(tests.items(), holm([p for _, p in tests.values()]), strict=True):
        shown = f"{100 * difference:+.2f}" if score.endswith("accuracy") else f"{difference:+.4f}"
        compared[key] = [shown, "–" if p is None else f"{p:.2g}"]
    return compared


def _judged_by(rows: Sequence[Row], score: str | None) -> str:
    """Return the score that is compared: without a choice, the calibrated NLL if all rows have it, or else the raw one.

    Raise EnsembleError if rows lack the chosen score.
    """
    known = [name for name in SCORES if all(getattr(row, name) is not None for row in rows)]
    if score and score not in known:
        raise EnsembleError(f"--score={score}: some of the ensembles have none; all have {', '.join(known)}")
    return score or ("calibrated_nll" if "calibrated_nll" in known else "nll")


def _difference(rows: Sequence[Row], base: Sequence[Row], score: str) -> tuple[float, float | None]:
    """Return the difference of a mean score and its p: of a test paired by seed if both have the same seeds."""
    values, reference = ({row.seed: getattr(row, score) for row in group} for group in (rows, base))
    if None not in values and values.keys() == reference.keys() and len(values) == len(rows) == len(base):
        comparison = paired(values, reference)
        assert comparison is not None
        return comparison.difference, comparison.p
    return unpaired([getattr(row, score) for row in rows], [getattr(row, score) for row in base])


def trials(rows: Sequence[Row], best: Sequence[Row]) -> list[list[str]]:
    """Return a table of all trials, with the mean calibrated NLL on the validation images and on the test images.

    A star marks the chosen ones, `best`.
    """
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.members, row.epochs_each, row.kind, row.trial].append(row)
    table = [["members", "epochs", "kind", "trial", "n", "validation", "test", "chosen"]]
    for (members, _, kind, trial), group in groups.items():
        names = ("validation_calibrated_nll", "calibrated_nll")
        scores = [_mean_and_error([getattr(row, name) for row in group], False) for name in names]
        mark = "*" if group[0] in best else ""
        epochs = f"{statistics.fmean(row.epochs for row in group):g}"
        table.append([str(members), epochs, kind, trial, str(len(group)), *scores, mark])
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
    columns = (Column(name, justify="left" if name in TEXTS else "right") for name in table[0])
    lines = Table(*columns, title=title, title_justify="left", box=None)
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
    sizes, kinds = sorted({members for members, *_ in groups}), list(dict.fromkeys(row.kind for row in rows))
    drawn = {name: label for name, label in DRAWN.items() if all(getattr(row, name) is not None for row in rows)}
    figure = Figure(
        figsize=(2 + 2.6 * len(sizes), 1 + 2.5 * len(drawn)), dpi=110, layout="constrained", facecolor="white"
    )
    panels = figure.subplots(len(drawn), len(sizes), squeeze=False, sharey="row")
    for axes_row, (name, label) in zip(panels, drawn.items(), strict=True):
        scale = 100 if name == "accuracy" else 1
        for axes, size in zip(axes_row, sizes, strict=True):
            for i, kind in enumerate(kinds):
                points = [group for (members, _, k), group in groups.items() if (members, k) == (size, kind)]
                x = [statistics.fmean(row.epochs for row in group) for group in points]
                values = [mean_sd([scale * getattr(row, name) for row in group]) for group in points]
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

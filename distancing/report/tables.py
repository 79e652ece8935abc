"""The table of an overview, for a terminal and as CSV, Markdown and LaTeX."""

import csv
import io
import math
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from distancing.report.groups import Group, text
from distancing.report.metrics import label, unit
from distancing.report.overview import Overview
from distancing.report.runs import STATES
from distancing.report.significance import TEST


@dataclass(frozen=True)
class Column:
    """A column of the table. head: its heading. justify: the side on which its cells are aligned."""

    head: str
    justify: Literal["left", "right"]


def columns(overview: Overview) -> list[Column]:
    """Return the columns: the settings, the number of runs in each state, and the metrics."""
    settings = [Column(key, "left") for key in overview.keys] or [Column("", "left")]
    counts = [Column(name, "right") for name in ("n", *overview.states)]
    numbers = []
    for metric in overview.metrics:
        numbers.append(Column(label(metric), "right"))
        if overview.baseline:
            numbers += [Column("Δ", "right"), Column("p", "right")]
    return [*settings, *counts, *numbers]


def cells(overview: Overview, group: Group) -> list[str]:
    """Return the group's row, one cell for each of the `columns`."""
    settings = [text(group.settings[key]) for key in overview.keys] or ["all runs"]
    states = group.states
    counts = [str(states[state]) for state in ("finished", *overview.states)]
    numbers = []
    for metric in overview.metrics:
        numbers.append(_mean(overview, group, metric))
        if overview.baseline:
            numbers += _compared(overview, group, metric)
    return [*settings, *counts, *numbers]


def _mean(overview: Overview, group: Group, metric: str) -> str:
    values = overview.mean_sd(group, metric)
    if values is None:
        return "–"
    mean, sd, n = values
    cell = number(mean, unit(metric))
    if sd is not None:
        cell += f" ± {number(sd, unit(metric), mean)}"
    return cell if n == group.states["finished"] else f"{cell} (n={n})"


def number(value: float, unit: str, like: float | None = None) -> str:
    """Format a value: percentages with two decimals, other numbers with four digits.

    like: use as many decimals as this number would have.
    """
    size = abs(value if like is None else like)
    if not math.isfinite(value):
        return f"{value}".replace("inf", "∞").replace("-", "−")
    if not math.isfinite(size):
        size = abs(value)
    if unit == "%":
        decimals = 2
    elif size and (size < 1e-3 or size >= 1e6):
        return f"{value:.3g}".replace("-", "−")
    else:
        decimals = max(0, 3 - math.floor(math.log10(size))) if size >= 1 else 4
    return f"{value:.{decimals}f}".replace("-", "−")


def _compared(overview: Overview, group: Group, metric: str) -> list[str]:
    comparison = overview.compared[metric].get(group)
    if comparison is None:
        return ["baseline" if group is overview.baseline else "–", ""]
    own = overview.mean_sd(group, metric)
    difference = number(comparison.difference, unit(metric), own and own[0])
    difference = difference if difference.startswith(("−", "nan")) else f"+{difference}"
    if overview.is_partial(comparison, group, metric):
        difference += f" ({comparison.n} pair{'s' * (comparison.n > 1)})"
    return [difference, "" if comparison.holm is None else p_value(comparison.holm)]


def p_value(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def caption(overview: Overview) -> str:
    """Return the notes as sentences."""
    return ". ".join(note[:1].upper() + note[1:] for note in overview.notes) + "."


def rich(overview: Overview) -> RenderableType:
    """Return the table for a terminal, with a headline and the notes."""
    rows = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns(overview):
        rows.add_column(Text(column.head), justify=column.justify, no_wrap=True)
    for group in overview.groups:
        rows.add_row(*map(Text, cells(overview, group)))
    return Lines(Text(headline(overview), "bold"), rows, *(Text(note, "dim") for note in overview.notes))


def headline(overview: Overview) -> str:
    """Return how many runs and groups there are, and how many runs are in each state."""
    runs = [run for group in overview.all_groups for run in group.runs]
    counts = {state: sum(run.state == state for run in runs) for state in STATES}
    states = ", ".join(f"{n} {state}" for state, n in counts.items() if n)
    groups = len(overview.all_groups)
    plural = ["" if n == 1 else "s" for n in (len(runs), groups)]
    return f"{len(runs)} run{plural[0]} in {groups} group{plural[1]}: {states}"


def as_csv(overview: Overview) -> str:
    """Return the table as CSV, with all digits and a column for every state."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    head = [*overview.keys, *STATES]
    for metric in overview.metrics:
        unit_name = f" [{unit(metric)}]" if unit(metric) else ""
        head += [f"{metric} mean{unit_name}", f"{metric} sd{unit_name}", f"{metric} n"]
        if overview.baseline:
            head += [f"{metric} difference{unit_name}", f"{metric} difference sd{unit_name}", f"{metric} pairs",
                     f"{metric} p ({TEST})", f"{metric} p (Holm)"]  # fmt: skip
    rows.writerow(head)
    for group in overview.groups:
        row: list[Any] = ["" if (value := group.settings[key]) is None else text(value) for key in overview.keys]
        row += [group.states[state] for state in STATES]
        for metric in overview.metrics:
            row += overview.mean_sd(group, metric) or ("", "", 0)
            if overview.baseline:
                c = overview.compared[metric].get(group)
                row += [c.difference, c.sd, c.n, c.p, c.holm] if c else [""] * 5
        rows.writerow(row)
    return out.getvalue()


def markdown(overview: Overview) -> str:
    """Return the table and its caption as Markdown."""
    heads, marks = [], []
    for column in columns(overview):
        heads.append(_markdown(column.head))
        marks.append("---:" if column.justify == "right" else "---")
    lines = [heads, marks, *([_markdown(cell) for cell in cells(overview, group)] for group in overview.groups)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\n{_markdown(caption(overview))}\n"


def _markdown(words: str) -> str:
    """Escape text for Markdown."""
    for character in "\\`*_|<>[]~":
        words = words.replace(character, f"\\{character}")
    return " ".join(words.split())


LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "±": r"\ensuremath{\pm}", "−": r"\ensuremath{-}", "–": "--", "Δ": r"\ensuremath{\Delta}", "‖": r"\ensuremath{\|}",
    "θ": r"\ensuremath{\theta}", "σ": r"\ensuremath{\sigma}", "\n": " ",
}  # fmt: skip


def latex(overview: Overview) -> str:
    """Return the table for \\input; it needs the package booktabs."""
    align = "".join(column.justify[0] for column in columns(overview))
    heads = " & ".join(_latex(column.head) for column in columns(overview))
    rows = [" & ".join(map(_latex, cells(overview, group))) for group in overview.groups]
    return "\n".join([
        r"% needs \usepackage{booktabs}", r"\begin{table}", r"\centering", rf"\caption{{{_latex(caption(overview))}}}",
        rf"\begin{{tabular}}{{{align}}}", r"\toprule", rf"{heads} \\", r"\midrule",
        *(rf"{row} \\" for row in rows), r"\bottomrule", r"\end{tabular}", r"\end{table}", "",
    ])  # fmt: skip


def _latex(words: str) -> str:
    """Escape text for LaTeX."""
    words = words.replace("‖θ − θ_c‖", "\0")  # the one formula, in the heading of a column
    escaped = "".join(LATEX.get(character, character) for character in words)
    return escaped.replace("\0", r"\ensuremath{\|\theta - \theta_c\|}")

"""The table of an answer: for a terminal, as CSV, Markdown and LaTeX."""

import csv
import io
import math
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from distancing.report.answer import Answer
from distancing.report.groups import Group, text
from distancing.report.metrics import label, unit
from distancing.report.runs import STATES


@dataclass(frozen=True)
class Column:
    head: str
    justify: Literal["left", "right"]


def columns(found: Answer) -> list[Column]:
    settings = [Column(key, "left") for key in found.keys] or [Column("", "left")]
    counts = [Column(name, "right") for name in ("n", *found.states)]
    numbers = []
    for metric in found.metrics:
        numbers.append(Column(label(metric), "right"))
        if found.baseline:
            numbers += [Column("Δ", "right"), Column("p", "right")]
    return [*settings, *counts, *numbers]


def cells(found: Answer, group: Group) -> list[str]:
    settings = [text(group.settings[key]) for key in found.keys] or ["all runs"]
    states = group.states
    counts = [str(states[state]) for state in ("finished", *found.states)]
    numbers = []
    for metric in found.metrics:
        numbers.append(_mean(found, group, metric))
        if found.baseline:
            numbers += _compared(found, group, metric)
    return [*settings, *counts, *numbers]


def _mean(found: Answer, group: Group, metric: str) -> str:
    values = found.mean_sd(group, metric)
    if values is None:
        return "–"
    mean, sd, n = values
    said = (
        number(mean, unit(metric)) if sd is None else f"{number(mean, unit(metric))} ± {number(sd, unit(metric), mean)}"
    )
    return said if n == group.states["finished"] else f"{said} (n={n})"


def number(value: float, of: str, like: float | None = None) -> str:
    """Percent with two decimals, others with four digits. like: with as many decimals as this one."""
    size = abs(value if like is None else like)
    if of == "%":
        decimals = 2
    elif size and (size < 1e-3 or size >= 1e6):
        return f"{value:.3g}".replace("-", "−")
    else:
        decimals = max(0, 3 - math.floor(math.log10(size))) if size >= 1 else 4
    return f"{value:.{decimals}f}".replace("-", "−")


def _compared(found: Answer, group: Group, metric: str) -> list[str]:
    comparison = found.compared[metric].get(group)
    if comparison is None:
        return ["baseline" if group is found.baseline else "–", ""]
    own = found.mean_sd(group, metric)
    difference = number(comparison.difference, unit(metric), own and own[0])
    difference = difference if difference.startswith("−") else f"+{difference}"
    return [difference, "" if comparison.holm is None else p_value(comparison.holm)]


def p_value(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def caption(found: Answer) -> str:
    return ". ".join(note[:1].upper() + note[1:] for note in found.notes) + "."


def rich(found: Answer) -> RenderableType:
    rows = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns(found):
        rows.add_column(Text(column.head), justify=column.justify, no_wrap=True)
    for group in found.groups:
        rows.add_row(*map(Text, cells(found, group)))
    return Lines(Text(headline(found), "bold"), rows, *(Text(note, "dim") for note in found.notes))


def headline(found: Answer) -> str:
    """How many runs there are, and where they are."""
    runs = [run for group in found.all_groups for run in group.runs]
    counts = {state: sum(run.state == state for run in runs) for state in STATES}
    said = ", ".join(f"{n} {state}" for state, n in counts.items() if n)
    return f"{len(runs)} runs in {len(found.all_groups)} groups: {said}"


def as_csv(found: Answer) -> str:
    """All digits; every state has a column."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    head = [*found.keys, *STATES]
    for metric in found.metrics:
        of = f" [{unit(metric)}]" if unit(metric) else ""
        head += [f"{metric} mean{of}", f"{metric} sd{of}", f"{metric} n"]
        if found.baseline:
            head += [f"{metric} difference{of}", f"{metric} difference sd{of}", f"{metric} pairs",
                     f"{metric} p ({TEST_NAME})", f"{metric} p (Holm)"]  # fmt: skip
    rows.writerow(head)
    for group in found.groups:
        row: list[Any] = ["" if (value := group.settings[key]) is None else text(value) for key in found.keys]
        row += [group.states[state] for state in STATES]
        for metric in found.metrics:
            row += found.mean_sd(group, metric) or ("", "", 0)
            if found.baseline:
                each = found.compared[metric].get(group)
                row += [each.difference, each.sd, each.n, each.p, each.holm] if each else [""] * 5
        rows.writerow(row)
    return out.getvalue()


TEST_NAME = "scipy.stats.ttest_rel"


def markdown(found: Answer) -> str:
    heads, marks = [], []
    for column in columns(found):
        heads.append(_markdown(column.head))
        marks.append("---:" if column.justify == "right" else "---")
    lines = [heads, marks, *([_markdown(cell) for cell in cells(found, group)] for group in found.groups)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\n{_markdown(caption(found))}\n"


def _markdown(said: str) -> str:
    for each in "\\`*_|<>[]~":
        said = said.replace(each, f"\\{each}")
    return " ".join(said.split())


LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "±": r"\ensuremath{\pm}", "−": r"\ensuremath{-}", "–": "--", "Δ": r"\ensuremath{\Delta}", "‖": r"\ensuremath{\|}",
    "θ": r"\ensuremath{\theta}", "σ": r"\ensuremath{\sigma}", "\n": " ",
}  # fmt: skip


def latex(found: Answer) -> str:
    """A table for booktabs, to be \\input."""
    align = "".join(column.justify[0] for column in columns(found))
    heads = " & ".join(_latex(column.head) for column in columns(found))
    rows = [" & ".join(map(_latex, cells(found, group))) for group in found.groups]
    return "\n".join([
        r"% needs \usepackage{booktabs}", r"\begin{table}", r"\centering", rf"\caption{{{_latex(caption(found))}}}",
        rf"\begin{{tabular}}{{{align}}}", r"\toprule", rf"{heads} \\", r"\midrule",
        *(rf"{row} \\" for row in rows), r"\bottomrule", r"\end{tabular}", r"\end{table}", "",
    ])  # fmt: skip


def _latex(said: str) -> str:
    said = said.replace("‖θ − θ_c‖", "\0")  # the one formula in a head
    escaped = "".join(LATEX.get(each, each) for each in said)
    return escaped.replace("\0", r"\ensuremath{\|\theta - \theta_c\|}")

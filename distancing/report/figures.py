"""One function for each figure, from numbers to a matplotlib Figure. Readable for the colour-blind, and in grey."""

import contextlib
import io
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation
from numpy.typing import NDArray

from distancing.colours import OKABE_ITO

Array = NDArray[np.float64]
COLOURS = (*OKABE_ITO, "#000000", "#8C6D1F")  # their black, and a brown
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 3)))
MOST = len(COLOURS)  # groups in one picture
SHADES = ("#EDEDED", "#FFFFFF")
STYLE: dict[Any, Any] = {
    "font.size": 8, "axes.labelsize": 8, "axes.titlesize": 8, "legend.fontsize": 7, "xtick.labelsize": 7,
    "ytick.labelsize": 7, "axes.linewidth": 0.6, "lines.linewidth": 1.2, "lines.markersize": 3.5,
    "axes.spines.top": False, "axes.spines.right": False, "pdf.fonttype": 42, "savefig.facecolor": "white",
    "figure.facecolor": "white", "legend.frameon": False, "axes.unicode_minus": True,
}  # fmt: skip
WIDTH = 7.0  # inches: a page's text


@dataclass(frozen=True)
class Curve:
    """Of a group: column → mean and standard deviation [epochs] over the seeds, nan where there is no value.
    phases: name → first and last epoch, if all seeds have the same."""

    mean: Mapping[str, Array]
    sd: Mapping[str, Array]
    phases: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Point:
    """A group's mean, and its standard deviation over the seeds; 0 for one seed."""

    mean: float
    sd: float


@contextlib.contextmanager
def style() -> Iterator[None]:
    with matplotlib.rc_context(STYLE):
        yield


def render(figure: Figure) -> tuple[bytes, bytes]:
    """As PNG and as PDF."""
    png, pdf = io.BytesIO(), io.BytesIO()
    with style():
        canvas = FigureCanvasAgg(figure)
        canvas.print_figure(png, dpi=200, metadata={"Software": None})
        figure.set_layout_engine("none")  # it stays as it was laid out
        canvas.print_figure(pdf, format="pdf", metadata={"CreationDate": None})
    return png.getvalue(), pdf.getvalue()


def plain(words: str) -> str:
    """Text in which a dollar is a dollar, and only our own indices are set as such."""
    words = words.replace("$", r"\$")
    return words.replace("θ_c", "θ$_c$").replace("θ_0", "θ$_0$")


def learning_curves(curves: Mapping[str, Curve], columns: Mapping[str, str]) -> Figure:
    """A panel for each column; a line with a band of ± one standard deviation for each group.

    columns: name → label of the axis. Losses that fall to a fifth or less are on a logarithmic axis.
    """
    with style():
        figure = Figure(figsize=(WIDTH, 2.3), layout="constrained")
        panels = figure.subplots(1, len(columns), squeeze=False, sharex=True)[0]
        for axes, (column, label) in zip(panels, columns.items(), strict=True):
            drawn = [each.mean[column] for each in curves.values() if column in each.mean]
            low, high = min(map(np.nanmin, drawn)), max(map(np.nanmax, drawn))
            log = not column.endswith("accuracy") and 0 < 5 * low < high
            for i, (name, each) in enumerate(curves.items()):
                if column in each.mean:
                    _band(axes, each, column, i, name)
            axes.set(xlabel="epoch", ylabel=plain(label), yscale="log" if log else "linear")
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            _shade(axes, [each.phases for each in curves.values()])
        _legend(figure, panels[0], _columns(curves, figure))
    return figure


def _band(axes: Axes, curve: Curve, column: str, i: int, name: str) -> None:
    mean, sd = curve.mean[column], np.nan_to_num(curve.sd[column])
    there = np.isfinite(mean)
    epochs = np.flatnonzero(there) + 1
    mean, sd = mean[there], sd[there]
    axes.plot(epochs, mean, color=COLOURS[i % MOST], ls=LINES[i % MOST], marker=MARKS[i % MOST],
              markevery=(min(i, len(epochs) // 8), max(1, len(epochs) // 6)), label=plain(name), zorder=3)  # fmt: skip
    low = np.maximum(mean - sd, mean / 10) if (mean > 0).all() else mean - sd  # on a logarithmic axis, too
    axes.fill_between(epochs, low, mean + sd, color=COLOURS[i % MOST], alpha=0.18, lw=0, zorder=2)


def _shade(axes: Axes, phases: Sequence[tuple[tuple[str, int, int], ...]]) -> None:
    """The phases, where all curves have the same; else where each one changes is marked by a thin line."""
    if len(set(phases)) != 1:
        for border in {first - 0.5 for each in phases for _, first, _ in each[1:]}:
            axes.axvline(border, color="#999999", lw=0.5, ls=":", zorder=1)
        return
    room = WIDTH * 72 / 3 / max(1, sum(last - first + 1 for _, first, last in phases[0]))  # points for an epoch
    for i, (name, first, last) in enumerate(phases[0]):
        axes.axvspan(first - 0.5, last + 0.5, color=SHADES[i % 2], lw=0, zorder=0)
        if room * (last - first + 1) > 4.2 * len(name):
            axes.annotate(plain(name), ((first + last) / 2, 1), xycoords=("data", "axes fraction"), ha="center",
                          va="bottom", fontsize=6.5, color="#444444", annotation_clip=False)  # fmt: skip
    if phases[0]:
        axes.set_xlim(0.5, phases[0][-1][2] + 0.5)


def _columns(names: Collection[str], figure: Figure) -> int:
    """As many columns of a legend as fit; the figure grows by their rows."""
    width, height = figure.get_size_inches()
    longest, n = max(map(len, names)), len(names)
    columns = max(1, int(width / (0.75 + 0.062 * longest)))
    figure.set_size_inches(width, height + 0.16 * math.ceil(n / columns))
    return columns


def _legend(figure: Figure, axes: Axes, columns: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        lines = [each.lines[0] if isinstance(each, ErrorbarContainer) else each for each in handles]
        figure.legend(lines, labels, loc="outside lower center", ncols=min(columns, len(labels)), handlelength=3)


def heat_map(
    cells: Mapping[tuple[float, float], Point], x: str, y: str, metric: str, percent: bool,
    baseline: float | None = None, lower_is_better: bool = False,
) -> Figure:  # fmt: skip
    """The mean in each cell, and the standard deviation below it. x, y, metric: labels with their units.

    baseline: its value, a line in the scale.
    """
    with style():
        xs, ys = (sorted({key[i] for key in cells}) for i in (0, 1))
        values = np.full((len(ys), len(xs)), np.nan)
        for (a, b), point in cells.items():
            values[ys.index(b), xs.index(a)] = point.mean
        figure = Figure(figsize=(min(WIDTH, 1.7 + 0.62 * len(xs)), 0.9 + 0.45 * len(ys)), layout="constrained")
        axes = figure.subplots()
        shown = axes.imshow(values, cmap="cividis_r" if lower_is_better else "cividis", origin="lower", aspect="auto")
        axes.set_xticks(range(len(xs)), [f"{each:g}" for each in xs])
        axes.set_yticks(range(len(ys)), [f"{each:g}" for each in ys])
        axes.set(xlabel=plain(x), ylabel=plain(y))
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        bar = figure.colorbar(shown, ax=axes, label=plain(metric))
        bar.outline.set_visible(False)
        if baseline is not None:
            axes.set_title(f"baseline: {_said(baseline, percent)}", loc="left")
            if np.nanmin(values) <= baseline <= np.nanmax(values):
                bar.ax.axhline(baseline, color="white", lw=3)
                bar.ax.axhline(baseline, color="black", lw=1.2)
        for (a, b), point in cells.items():
            (colour,) = shown.to_rgba(np.array([point.mean]))
            dark = float(np.dot(colour[:3], (0.2126, 0.7152, 0.0722))) < 0.45
            said = f"{_said(point.mean, percent)}" + (f"\n±{_said(point.sd, percent)}" if point.sd else "")
            axes.text(xs.index(a), ys.index(b), said, ha="center", va="center", fontsize=6.5, linespacing=1.1,
                      color="white" if dark else "black")  # fmt: skip
    return figure


def _said(value: float, percent: bool) -> str:
    return f"{value:.1f}" if percent or abs(value) >= 10 else f"{value:.3f}"


def against(lines: Mapping[str, Mapping[float | str, Point]], x: str, y: str, baseline: Point | None = None) -> Figure:
    """The metric against one setting, a line with error bars for each combination of the others.

    Numbers that are spaced by factors rather than by steps are on a logarithmic axis; words have no line between them.
    baseline: a horizontal line with a band.
    """
    with style():
        figure = Figure(figsize=(3.5, 2.5), layout="constrained")
        axes = figure.subplots()
        places = list(dict.fromkeys(place for line in lines.values() for place in line))
        words = any(isinstance(place, str) for place in places)
        spread = [float(place) for place in places] if not words else []
        log = (
            len(spread) > 2 and min(spread) > 0 and _uneven(np.log(sorted(spread))) < _uneven(np.array(sorted(spread)))
        )
        for i, (name, line) in enumerate(lines.items()):
            xs = [places.index(place) if words else float(place) for place in line]
            drawn = axes.errorbar(
                xs, [point.mean for point in line.values()], [point.sd for point in line.values()],
                color=COLOURS[i % MOST], ls="none" if words else LINES[i % MOST], marker=MARKS[i % MOST],
                capsize=1.5, elinewidth=0.7, label=plain(name), zorder=3,
            )  # fmt: skip
            aside = ScaledTranslation((i - (len(lines) - 1) / 2) * 2 / 72, 0, figure.dpi_scale_trans)  # 2 points each
            for artist in drawn.get_children():
                artist.set_transform(axes.transData + aside)
        if baseline:
            low, high = baseline.mean - baseline.sd, baseline.mean + baseline.sd
            axes.axhline(baseline.mean, color="#555555", lw=1, ls=(0, (2, 2)), label="baseline", zorder=1)
            axes.axhspan(low, high, color="#DDDDDD", lw=0, zorder=0)
        axes.set(xlabel=plain(x), ylabel=plain(y))
        if log:
            axes.set_xscale("log")
        if words:
            axes.set_xticks(range(len(places)), [plain(str(place)) for place in places], rotation=20, ha="right")
            axes.margins(x=0.15)
        elif len(places) <= 8:
            axes.set_xticks(spread, [f"{each:g}" for each in spread])
            axes.minorticks_off()
        _legend(figure, axes, _columns([*lines, *(["baseline"] if baseline else [])], figure))
    return figure


def _uneven(values: Array) -> float:
    """How different the steps between these ascending values are, relative to their mean."""
    steps = np.diff(values)
    return float(steps.std() / steps.mean())


def distances(curve: Curve) -> Figure:
    """Of one group: above the distance to each checkpoint, below the height of each hill, over the epochs."""
    with style():
        rows = {"distance/": "distance ‖θ − θ_c‖", "hill/": "height k(θ, θ_c)"}
        there = {prefix: [column for column in curve.mean if column.startswith(prefix)] for prefix in rows}
        there = {prefix: found for prefix, found in there.items() if found}
        figure = Figure(figsize=(3.5, 0.9 + 1.5 * len(there)), layout="constrained")
        panels = figure.subplots(len(there), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (prefix, columns) in zip(panels, there.items(), strict=True):
            for i, column in enumerate(columns[:MOST]):
                _band(axes, curve, column, i, column.removeprefix(prefix))
            axes.set(ylabel=plain(rows[prefix]))
            top = max(1.0 if prefix == "hill/" else 0.0, axes.get_ylim()[1])
            axes.set_ylim(-0.04 * top, 1.04 * top)  # a mark at 0 is whole
            _shade(axes, [curve.phases])
        for axes in panels[1:]:  # the names of the phases once
            for words in list(axes.texts):
                words.remove()
        panels[-1].set_xlabel("epoch")
        panels[-1].xaxis.set_major_locator(MaxNLocator(6, integer=True))
        names = [column.removeprefix("distance/") for column in there.get("distance/", [])[:MOST]]
        _legend(figure, panels[0], _columns(names or [""], figure))
    return figure


def cost(points: Mapping[str, tuple[Point, Point]], x: str, y: str) -> Figure:
    """A metric against what it costs, a point with error bars in both directions for each group."""
    with style():
        figure = Figure(figsize=(3.5, 2.5), layout="constrained")
        axes = figure.subplots()
        for i, (name, (a, b)) in enumerate(points.items()):
            axes.errorbar(a.mean, b.mean, b.sd, a.sd, color=COLOURS[i % MOST], marker=MARKS[i % MOST], ls="none", ms=5,
                          capsize=2, elinewidth=0.8, label=plain(name))  # fmt: skip
        axes.set(xlabel=plain(x), ylabel=plain(y))
        axes.margins(0.1)
        _legend(figure, axes, _columns(points, figure))
    return figure


def members(groups: Mapping[str, Mapping[str, tuple[Point, Point]]], metrics: Mapping[str, str]) -> Figure:
    """A row for each group, a panel for each metric: an open mark for the members' mean, a full one for their average.

    groups: name → metric → (members, ensemble). metrics: name → label with its unit.
    """
    with style():
        figure = Figure(figsize=(WIDTH, 0.95 + 0.24 * len(groups)), layout="constrained")
        panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
        rows = np.arange(len(groups))
        kinds = (("mean of the members", "white", 0.13), ("their average", COLOURS[0], -0.13))
        for axes, (metric, label) in zip(panels, metrics.items(), strict=True):
            for kind, (name, face, shift) in enumerate(kinds):
                points = [each[metric][kind] for each in groups.values()]
                axes.errorbar([p.mean for p in points], rows + shift, xerr=[p.sd for p in points], ls="none",
                              marker="o", color=COLOURS[0], mfc=face, ms=4.5, capsize=2, elinewidth=0.8,
                              label=name)  # fmt: skip
            axes.set(xlabel=plain(label), yticks=rows, yticklabels=[plain(name) for name in groups])
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.grid(axis="y", color="#E4E4E4", lw=0.5)
            axes.set_axisbelow(True)
        panels[0].invert_yaxis()
        _legend(figure, panels[0], 2)
    return figure

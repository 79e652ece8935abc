"""One function for each figure. It takes numbers and returns a matplotlib Figure that is readable without colours."""

import io
import math
from collections.abc import Collection, Mapping, Sequence
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
COLOURS = (*OKABE_ITO, "#000000", "#8C6D1F")  # with Okabe and Ito's black, and a brown
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 3)))
MAX_GROUPS = len(COLOURS)  # in one picture
SHADES = ("#EDEDED", "#FFFFFF")
STYLE: dict[Any, Any] = {
    "font.size": 8, "axes.labelsize": 8, "axes.titlesize": 8, "legend.fontsize": 7, "xtick.labelsize": 7,
    "ytick.labelsize": 7, "axes.linewidth": 0.6, "lines.linewidth": 1.2, "lines.markersize": 3.5,
    "axes.spines.top": False, "axes.spines.right": False, "pdf.fonttype": 42, "savefig.facecolor": "white",
    "figure.facecolor": "white", "legend.frameon": False, "axes.unicode_minus": True,
}  # fmt: skip
WIDTH = 7.0  # inches, the width of a page's text


@dataclass(frozen=True)
class Curve:
    """The learning curves of a group.

    mean, sd: column → mean and standard deviation over the seeds [epochs]; nan where there is no value.
    phases: (name, first epoch, last epoch) of each; empty if the seeds differ.
    """

    mean: Mapping[str, Array]
    sd: Mapping[str, Array]
    phases: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Point:
    """The mean and the standard deviation over the seeds of a group; sd is 0 for one seed."""

    mean: float
    sd: float


def render(figure: Figure) -> tuple[bytes, bytes]:
    """Return the figure as PNG and as PDF."""
    png, pdf = io.BytesIO(), io.BytesIO()
    with matplotlib.rc_context(STYLE):
        canvas = FigureCanvasAgg(figure)
        canvas.print_figure(png, dpi=200, metadata={"Software": None})
        figure.set_layout_engine("none")  # the PDF keeps the layout of the PNG
        canvas.print_figure(pdf, format="pdf", metadata={"CreationDate": None})
    return png.getvalue(), pdf.getvalue()


def plain(words: str) -> str:
    """Escape text for matplotlib, but typeset the indices of θ_c and θ_0."""
    words = words.replace("$", r"\$")
    return words.replace("θ_c", "θ$_c$").replace("θ_0", "θ$_0$")


def learning_curves(curves: Mapping[str, Curve], columns: Mapping[str, str]) -> Figure:
    """Draw a panel for each column, with a line and a band of ± one standard deviation for each group.

    columns: name → label of the axis. Losses that fall to a fifth or less get a logarithmic axis.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.3), layout="constrained")
        panels = figure.subplots(1, len(columns), squeeze=False, sharex=True)[0]
        for axes, (column, label) in zip(panels, columns.items(), strict=True):
            means = [curve.mean[column] for curve in curves.values() if column in curve.mean]
            low, high = min(map(np.nanmin, means)), max(map(np.nanmax, means))
            log = not column.endswith("accuracy") and 0 < 5 * low < high
            for i, (name, curve) in enumerate(curves.items()):
                if column in curve.mean:
                    _draw_band(axes, curve, column, i, name)
            axes.set(xlabel="epoch", ylabel=plain(label), yscale="log" if log else "linear")
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            _mark_phases(axes, [curve.phases for curve in curves.values()])
        _add_legend(figure, panels[0], _make_room(figure, curves))
    return figure


def _look(i: int) -> dict[str, Any]:
    """Return the colour and the marker of line i."""
    return {"color": COLOURS[i % MAX_GROUPS], "marker": MARKS[i % MAX_GROUPS]}


def _draw_band(axes: Axes, curve: Curve, column: str, i: int, name: str) -> None:
    mean, sd = curve.mean[column], np.nan_to_num(curve.sd[column])
    finite = np.isfinite(mean)
    epochs = np.flatnonzero(finite) + 1
    mean, sd = mean[finite], sd[finite]
    every = (min(i, len(epochs) // 8), max(1, len(epochs) // 6))
    axes.plot(epochs, mean, **_look(i), ls=LINES[i % MAX_GROUPS], markevery=every, label=plain(name), zorder=3)
    low = np.maximum(mean - sd, mean / 10) if (mean > 0).all() else mean - sd  # stays positive on a logarithmic axis
    axes.fill_between(epochs, low, mean + sd, color=COLOURS[i % MAX_GROUPS], alpha=0.18, lw=0, zorder=2)


def _mark_phases(axes: Axes, phases: Sequence[tuple[tuple[str, int, int], ...]]) -> None:
    """Shade and name the phases if all curves have the same ones; else mark where each begins by a dotted line."""
    if len(set(phases)) != 1:
        for border in {first - 0.5 for of_curve in phases for _, first, _ in of_curve[1:]}:
            axes.axvline(border, color="#999999", lw=0.5, ls=":", zorder=1)
        return
    room = WIDTH * 72 / 3 / max(1, sum(last - first + 1 for _, first, last in phases[0]))  # points per epoch
    for i, (name, first, last) in enumerate(phases[0]):
        axes.axvspan(first - 0.5, last + 0.5, color=SHADES[i % 2], lw=0, zorder=0)
        if room * (last - first + 1) > 4.2 * len(name):
            where, middle = axes.get_xaxis_transform(), (first + last) / 2
            axes.text(middle, 1, plain(name), transform=where, ha="center", va="bottom", fontsize=6.5, color="#444444")
    if phases[0]:
        axes.set_xlim(0.5, phases[0][-1][2] + 0.5)


def _make_room(figure: Figure, names: Collection[str]) -> int:
    """Make the figure higher for a legend with these names, and return the number of its columns."""
    width, height = figure.get_size_inches()
    longest, n = max(map(len, names)), len(names)
    columns = max(1, int(width / (0.75 + 0.062 * longest)))
    figure.set_size_inches(width, height + 0.16 * math.ceil(n / columns))
    return columns


def _add_legend(figure: Figure, axes: Axes, columns: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        lines = [handle.lines[0] if isinstance(handle, ErrorbarContainer) else handle for handle in handles]
        figure.legend(lines, labels, loc="outside lower center", ncols=min(columns, len(labels)), handlelength=3)


def heat_map(
    cells: Mapping[tuple[float, float], Point],
    x: str,
    y: str,
    metric: str,
    percent: bool,
    baseline: float | None = None,
    lower_is_better: bool = False,
) -> Figure:
    """Draw the mean in each cell, with the standard deviation below it.

    x, y, metric: labels with their units.
    baseline: a value to mark in the colour scale.
    """
    with matplotlib.rc_context(STYLE):
        xs, ys = (sorted({key[i] for key in cells}) for i in (0, 1))
        values = np.full((len(ys), len(xs)), np.nan)
        for (a, b), point in cells.items():
            values[ys.index(b), xs.index(a)] = point.mean
        figure = Figure(figsize=(min(WIDTH, 1.7 + 0.62 * len(xs)), 0.9 + 0.45 * len(ys)), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(values, cmap="cividis_r" if lower_is_better else "cividis", origin="lower", aspect="auto")
        axes.set_xticks(range(len(xs)), [f"{value:g}" for value in xs])
        axes.set_yticks(range(len(ys)), [f"{value:g}" for value in ys])
        axes.set(xlabel=plain(x), ylabel=plain(y))
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        bar = figure.colorbar(image, ax=axes, label=plain(metric))
        bar.outline.set_visible(False)
        if baseline is not None:
            axes.set_title(f"baseline: {_short(baseline, percent)}", loc="left")
            if np.nanmin(values) <= baseline <= np.nanmax(values):
                bar.ax.axhline(baseline, color="white", lw=3)
                bar.ax.axhline(baseline, color="black", lw=1.2)
        for (a, b), point in cells.items():
            (background,) = image.to_rgba(np.array([point.mean]))
            dark = float(np.dot(background[:3], (0.2126, 0.7152, 0.0722))) < 0.45
            words = _short(point.mean, percent) + (f"\n±{_short(point.sd, percent)}" if point.sd else "")
            colour = "white" if dark else "black"
            axes.text(
                xs.index(a), ys.index(b), words, color=colour, ha="center", va="center", fontsize=6.5, linespacing=1.1
            )
    return figure


def _short(value: float, percent: bool) -> str:
    return f"{value:.1f}" if percent or abs(value) >= 10 else f"{value:.3f}"


def against(lines: Mapping[str, Mapping[float | str, Point]], x: str, y: str, baseline: Point | None = None) -> Figure:
    """Plot a metric against a setting, with a line with error bars for each combination of the other settings.

    Numbers that are spaced by factors rather than by steps get a logarithmic axis. Words are not joined by lines.

    lines: name → value of the setting → point.
    baseline: a horizontal line with a band.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.5, 2.5), layout="constrained")
        axes = figure.subplots()
        positions = list(dict.fromkeys(position for line in lines.values() for position in line))
        words = any(isinstance(position, str) for position in positions)
        numbers = [] if words else [float(position) for position in positions]
        ascending = np.array(sorted(numbers))
        log = len(numbers) > 2 and ascending[0] > 0 and _unevenness(np.log(ascending)) < _unevenness(ascending)
        for i, (name, line) in enumerate(lines.items()):
            xs = [positions.index(position) if words else float(position) for position in line]
            bars = axes.errorbar(
                xs,
                [point.mean for point in line.values()],
                [point.sd for point in line.values()],
                **_look(i),
                ls="none" if words else LINES[i % MAX_GROUPS],
                capsize=1.5,
                elinewidth=0.7,
                label=plain(name),
                zorder=3,
            )
            shift = (i - (len(lines) - 1) / 2) * 2 / 72  # 2 points between lines, so that no error bar hides another
            for artist in bars.get_children():
                artist.set_transform(axes.transData + ScaledTranslation(shift, 0, figure.dpi_scale_trans))
        if baseline:
            low, high = baseline.mean - baseline.sd, baseline.mean + baseline.sd
            axes.axhline(baseline.mean, color="#555555", lw=1, ls=(0, (2, 2)), label="baseline", zorder=1)
            axes.axhspan(low, high, color="#DDDDDD", lw=0, zorder=0)
        axes.set(xlabel=plain(x), ylabel=plain(y))
        if log:
            axes.set_xscale("log")
        if words:
            axes.set_xticks(range(len(positions)), [plain(str(word)) for word in positions], rotation=20, ha="right")
            axes.margins(x=0.15)
        elif len(positions) <= 8:
            axes.set_xticks(numbers, [f"{number:g}" for number in numbers])
            axes.minorticks_off()
        _add_legend(figure, axes, _make_room(figure, [*lines, *(["baseline"] if baseline else [])]))
    return figure


def _unevenness(values: Array) -> float:
    """Return the standard deviation of the steps between ascending values, relative to their mean."""
    steps = np.diff(values)
    return float(steps.std() / steps.mean())


def distances(curve: Curve) -> Figure:
    """Plot one group's distance to each checkpoint, and below it the height of each hill, over the epochs."""
    with matplotlib.rc_context(STYLE):
        labels = {"distance/": "distance ‖θ − θ_c‖", "hill/": "height k(θ, θ_c)"}
        rows = {prefix: [column for column in curve.mean if column.startswith(prefix)] for prefix in labels}
        rows = {prefix: columns for prefix, columns in rows.items() if columns}
        figure = Figure(figsize=(3.5, 0.9 + 1.5 * len(rows)), layout="constrained")
        panels = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (prefix, columns) in zip(panels, rows.items(), strict=True):
            for i, column in enumerate(columns[:MAX_GROUPS]):
                _draw_band(axes, curve, column, i, column.removeprefix(prefix))
            axes.set(ylabel=plain(labels[prefix]))
            top = max(1.0 if prefix == "hill/" else 0.0, axes.get_ylim()[1])
            axes.set_ylim(-0.04 * top, 1.04 * top)  # a marker at 0 is not cut
            _mark_phases(axes, [curve.phases])
        for axes in panels[1:]:  # name the phases once
            for words in list(axes.texts):
                words.remove()
        panels[-1].set_xlabel("epoch")
        panels[-1].xaxis.set_major_locator(MaxNLocator(6, integer=True))
        names = [column.removeprefix("distance/") for column in rows.get("distance/", [])[:MAX_GROUPS]]
        _add_legend(figure, panels[0], _make_room(figure, names or [""]))
    return figure


def cost(points: Mapping[str, tuple[Point, Point]], x: str, y: str) -> Figure:
    """Plot a metric against its cost, with a point and error bars in both directions for each group."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.5, 2.5), layout="constrained")
        axes = figure.subplots()
        for i, (name, (a, b)) in enumerate(points.items()):
            axes.errorbar(
                a.mean, b.mean, b.sd, a.sd, **_look(i), ls="none", ms=5, capsize=2, elinewidth=0.8, label=plain(name)
            )
        axes.set(xlabel=plain(x), ylabel=plain(y))
        axes.margins(0.1)
        _add_legend(figure, axes, _make_room(figure, points))
    return figure


def members(groups: Mapping[str, Mapping[str, tuple[Point, Point]]], metrics: Mapping[str, str]) -> Figure:
    """Plot the mean of the ensemble members (open) and their ensemble (filled), a row per group and a panel per metric.

    groups: name → metric → (members, ensemble).
    metrics: name → label with its unit.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.95 + 0.24 * len(groups)), layout="constrained")
        panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
        rows = np.arange(len(groups))
        series = (("mean of the members", "white", 0.13), ("their ensemble", COLOURS[0], -0.13))
        for axes, (metric, label) in zip(panels, metrics.items(), strict=True):
            for i, (name, face, shift) in enumerate(series):
                points = [group[metric][i] for group in groups.values()]
                axes.errorbar(
                    [point.mean for point in points],
                    rows + shift,
                    xerr=[point.sd for point in points],
                    **(_look(0) | {"mfc": face, "ls": "none", "ms": 4.5, "capsize": 2, "elinewidth": 0.8}),
                    label=name,
                )
            axes.set(xlabel=plain(label), yticks=rows, yticklabels=[plain(name) for name in groups])
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.grid(axis="y", color="#E4E4E4", lw=0.5)
            axes.set_axisbelow(True)
        panels[0].invert_yaxis()
        _add_legend(figure, panels[0], 2)
    return figure

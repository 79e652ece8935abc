"""The pictures of RESULTS.md, drawn from the full tables in results/."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from selections import (
    BARRIER,
    CHECKPOINTS,
    DETECTORS,
    DRAWN,
    ENSEMBLES,
    ESCAPES,
    IMAGE_KINDS,
    INTERPLAY,
    NETWORKS,
    PENALTIES,
    SHORT,
    TIMES,
    WIDTHS,
    WITH_L2,
    WITHOUT_L2,
    Column,
    Settings,
)
from tables import RESULTS, Row, Scores, detected, full, mean_error, mean_sd, selected, tuned

from distancing.colours import BLUE, GREEN, GREY, INK, OKABE_ITO, ORANGE, PURPLE, SKY, VERMILION
from distancing.report.figures import MARKS, STYLE
from distancing.report.gallery import gallery
from distancing.report.overview import summarise
from distancing.report.pack import unpacked

PICTURES = Path(__file__).parents[1]
BROWN = "#8C6D1F"
LOOKS = {  # the colour, the mark and the line of each kind of ensemble, the same in all pictures
    "plain hills": (BLUE, "o", "-"),
    "filter directions": (VERMILION, "s", "--"),
    "random jumps": (GREEN, "^", "-."),
    "random jumps, length 5": (GREEN, "^", "-."),
    "random jumps, length 15": (GREEN, "v", (0, (1, 1))),
    "jumps, length 10": (GREEN, "^", "-."),
    "jumps, length 20": (GREEN, "v", (0, (1, 1))),
    "jumps, length 40": (GREEN, "<", (0, (8, 3))),
    "restart only": (SKY, "P", (0, (3, 1, 1, 1))),
    "one cosine": (SKY, "P", (0, (3, 1, 1, 1))),
    "snapshots": (PURPLE, "D", ":"),
    "FGE": (SKY, "P", (0, (3, 1, 1, 1))),
    "cSGHMC": (GREY, "*", (0, (8, 3))),
    "independent networks": (ORANGE, "X", (0, (5, 1))),
    "independent, rate 0.05": (BROWN, "*", (0, (3, 1, 1, 1, 1, 1))),
    "bagging": (BROWN, "*", (0, (3, 1, 1, 1, 1, 1))),
    "one network": (INK, "p", "-"),
}
CONTROLS = ("jumps, length 20", "jumps, length 40", "restart only")  # of the hills in section 16


def look(kind: str) -> dict[str, Any]:
    """Return the arguments of `errorbar` for a kind of ensemble."""
    colour, mark, line = LOOKS[kind]
    return {"label": kind, "color": colour, "marker": mark, "ls": line, "ms": 4, "lw": 0.9, "capsize": 2}


def dots(axes: Axes, rows: Sequence[Row], kinds: Mapping[str, Settings], metric: str, where: Settings) -> None:
    """Draw a row for each kind: mean ± standard deviation of the metric."""
    for y, (_, kind) in enumerate(kinds.items()):
        row = selected(rows, {**kind, **where})
        if row is not None:
            mean, sd = mean_sd(row, metric)
            control = kind.get("penalty") == "none" or "jump" in kind
            axes.errorbar(mean, y, xerr=sd, marker="s" if control else "o", ms=4, lw=0.9, capsize=2,
                          color=GREY if control else OKABE_ITO[0])  # fmt: skip
    axes.set_yticks(range(len(kinds)), list(kinds))
    axes.set_ylim(len(kinds) - 0.4, -0.6)
    axes.grid(axis="y", color="#E8E8E8", lw=0.5)
    axes.set_axisbelow(True)


def dot_picture(
    name: str, kinds: Mapping[str, Settings], panels: Sequence[tuple[str, Column]], width: float = 7.0
) -> None:
    """Draw one panel of dots beside the other. panels: (title, column), whose head is the label of the axis."""
    figure = Figure(figsize=(width, 0.9 + 0.185 * len(kinds)), layout="constrained")
    for i, (axes, (title, column)) in enumerate(
        zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True)
    ):
        dots(axes, full(column.source), kinds, column.metric, column.where)
        axes.set(xlabel=column.head, title=title)
        axes.tick_params(axis="y", length=0, labelleft=not i)
    save(figure, name)


def lines_picture(name: str, panels: Mapping[str, str]) -> None:
    """Draw the barrier over the number of hills, a line for each kind. panels: title → full table."""
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes_row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, source) in zip(axes_row, panels.items(), strict=True):
        rows = full(source)
        for i, (label, kind) in enumerate(CHECKPOINTS.items()):
            points = [(n, row) for n in TIMES if (row := selected(rows, {**kind, "times": n}))]
            values = [mean_sd(row, BARRIER) for _, row in points]
            x = [TIMES.index(n) + 0.03 * (i - 3) for n, _ in points]
            axes.errorbar(x, [mean for mean, _ in values], [sd for _, sd in values], label=label, capsize=2,
                          color=GREY if not i else OKABE_ITO[(i - 1) % 3], marker=MARKS[i],
                          ls="-" if i < 4 else "--")  # fmt: skip
        axes.set_xticks(range(len(TIMES)), TIMES)
        axes.set(xlabel="hills", ylabel="barrier to the first checkpoint, nats", title=title)
    figure.legend(*axes_row[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    save(figure, name)


def ensembles_picture(name: str, sources: Mapping[str, str], members: int) -> None:
    """Draw the calibrated NLL of ensembles of so many members over the epochs in all. sources: title → full table."""
    figure = Figure(figsize=(7, 3.1), layout="constrained")
    axes_row = figure.subplots(1, len(sources), squeeze=False, sharey=True)[0]
    for axes, (title, source) in zip(axes_row, sources.items(), strict=True):
        rows = [row for row in full(source) if int(row["members"]) == members]
        for label, kind in ENSEMBLES.items():
            by_epochs: dict[float, list[float]] = {}
            for row in rows:
                if row["kind"] == kind:
                    by_epochs.setdefault(float(row["epochs_each"]) * members, []).append(float(row["calibrated_nll"]))
            points = {x: mean_error(values) for x, values in sorted(by_epochs.items())}
            axes.errorbar(list(points), [mean for mean, _ in points.values()], [e for _, e in points.values()],
                          **look(label))  # fmt: skip
        axes.set(xscale="log", yscale="log", xlabel="epochs in all", title=title)
        ticks = sorted({float(row["epochs_each"]) * members for row in rows})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_yticks(nats := [0.03, 0.05, 0.1, 0.2, 0.4], [f"{nll:g}" for nll in nats])
        axes.minorticks_off()
    axes_row[0].set(ylabel="calibrated NLL, nats")
    figure.legend(*axes_row[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    save(figure, name)


def budgets_picture(
    name: str, panels: Mapping[str, Scores], labels: Sequence[str], score: str, scale: float, rows: int = 1
) -> None:
    """Draw a score of each kind of ensemble against the epochs in all, in panels with these titles.

    score: the label of the axes, in whose unit `scale` is 1.
    """
    figure = Figure(figsize=(7, 1 + 3 * rows), layout="constrained")
    grid = figure.subplots(rows, len(panels) // rows, squeeze=False)
    for axes, (title, by_epochs) in zip(grid.flat, panels.items(), strict=True):
        for i, label in enumerate(labels):
            points = [(epochs, *values[label]) for epochs, values in by_epochs.items() if label in values]
            if points:
                x, means, errors = zip(*points, strict=True)
                beside = [value * 1.03 ** (i - len(labels) / 2) for value in x]  # so that no point hides another
                axes.errorbar(beside, [scale * mean for mean in means], yerr=[scale * error for error in errors],
                              **look(label))  # fmt: skip
        axes.set(title=title, xscale="log")
        axes.set_xticks(list(by_epochs), [str(epochs) for epochs in by_epochs])
        axes.minorticks_off()
    for row in grid:
        row[0].set_ylabel(score)
    for axes in grid[-1]:
        axes.set_xlabel("epochs in all")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    save(figure, name)


def trade_picture(name: str, x: Scores, y: Scores, labels: tuple[str, str]) -> None:
    """Draw a panel for each budget: the second score of each of DETECTORS, in percent, against the first."""
    figure = Figure(figsize=(7.0, 3.4), layout="constrained")
    panels = figure.subplots(1, len(x), sharey=True)
    for axes, (epochs, by_label) in zip(panels, x.items(), strict=True):
        for label in DETECTORS:
            (x_mean, x_error), (y_mean, y_error) = by_label[label], y[epochs][label]
            axes.errorbar(x_mean, 100 * y_mean, xerr=x_error, yerr=100 * y_error, **{**look(label), "ls": ""})
        axes.set(title=f"{epochs} epochs in all", xlabel=labels[0])
    panels[0].set_ylabel(labels[1])
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    save(figure, name)


def curves_picture(name: str, source: str) -> None:
    """Draw the learning curves of the runs in results/SOURCE.zip, as the report does."""
    with unpacked([str(RESULTS / f"{source}.zip")]) as sources:
        picture = next(gallery(summarise(sources)))
        (PICTURES / f"{name}.png").write_bytes(picture.png)


def save(figure: Figure, name: str) -> None:
    figure.set_dpi(150)
    FigureCanvasAgg(figure).print_png(PICTURES / f"{name}.png")


def pictures() -> None:
    """Draw all pictures into docs/."""
    with matplotlib.rc_context(STYLE):
        barrier = "barrier, nats"
        dot_picture("results_basin", ESCAPES, [
            ("with L2", Column(barrier, BARRIER, WITH_L2, "escape")),
            ("without L2", Column(barrier, BARRIER, WITHOUT_L2, "escape")),
        ])  # fmt: skip
        dot_picture("results_images", IMAGE_KINDS, [
            ("MNIST", Column(barrier, BARRIER, {"dataset": "mnist"}, "escape_images")),
            ("CIFAR-10", Column(barrier, BARRIER, {"dataset": "cifar10"}, "escape_images")),
        ])  # fmt: skip
        dot_picture("results_mlp", ESCAPES, [
            ("", Column(barrier, BARRIER, {}, "escape-mlp")),
            ("", Column("test accuracy, %", "test.accuracy", {}, "escape-mlp")),
        ])  # fmt: skip
        dot_picture("results_sharpness", ESCAPES, [
            ("", Column("mean rise of the loss, nats", "sharpness.settle-1/rise_random_0.1", WITH_L2, "escape")),
            ("", Column("trace of the Hessian", "sharpness.settle-1/hessian_trace_relative", WITH_L2, "escape")),
        ])  # fmt: skip
        dot_picture("results_generalise", ESCAPES, [
            ("", Column("test accuracy, %", "test.accuracy", {}, "generalise")),
            ("", Column("NLL of checkpoint and end, nats", "ensemble.test.nll", {}, "generalise")),
        ])  # fmt: skip
        dot_picture("results_gradients", SHORT["gradients"].kinds, [
            ("", Column("mean cosine of the two gradients", "gradients.cosine_mean", {}, "gradients")),
            ("", Column("largest angle, degrees", "gradients.angle_max", {}, "gradients")),
        ])  # fmt: skip
        dot_picture("results_interplay", INTERPLAY, [
            (name, Column(barrier, BARRIER, {"penalty": penalty}, "interplay"))
            for name, penalty in PENALTIES.items()
        ])  # fmt: skip
        dot_picture("results_networks", WIDTHS, [
            (name, Column("distance", "distance", where, "networks")) for name, where in NETWORKS.items()
        ])  # fmt: skip
        lines_picture("results_checkpoints", {"ResNet-8": "checkpoints", "perceptron": "checkpoints-mlp"})
        ensembles_picture(
            "results_ensembles", {"ResNet-8": "ensembles-resnet8", "perceptron": "ensembles-mlp"}, members=16
        )
        budgets_picture("results_whole", {
            title: tuned(f"ensembles-whole-{name}", "calibrated_nll")
            for title, name in {"MNIST": "mnist", "Fashion-MNIST": "fashion-mnist", "CIFAR-10": "cifar10"}.items()
        }, DRAWN, "calibrated NLL, nats", 1)  # fmt: skip
        budgets_picture("results_ood", {
            f"{title}, by {measure}": detected(name, score)
            for measure, score in (("entropy", "ood_auroc"), ("mutual information", "ood_mutual_information_auroc"))
            for title, name in (("MNIST", "ensembles-ood-mnist"), ("CIFAR-10", "ensembles-ood-cifar10"))
        }, [label for label in DETECTORS if label not in CONTROLS], "AUROC, %", 100, rows=2)  # fmt: skip
        likelihood, information = (
            detected("ensembles-ood-mnist", score) for score in ("calibrated_nll", "ood_mutual_information_auroc")
        )
        trade_picture("results_ood_cost", likelihood, information, ("calibrated NLL, nats", "AUROC of MNIST, %"))
    curves_picture("results_thesis", "thesis_mnist")
    curves_picture("results_thesis_cifar10", "thesis_cifar10")

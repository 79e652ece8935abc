"""An ensemble's scores as tables and figures. matplotlib is imported with the first figure, since it is slow."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rich.console import Group, RenderableType
from rich.table import Table

from distancing.colours import BLUE, GREY, ORANGE
from distancing.runs.ensemble import Detection, EnsembleResult, OodResult, Scores, SplitResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METRICS = {"accuracy": "accuracy", "nll": "NLL, nats", "brier": "Brier", "ece": "ECE"}
CALIBRATION = {
    "temperature": "temperature", "calibrated_nll": "NLL there, nats", "calibrated_ece": "ECE there",
    "adaptive_ece": "adaptive ECE", "classwise_ece": "class-wise ECE", "aurc": "AURC",
    "coverage80_accuracy": "accuracy at 80 % coverage",
}  # fmt: skip
ERRORS = {
    "variance": "v", "covariance": "c", "correlation": "c/v", "predicted_reduction": "v reduced to, predicted",
    "measured_reduction": "measured", "mutual_information": "mutual information, nats",
}  # fmt: skip
COLOURS = {"train": GREY, "validation": ORANGE, "test": BLUE}
MARKS = {"train": "o", "validation": "s", "test": "D"}


def table(result: EnsembleResult) -> RenderableType:
    """Return tables of the scores of each member, their average and the network at their mean, and of the errors."""
    splits = {name: split for name, split in result.splits.items() if name != "train"}
    rows = Table(title=f"ensemble of {len(result.members)}", title_justify="left", title_style="bold")
    rows.add_column("")
    rows.add_column("weight", justify="right")
    for split in splits:
        for metric in METRICS.values():
            rows.add_column(f"{split} {metric}", justify="right")
    for i, (name, weight) in enumerate(zip(result.members, result.weights, strict=True)):
        cells = [cell for split in splits.values() for cell in _cells(split.members[i])]
        rows.add_row(name, f"{weight:.3f}", *cells, end_section=i + 1 == len(result.members))
    cells = [cell for split in splits.values() for cell in _cells(split.ensemble)]
    rows.add_row("average", "", *cells, style="bold")
    if average := result.parameter_average:
        cells = [cell for name in splits for cell in _cells(average[name])]
        rows.add_row("at the mean of the parameters", "", *cells)
    errors = Table(title="errors (1.14)", title_justify="left")
    errors.add_column("")
    for label in ERRORS.values():
        errors.add_column(label, justify="right")
    for split_name, split_result in result.splits.items():
        cells = ["" if value is None else f"{value:.4f}" for value in _errors(split_result).values()]
        errors.add_row(split_name, *cells)
    return Group(rows, _calibration(result), errors)


def _calibration(result: EnsembleResult) -> Table:
    """Return the table of the scores at the optimal temperature, and of the confidence, on the test images."""
    test = result.splits["test"]
    images = "validation images" if test.temperature_from == "validation" else "halves of the test images"
    table = Table(title=f"confidence on the test images; temperatures from the {images}", title_justify="left")
    table.add_column("")
    for label in CALIBRATION.values():
        table.add_column(label, justify="right")
    for name, scores in zip((*result.members, "average"), (*test.members, test.ensemble), strict=True):
        table.add_row(name, *(f"{getattr(scores, key):.4f}" for key in CALIBRATION))
    return table


def _cells(scores: Scores) -> list[str]:
    return [f"{scores.accuracy:.2%}", *(f"{getattr(scores, metric):.4f}" for metric in METRICS if metric != "accuracy")]


def _errors(split: SplitResult) -> dict[str, float | None]:
    """Return the values of ERRORS on a split."""
    return {key: getattr(split, key) for key in ERRORS}


def ood_table(result: Mapping[str, OodResult]) -> Table:
    """Return a table of the detection of each out-of-distribution data set."""
    table = Table(title="out of distribution", title_justify="left")
    for column in ("data set", "images", "detected by", "AUROC", "AUPR", "FPR at 95 % TPR"):
        table.add_column(column, justify="left" if column in ("data set", "detected by") else "right")
    for name, values in result.items():
        for measure in ("max_probability", "entropy", "mutual_information"):
            detection: Detection = getattr(values, measure)
            cells = [f"{number:.4f}" for number in (detection.auroc, detection.aupr, detection.fpr95)]
            table.add_row(name, str(values.images), measure.replace("_", " "), *cells)
    return table


def picture(result: EnsembleResult) -> "Figure":
    """Draw the scores over the number of members, the diversity–accuracy plane, and matrices of the members' pairs."""
    from matplotlib.figure import Figure

    matrices: dict[str, NDArray[np.float64]] = {
        "disagreement, share of test images": np.asarray(result.splits["test"].disagreement)
    }
    if result.distances and result.cosines:
        matrices["distance ‖θ$_i$ − θ$_j$‖"] = np.asarray(result.distances)
        matrices["cosine of the directions from θ$_0$"] = np.asarray(result.cosines)
    figure = Figure(figsize=(12, 6.5), dpi=110, layout="constrained", facecolor="white")
    grid = figure.add_gridspec(2, 1)
    above, below = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
    k = np.arange(1, len(result.members) + 1)
    drawn = {**METRICS, "calibrated_nll": "NLL at the optimal temperature"}
    for axes, (metric, label) in zip(above.subplots(1, len(drawn)), drawn.items(), strict=True):
        for name, split in result.splits.items():
            curve = [getattr(scores, metric) for scores in split.growth]
            if None not in curve:
                axes.plot(k, curve, color=COLOURS[name], marker=MARKS[name], ms=4, label=name)
        axes.set(xlabel="members", ylabel=label, xticks=k[:: max(1, len(k) // 6)])
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*above.axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=3, frameon=False)
    plane, *panels = below.subplots(1, 1 + len(matrices))
    _draw_plane(plane, result.splits["test"])
    for axes, (title, values) in zip(panels, matrices.items(), strict=True):
        image = axes.imshow(values, cmap="cividis")
        figure.colorbar(image, ax=axes, shrink=0.8)
        names = [name.rpartition("/")[2] if len(k) > 8 else name for name in result.members]
        axes.set_xticks(range(len(k)), names if len(k) <= 8 else k, rotation=30, ha="right")
        axes.set_yticks(range(len(k)), names if len(k) <= 8 else k)
        axes.set_title(title)
        if len(k) <= 8:
            bright = values.min() + 0.6 * (np.ptp(values) or 1)
            for (row, column), value in np.ndenumerate(values):
                colour = "white" if value < bright else "black"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour)
    return figure


def _draw_plane(axes: "Axes", test: SplitResult) -> None:
    """Draw the diversity–accuracy plane (Fort et al. 2019): a point for each pair of members, and one by chance."""
    accuracy = np.array([scores.accuracy for scores in test.members])
    a, b = np.triu_indices(len(accuracy), 1)
    x = 100 * (accuracy[a] + accuracy[b]) / 2
    drawn = (("disagreement", "measured", BLUE, "D"), ("chance_disagreement", "by chance", GREY, "x"))
    for key, label, colour, mark in drawn:
        axes.plot(
            x, 100 * np.asarray(getattr(test, key))[a, b], ls="none", ms=4, label=label, color=colour, marker=mark
        )
    axes.set(xlabel="mean test accuracy of a pair, %", ylabel="disagreement, %", title="diversity–accuracy plane")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def pixels(figure: "Figure") -> NDArray[np.uint8]:
    """Return the rendered figure, RGBA [H, W, 4]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def write_picture(result: EnsembleResult, path: Path) -> None:
    """Draw `picture` into a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(picture(result)).print_png(path)


def scalars(result: EnsembleResult) -> dict[str, list[float]]:
    """Return TensorBoard's scalars: each score of the first 1, 2, … members, and single values of the errors."""
    values: dict[str, list[float]] = {}
    for name, split in result.splits.items():
        growth = [dataclasses.asdict(scores) for scores in split.growth]
        single = {key: [value] for key, value in _errors(split).items()}
        curves = {score: [scores[score] for scores in growth] for score in growth[0]} | single
        values |= {f"ensemble/{name}/{key}": curve for key, curve in curves.items() if None not in curve}
    return values

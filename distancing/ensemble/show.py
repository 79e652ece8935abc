"""An ensemble's scores as tables and figures. matplotlib is imported with the first figure, since it is slow."""

import dataclasses
import io
import statistics
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rich.console import Group, RenderableType
from rich.table import Column, Table

from distancing.colours import BLUE, GREY, OKABE_ITO, ORANGE
from distancing.runs.ensemble import CorruptionsResult, Detection, EnsembleResult, OodResult, Scores, SplitResult
from distancing.runs.files import export

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

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
MEASURES = ("max_probability", "entropy", "mutual_information")
CORRUPTED = {
    "error": "error", "nll": "NLL, nats", "calibrated_nll": "calibrated NLL, nats", "ece": "ECE",
    "calibrated_ece": "calibrated ECE",
}  # fmt: skip
COLOURS = {"train": GREY, "validation": ORANGE, "test": BLUE}
MARKS = {"train": "o", "validation": "s", "test": "D"}


def table(result: EnsembleResult) -> RenderableType:
    """Return tables of the scores of each member, their average and the network at their mean, and of the errors."""
    splits = {name: split for name, split in result.splits.items() if name != "train"}
    numbers = _numbers("weight", *(f"{split} {metric}" for split in splits for metric in METRICS.values()))
    title = f"ensemble of {len(result.members)}"
    rows = Table("", *numbers, title=title, title_justify="left", title_style="bold")
    for i, (name, weight) in enumerate(zip(result.members, result.weights, strict=True)):
        cells = [cell for split in splits.values() for cell in _cells(split.members[i])]
        rows.add_row(name, f"{weight:.3f}", *cells, end_section=i + 1 == len(result.members))
    cells = [cell for split in splits.values() for cell in _cells(split.ensemble)]
    rows.add_row("average", "", *cells, style="bold")
    if average := result.parameter_average:
        cells = [cell for name in splits for cell in _cells(average[name])]
        rows.add_row("at the mean of the parameters", "", *cells)
    title = "errors (1.14)"
    if len(set(result.weights)) > 1:  # the members' errors have no weights, and (1.14) is predicted from them
        title += ", with equal weights except for the mutual information"
    errors = Table("", *_numbers(*ERRORS.values()), title=title, title_justify="left")
    for split_name, split_result in result.splits.items():
        cells = ["" if value is None else f"{value:.4f}" for value in _errors(split_result).values()]
        errors.add_row(split_name, *cells)
    return Group(rows, _calibration(result), errors)


def temperatures(sources: Collection[str | None]) -> str:
    """Return in words on which images temperatures were found; "" if none is known. sources: `temperature_from`."""
    names = {"validation": "the validation images", "halves": "halves of the test images"}
    known = [names[source] for source in names if source in sources]
    return f"temperatures from {' or '.join(known)}" if known else ""


def _calibration(result: EnsembleResult) -> Table:
    """Return the table of the scores at the optimal temperature, and of the confidence, on the test images."""
    test = result.splits["test"]
    title = f"confidence on the test images; {temperatures([test.temperature_from])}"
    table = Table("", *_numbers(*CALIBRATION.values()), title=title, title_justify="left")
    for name, scores in zip((*result.members, "average"), (*test.members, test.ensemble), strict=True):
        table.add_row(name, *(f"{getattr(scores, key):.4f}" for key in CALIBRATION))
    return table


def _numbers(*heads: str) -> list[Column]:
    """Return columns of numbers."""
    return [Column(head, justify="right") for head in heads]


def _cells(scores: Scores) -> list[str]:
    return [f"{scores.accuracy:.2%}", *(f"{getattr(scores, metric):.4f}" for metric in METRICS if metric != "accuracy")]


def _errors(split: SplitResult) -> dict[str, float | None]:
    """Return the values of ERRORS on a split."""
    return {key: getattr(split, key) for key in ERRORS}


def ood_table(result: Mapping[str, OodResult]) -> Table:
    """Return a table of the detection of each out-of-distribution data set."""
    images, *scores = _numbers("images", "AUROC", "AUPR", "FPR at 95 % TPR")
    table = Table("data set", images, "detected by", *scores, title="out of distribution", title_justify="left")
    for name, values in result.items():
        detections: dict[str, list[Detection]] = {measure: [getattr(values, measure)] for measure in MEASURES}
        if values.members:
            detections["entropy of one member, mean"] = values.members
        for measure, rows in detections.items():
            means = (statistics.fmean(getattr(row, score) for row in rows) for score in ("auroc", "aupr", "fpr95"))
            table.add_row(name, str(values.images), measure.replace("_", " "), *(f"{mean:.4f}" for mean in means))
    return table


def shift_tables(result: EnsembleResult) -> list[Table]:
    """Return the tables of out-of-distribution detection and of corruptions that the result has."""
    ood = [ood_table(result.ood)] if result.ood else []
    return [*ood, *([corruptions_table(result.corruptions)] if result.corruptions else [])]


def corruptions_table(result: CorruptionsResult) -> Table:
    """Return a table of the scores under corruptions: the means over the 15, by severity."""
    title = f"corruptions, mean over 15; {temperatures([result.temperature_from])}"
    table = Table(*_numbers("severity", *CORRUPTED.values()), title=title, title_justify="left")
    for severity, scores in result.severity.items():
        table.add_row(
            severity, f"{scores.error:.2%}", *(f"{vars(scores)[key]:.4f}" for key in CORRUPTED if key != "error")
        )
    return table


def corruptions_picture(result: CorruptionsResult) -> "Figure":
    """Draw each score over the severity: the mean over the 15 corruptions, and a thin line for each of them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3), dpi=110, layout="constrained", facecolor="white")
    for axes, (key, label) in zip(figure.subplots(1, len(CORRUPTED)), CORRUPTED.items(), strict=True):
        clean, *means = (vars(scores)[key] for scores in result.severity.values())
        for rows in result.corruptions.values():
            axes.plot(range(6), [clean, *(vars(scores)[key] for scores in rows)], color=GREY, lw=0.5, alpha=0.6)
        axes.plot(range(6), [clean, *means], color=BLUE, marker="o", ms=4)
        axes.set(xlabel="severity", ylabel=label)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def ood_picture(test: Mapping[str, "Tensor"], others: Mapping[str, Mapping[str, "Tensor"]]) -> "Figure":
    """Draw, for each measure of uncertainty, its histograms, and the curve of true positives over false positives.

    test: measure → its value for each test image [N]. others: data set → the same for its images.
    """
    from matplotlib.figure import Figure
    from sklearn.metrics import roc_curve

    figure = Figure(figsize=(12, 6.5), dpi=110, layout="constrained", facecolor="white")
    colours = [OKABE_ITO[i % len(OKABE_ITO)] for i in range(len(others))]
    for (above, below), (measure, values) in zip(figure.subplots(2, len(test)).T, test.items(), strict=True):
        largest = max(float(x[measure].nan_to_num().max()) for x in (test, *others.values()))
        bins = np.linspace(0, largest or 1, 31)
        above.hist(values.numpy(), bins, density=True, color=GREY, alpha=0.5, label="test images")
        for (name, other), colour in zip(others.items(), colours, strict=True):
            above.hist(other[measure].numpy(), bins, density=True, histtype="step", color=colour, label=name)
            uncertainty = np.concatenate([values.numpy(), other[measure].numpy()])
            if not np.isnan(uncertainty).any():
                false, true, _ = roc_curve(np.arange(len(uncertainty)) >= len(values), uncertainty)
                below.plot(100 * false, 100 * true, color=colour)
        above.set(xlabel=measure.replace("_", " ").replace("max", "1 − max."), ylabel="density", yscale="log")
        below.axhline(95, color=GREY, lw=0.5)
        below.set(xlabel="false positives, %", ylabel="true positives, %")
        for axes in (above, below):
            axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=4, frameon=False)
    return figure


def picture(result: EnsembleResult) -> "Figure":
    """Draw the scores over the number of members, the diversity–accuracy plane, and matrices of the members' pairs."""
    from matplotlib.figure import Figure

    matrices: dict[str, NDArray[np.float64]] = {
        "disagreement, share of test images": np.asarray(result.splits["test"].disagreement)
    }
    if result.distances:
        matrices["distance ‖θ$_i$ − θ$_j$‖"] = np.asarray(result.distances)
    if result.cosines:
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


def write_picture(figure: "Figure", path: Path) -> None:
    """Draw a figure into a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    png = io.BytesIO()
    FigureCanvasAgg(figure).print_png(png)
    export(path, png.getvalue())


def scalars(result: EnsembleResult) -> dict[str, list[float]]:
    """Return TensorBoard's scalars: each score of the first 1, 2, … members, and single values of the errors."""
    values: dict[str, list[float]] = {}
    for name, split in result.splits.items():
        growth = [dataclasses.asdict(scores) for scores in split.growth]
        single = {key: [value] for key, value in _errors(split).items()}
        curves = {score: [scores[score] for scores in growth] for score in growth[0]} | single
        values |= {f"ensemble/{name}/{key}": curve for key, curve in curves.items() if None not in curve}
    return values


def ood_scalars(result: Mapping[str, OodResult]) -> dict[str, list[float]]:
    """Return TensorBoard's scalars of out-of-distribution detection."""
    return {
        f"ensemble/ood/{name}/{measure}/{score}": [value]
        for name, values in result.items()
        for measure in MEASURES
        for score, value in vars(getattr(values, measure)).items()
    }


def corruptions_scalars(result: CorruptionsResult) -> dict[str, list[float]]:
    """Return TensorBoard's scalars of the means over the corruptions, whose step is the severity."""
    _, *means = result.severity.values()
    return {f"ensemble/corruptions/{key}": [vars(scores)[key] for scores in means] for key in CORRUPTED}

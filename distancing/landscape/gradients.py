"""Do hills change the size of the gradient or its direction? Answered from the statistics in metrics.csv."""

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any, ClassVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from distancing.colours import GREY
from distancing.component import component
from distancing.component.analysis import Analysis
from distancing.errors import LandscapeError
from distancing.landscape.marks import COLOURS
from distancing.landscape.subject import Findings, Subject, Track
from distancing.runs import RunDirectory, metrics_file
from distancing.runs.metrics_file import GRADIENTS, PUSHED

ORTHOGONAL = 0.1  # gradients with a smaller |cosine|, at 84° to 96°, count as orthogonal

Row = dict[str, float | str]


@component
class Gradients(Analysis):
    """Compare the hills' gradient with the data's in the epochs in which hills act.

    Reports the share of the images in whose steps the hills pushed and, over these steps, the cosine between the two
    gradients, the ratio of their lengths, and the angle by which the hills turn the gradient. Reads the run's
    metrics.csv and needs no forward pass.
    """

    least = 1
    VALUES: ClassVar[dict[str, tuple[str, str]]] = {
        "epochs": ("epochs", "the epochs in which hills acted. The values below are over those in which they pushed"),
        "pushed_share": ("", "the mean of `gradient_pushed` over these epochs"),
        "cosine_mean": ("", "the cosine between the two gradients, mean over the epochs"),
        "cosine_random": ("", "1/√P: the standard deviation of the cosine of two random directions"),
        "orthogonal_share": ("", "the share of epochs whose first and last decile of the cosine are within ±0.1"),
        "ratio_median": ("", "‖hills' gradient‖ / ‖data's gradient‖, median of the epochs' medians"),
        "angle_median": ("degrees", "by which the hills turn the gradient, median of the epochs' medians"),
        "angle_max": ("degrees", "the largest last decile of this angle"),
        "PHASE/ratio_first, PHASE/ratio_last": ("", "the ratio in the phase's first and last epoch; 0 without a push"),
        "PHASE/angle_first, PHASE/angle_last": ("degrees", "the angle in the phase's first and last epoch"),
    }

    def problem(self, checkpoints: Sequence[str], hills_act: bool) -> str | None:
        return super().problem(checkpoints, hills_act) if hills_act else "needs hills, but none act in this run"

    def __call__(self, subject: Subject, track: Track[Any]) -> Findings:  # noqa: ARG002 (nothing takes long enough)
        """Raise LandscapeError for checkpoints of several runs, and for a run without hills or these columns."""
        if subject.run is None:
            raise LandscapeError("gradients analyses the training of one run, but these checkpoints are of several")
        rows = read(subject.run)
        acting = [row for row in rows if row[PUSHED] != ""]
        if not acting:
            raise LandscapeError(f"gradients needs a run with hills, but none acted in {subject.run.path}")
        values = {
            "epochs": float(len(acting)),
            "pushed_share": float(_column(acting, PUSHED).mean()),
            "cosine_random": 1 / math.sqrt(len(subject.theta)),
        }
        if pushed := [row for row in acting if row[GRADIENTS[0]] != ""]:
            values |= over(pushed)
        for phase, group in groupby(acting, lambda row: row["phase"]):
            first, *_, last = [*group] * 2
            for when, row in (("first", first), ("last", last)):
                values |= {f"{phase}/{name}_{when}": float(row[f"gradient_{name}"] or 0) for name in ("ratio", "angle")}
        return Findings(values, acting, picture(rows, values["cosine_random"]))


def over(epochs: Sequence[Row]) -> dict[str, float]:
    """Return the statistics over these epochs, in each of which the hills pushed at least one step."""
    column = {name: _column(epochs, name) for name in GRADIENTS}
    orthogonal = (column["gradient_cosine_p10"] > -ORTHOGONAL) & (column["gradient_cosine_p90"] < ORTHOGONAL)
    return {
        "cosine_mean": float(column["gradient_cosine"].mean()),
        "orthogonal_share": float(orthogonal.mean()),
        "ratio_median": float(np.median(column["gradient_ratio"])),
        "angle_median": float(np.median(column["gradient_angle"])),
        "angle_max": float(column["gradient_angle_p90"].max()),
    }


def read(run: RunDirectory) -> list[Row]:
    """Return epoch, phase, PUSHED and GRADIENTS of each epoch.

    PUSHED is empty where no hill acted, GRADIENTS where none pushed. Raise LandscapeError if the file can't be read.
    """
    try:
        table = metrics_file.read(run.metrics)
        if table.damage:
            raise ValueError(table.damage)
        return [_epoch(row) for row in table.rows]
    except OSError as error:
        raise LandscapeError(f"{run.metrics} can't be read: {error.strerror}") from None
    except KeyError as missing:
        raise LandscapeError(f"{run.metrics} has no column {missing}: the run is of an earlier version") from None
    except ValueError as error:
        raise LandscapeError(f"{run.metrics} is damaged: {error}") from error


def _epoch(row: dict[str, str]) -> Row:
    """Return the columns of an epoch.

    An earlier version wrote no share, and 0 as cosine and ratio of a step that was not pushed. Its epochs count as
    pushed if at least nine steps in ten were, and their share is NaN.
    """
    epoch: Row = {name: row[name] for name in ("epoch", "phase", *GRADIENTS)}
    epoch[PUSHED] = row.get(PUSHED, "")
    if row["gradient_cosine"] and not epoch[PUSHED]:
        epoch[PUSHED] = "nan"
        if float(row["gradient_ratio_p10"]) == 0:
            epoch |= dict.fromkeys(GRADIENTS, "")
    return epoch


def picture(rows: Sequence[Row], random: float) -> Figure:
    """Draw cosine, ratio and angle over the epochs: the mean or median in a band from the first to the last decile."""
    figure = Figure(figsize=(9, 7), dpi=110, layout="constrained", facecolor="white")
    panels = figure.subplots(3, 1, sharex=True)
    labels = (
        "cosine between the\ntwo gradients",
        "‖hills' gradient‖ /\n‖data's gradient‖",
        "angle of the turn,\ndegrees",
    )
    epochs = np.array([row["epoch"] for row in rows], dtype=float)
    for axes, name, label, colour in zip(panels, GRADIENTS[::3], labels, COLOURS, strict=False):
        middle, low, high = (_column(rows, name + part) for part in ("", "_p10", "_p90"))
        axes.fill_between(epochs, low, high, color=colour, alpha=0.3, lw=0, label="10 % to 90 % of the pushed steps")
        axes.plot(epochs, middle, color=colour, marker="o", ms=3.5, label="mean" if axes is panels[0] else "median")
        axes.set_ylabel(label)
        axes.spines[["top", "right"]].set_visible(False)
        _phases(axes, rows, named=axes is panels[0])
    panels[0].axhspan(-random, random, color=GREY, alpha=0.5, lw=0, label="random directions, ± their deviation 1/√P")
    for axes in panels[:2]:
        axes.legend(frameon=False, fontsize=9)
    figure.align_ylabels(panels)
    panels[1].set_yscale("log")
    panels[2].set(ylim=(0, None), xlabel="epoch", xlim=(0.5, len(rows) + 0.5))
    return figure


def _column(rows: Sequence[Row], name: str) -> NDArray[np.float64]:
    return np.array([row[name] or "nan" for row in rows], dtype=float)


def _phases(axes: Axes, rows: Sequence[Row], named: bool) -> None:
    """Shade the phases in which hills act and, if `named`, write their names above them."""
    for phase, group in groupby(rows, lambda row: row["phase"]):
        epochs = list(group)
        start, end = float(epochs[0]["epoch"]) - 0.5, float(epochs[-1]["epoch"]) + 0.5
        if epochs[0][PUSHED] != "":
            axes.axvspan(start, end, color="#EEEEEE", lw=0, zorder=0)
        if named:
            above = axes.get_xaxis_transform()
            axes.text((start + end) / 2, 1.02, str(phase), ha="center", va="bottom", fontsize=9, transform=above)

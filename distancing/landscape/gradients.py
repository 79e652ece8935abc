"""Does a hill change the size of the gradient and not its direction? From what the steps recorded."""

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from distancing.analysis import Analysis
from distancing.colours import GREY
from distancing.component import component
from distancing.errors import LandscapeError
from distancing.landscape.marks import COLOURS
from distancing.landscape.subject import Findings, Subject, Track
from distancing.runs import RunDirectory, metrics_file
from distancing.training.gradients import GRADIENTS, PUSHED

ORTHOGONAL = 0.1  # below this |cosine| the two are nearly so: 84° to 96°

Row = dict[str, float | str]


@component
class Gradients(Analysis):
    """Of the epochs in which hills act: the share of the images in whose steps they pushed; and of these steps the
    cosine between the data's gradient and the hills', how many times as long the hills' is, and the angle by which it
    turns the gradient. Reads the run's metrics.csv; needs no forward pass."""

    least = 1

    def __call__(self, subject: Subject, track: Track[Any]) -> Findings:  # noqa: ARG002 (takes no time)
        """Raises LandscapeError for places of several runs, and for a run without hills or without these columns."""
        if subject.run is None:
            raise LandscapeError("gradients is about the training of one run, and these places are of several")
        rows = read(subject.run)
        acting = [row for row in rows if row[PUSHED] != ""]
        if not acting:
            raise LandscapeError(f"no hills acted in {subject.run.path}: its gradient had no second part")
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
                values |= {f"{phase}/{what}_{when}": float(row[f"gradient_{what}"] or 0) for what in ("ratio", "angle")}
        return Findings(values, acting, picture(rows, values["cosine_random"]))


def over(epochs: Sequence[Row]) -> dict[str, float]:
    """Return the values over these epochs, in each of which a step was pushed."""
    column = {name: _column(epochs, name) for name in GRADIENTS}
    inside = (column["gradient_cosine_p10"] > -ORTHOGONAL) & (column["gradient_cosine_p90"] < ORTHOGONAL)
    return {
        "cosine_mean": float(column["gradient_cosine"].mean()),
        "orthogonal_share": float(inside.mean()),
        "ratio_median": float(np.median(column["gradient_ratio"])),
        "angle_median": float(np.median(column["gradient_angle"])),
        "angle_max": float(column["gradient_angle_p90"].max()),
    }


def read(run: RunDirectory) -> list[Row]:
    """Return epoch, phase, PUSHED and GRADIENTS of each epoch: all empty where no hill acted, and GRADIENTS where none
    pushed. Raises LandscapeError."""
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
    """Return the epoch of a row. An earlier version wrote no share, and a cosine and a ratio of 0 for a step without a
    push: of its epochs those count in which nine steps in ten or more were pushed, and the share is NaN."""
    epoch: Row = {name: row[name] for name in ("epoch", "phase", *GRADIENTS)}
    epoch[PUSHED] = row.get(PUSHED, "")
    if row["gradient_cosine"] and not epoch[PUSHED]:
        epoch[PUSHED] = "nan"
        if float(row["gradient_ratio_p10"]) == 0:
            epoch |= dict.fromkeys(GRADIENTS, "")
    return epoch


def picture(rows: Sequence[Row], random: float) -> Figure:
    """Over the epochs, each a line for the middle in a band from the first to the last decile of its steps."""
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
    """Those in which hills act are shaded."""
    for phase, group in groupby(rows, lambda row: row["phase"]):
        mine = list(group)
        start, end = float(mine[0]["epoch"]) - 0.5, float(mine[-1]["epoch"]) + 0.5
        if mine[0][PUSHED] != "":
            axes.axvspan(start, end, color="#EEEEEE", lw=0, zorder=0)
        if named:
            where = axes.get_xaxis_transform()
            axes.text((start + end) / 2, 1.02, str(phase), ha="center", va="bottom", fontsize=9, transform=where)

"""The loss on the plane through three checkpoints, with all checkpoints of the run projected onto it."""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
from annotated_types import Ge, Len
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke
from numpy.typing import NDArray
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from distancing.component import component
from distancing.component.analysis import Analysis
from distancing.errors import LandscapeError
from distancing.hills.distances import Euclidean
from distancing.hills.kernels import Gaussian
from distancing.landscape.marks import mark, short
from distancing.landscape.path import SPLITS, passes
from distancing.landscape.subject import Findings, Subject, Track
from distancing.training.plan import unroll, with_hills

COLLINEAR = 1e-4  # three checkpoints that are nearer to one line than this share of the longer side span no plane
TINY = 1e-12  # smaller losses are drawn as this, on the logarithmic scale


@component
class Plane(Analysis):
    """Loss and accuracy on the plane through three checkpoints, onto which all others are projected.

    Batch-norm statistics are recomputed at each point.

    through: the names of the three; null for the first, the middle and the last.
    points (points): the number of points along each side of a rectangle around all checkpoints, and along each edge of
        the triangle.
    margin: the margin around the checkpoints, as a share of the rectangle's longer side.
    """

    least = 3
    VALUES: ClassVar[dict[str, tuple[str, str]]] = {
        "SPLIT_corners_max": ("nats", "the highest loss of the three checkpoints"),
        "SPLIT_edges_max": ("nats", "the highest loss on the straight lines between them"),
        "SPLIT_centre": ("nats", "the loss at the mean of the three"),
        "SPLIT_low_share": ("", "the share of the rectangle with a loss up to that of the highest corner"),
        "off_plane_max": ("", "the largest distance of a checkpoint from the plane"),
    }

    images: PositiveInt = 500
    through: Annotated[list[str], Len(3, 3)] | None = None
    points: Annotated[int, Ge(3)] = 21
    margin: NonNegativeFloat = 0.2

    def problem(self, checkpoints: Sequence[str], hills_act: bool) -> str | None:
        for name in self.through or ():
            if name not in checkpoints:
                return f"goes through {name}, but these phases store {', '.join(checkpoints)}"
        return super().problem(checkpoints, hills_act)

    def __call__(self, subject: Subject, track: Track[Any]) -> Findings:
        """Raise LandscapeError for checkpoints that span no plane, and for unknown names."""
        corners = self._corners(subject.names)
        frame = Frame(subject.parameters[corners])
        positions = np.array([frame.project(theta) for theta in subject.parameters])  # [M, 3]: x, y, distance
        low, high = positions[:, :2].min(0), positions[:, :2].max(0)
        margin = self.margin * (high - low).max()
        x, y = np.linspace(low - margin, high + margin, self.points).T
        points = [("grid", (x_, y_)) for y_ in y for x_ in x]
        triangle = positions[corners, :2]
        for start, end in zip(triangle, np.roll(triangle, -1, 0), strict=True):
            points += [("edge", start + t * (end - start)) for t in np.linspace(0, 1, self.points, endpoint=False)]
        points.append(("centre", triangle.mean(0)))
        batches = passes(subject, 1)
        rows: list[dict[str, float | str]] = []
        for part, (x_, y_) in track(points, f"plane: {len(points)} points × {batches} batches", len(points)):
            row: dict[str, float | str] = {"part": part, "x": float(x_), "y": float(y_)}
            with subject.at(frame.point(x_, y_)):
                for split in SPLITS:
                    losses, correct = subject.losses(split)
                    row |= {f"{split}/loss": float(losses.mean()), f"{split}/accuracy": float(correct.mean())}
            rows.append(row)
        values = self._values(rows) | {"off_plane_max": float(positions[:, 2].max())}
        return Findings(values, rows, picture(rows, subject, corners, positions, hills(subject)))

    def _corners(self, names: Sequence[str]) -> list[int]:
        """Return the indices of the three checkpoints. Raise LandscapeError for an unknown name."""
        through = self.through or [names[0], names[(len(names) - 1) // 2], names[-1]]
        for name in through:
            if name not in names:
                raise LandscapeError(f"plane.through={name} is no checkpoint; there are {', '.join(names)}")
        return [names.index(name) for name in through]

    def _values(self, rows: Sequence[dict[str, float | str]]) -> dict[str, float]:
        """Return losses of corners, edges and centre, and the share of the grid up to the highest corner."""
        values: dict[str, float] = {}
        for split in SPLITS:
            losses: dict[str | float, list[float]] = defaultdict(list)
            for row in rows:
                losses[row["part"]].append(float(row[f"{split}/loss"]))
            highest = max(losses["edge"][:: self.points])  # each edge begins at a corner
            values |= {
                f"{split}_corners_max": highest,
                f"{split}_edges_max": max(losses["edge"]),
                f"{split}_centre": losses["centre"][0],
                f"{split}_low_share": sum(loss <= highest for loss in losses["grid"]) / len(losses["grid"]),
            }
        return values


class Frame:
    """Coordinates on the plane through three corners [3, P], in which lengths are those of parameter space.

    The first corner is the origin and the second is on the x axis. Raise LandscapeError if all three lie on one line.
    """

    def __init__(self, corners: Tensor) -> None:
        self.origin = corners[0].double()
        along, other = corners[1:].double() - self.origin
        self.x = F.normalize(along, dim=0)
        self.y = other - self.x.dot(other) * self.x  # Gram–Schmidt
        if not min(along.norm(), self.y.norm()) > COLLINEAR * max(along.norm(), other.norm()):
            raise LandscapeError("plane.through: these three checkpoints lie on one line, which spans no plane")
        self.y = F.normalize(self.y - self.x.dot(self.y) * self.x, dim=0)  # once more, for the rounding errors

    def point(self, x: float, y: float) -> Tensor:
        """Return the parameters [P] at x, y, in float32."""
        return (self.origin + x * self.x + y * self.y).float()

    def project(self, theta: Tensor) -> tuple[float, float, float]:
        """Return x, y and the distance from the plane of θ [P]."""
        offset = theta.double() - self.origin
        x, y = self.x.dot(offset), self.y.dot(offset)
        return float(x), float(y), float((offset - x * self.x - y * self.y).norm())


def hills(subject: Subject) -> list[tuple[int, float]]:
    """Return the index and the width σ of each hill, if the checkpoints are of one run.

    A checkpoint has a hill if hills act in a later phase. Return an empty list unless the hills are Gaussians of the
    distance of all parameters: else σ is not the radius in parameter space at which a hill is down to exp(−1/2) of its
    height.
    """
    penalty, names = subject.config.penalty, with_hills(unroll(subject.config.phases))
    if subject.run is None or penalty is None or type(penalty.kernel) is not Gaussian:
        return []
    if type(penalty.distance) is not Euclidean or penalty.distance.parameters != "all":
        return []
    return [
        (i, float(penalty.width(theta, subject.start)))
        for i, (name, theta) in enumerate(zip(subject.names, subject.parameters, strict=True))
        if name in names
    ]


def picture(
    rows: Sequence[dict[str, float | str]],
    subject: Subject,
    corners: Sequence[int],
    positions: NDArray[np.float64],
    hills: Sequence[tuple[int, float]],
) -> Figure:
    """Draw contours of both losses, with the checkpoints and their hills. positions [M, 3]: x, y and distance."""
    grid = [row for row in rows if row["part"] == "grid"]
    side = math.isqrt(len(grid))
    x, y = (np.array([row[axis] for row in grid], dtype=float).reshape(side, side) for axis in "xy")
    names = short(subject.names)
    aspect = min(max(np.ptp(y) / np.ptp(x), 0.3), 1.5)  # the aspect of a panel
    wide = aspect <= 0.7  # panels are stacked
    figure = Figure(figsize=(8, 11 * aspect + 1.6) if wide else (12.4, 5 * aspect + 1.4), dpi=110, layout="compressed")
    panels = figure.subplots(2, 1, sharex=True) if wide else figure.subplots(1, 2, sharey=True)
    outlined = [Stroke(linewidth=3, foreground="black"), Normal()]
    for axes, split in zip(panels, SPLITS, strict=True):
        loss = np.array([row[f"{split}/loss"] for row in grid], dtype=float).reshape(side, side)
        _contours(figure, axes, x, y, loss, f"{split} loss, nats")
        if subject.run:
            label = "the run, from checkpoint to checkpoint"
            axes.plot(*positions[:, :2].T, color="white", lw=1.6, path_effects=outlined, label=label)
        label = "where a hill is down to exp(−1/2) of its height"
        for i, width in hills:
            x_, y_, distance = positions[i]
            if width > distance:
                radius = math.sqrt(width**2 - distance**2)  # where the plane cuts the sphere
                angle = np.linspace(0, 2 * np.pi, 200)
                circle = x_ + radius * np.cos(angle), y_ + radius * np.sin(angle)
                axes.plot(*circle, color="white", ls="--", lw=1.4, path_effects=outlined, label=label)
                label = ""
        for i, (name, (x_, y_, distance)) in enumerate(zip(names, positions, strict=True)):
            axes.plot(x_, y_, ms=11 if i in corners else 8, ls="", mec="white", zorder=3, **mark(i))
            box = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.8}
            text = name if i in corners else f"{name}, {distance:.2g} off the plane"
            axes.annotate(text, (x_, y_), (8, 8), textcoords="offset points", fontsize=9, bbox=box)
        axes.set(aspect="equal", xlim=(x.min(), x.max()), ylim=(y.min(), y.max()))
    for axes in panels[-1:] if wide else panels:
        axes.set_xlabel(f"distance from {names[corners[0]]} towards {names[corners[1]]}, in the unit of ‖θ‖")
    for axes in panels if wide else panels[:1]:
        axes.set_ylabel("distance across")
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=True, facecolor="#BBBBBB")
    return figure


def _contours(figure: Figure, axes: Axes, x: Any, y: Any, loss: NDArray[np.float64], label: str) -> None:
    """Draw the loss [H, W] over x and y [H, W], with contours evenly spaced in its logarithm."""
    finite = loss[np.isfinite(loss)].clip(TINY)
    levels = np.geomspace(finite.min(), max(finite.max(), 1.01 * finite.min()), 16)
    levels[0] *= 1 - 1e-6  # so that rounding does not exclude the extremes
    levels[-1] *= 1 + 1e-6
    shown = np.ma.masked_invalid(loss.clip(TINY))
    filled = axes.contourf(x, y, shown, levels, norm=LogNorm(levels[0], levels[-1]), cmap="cividis")
    axes.contour(x, y, shown, levels[1:-1], colors="black", linewidths=0.4, alpha=0.6)
    bar = figure.colorbar(filled, ax=axes, label=label)
    ticks = [float(level) for level in levels[::3]]
    bar.set_ticks(ticks, labels=[f"{level:.2g}" for level in ticks])

"""The plane through three places: the loss on it, and how the run went over it."""

import math
from collections.abc import Sequence
from typing import Annotated, Any

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

from distancing.analysis import Analysis
from distancing.component import component
from distancing.errors import LandscapeError
from distancing.hills.distances import Euclidean
from distancing.landscape.marks import mark, short
from distancing.landscape.subject import Findings, Subject, Track
from distancing.models.evaluation import BATCH

FLAT = 1e-4  # of the longer side: a third place nearer to the line of the others than this spans no plane
SPLITS = "train", "test"
TINY = 1e-12  # the least loss that has a logarithm here


@component
class Plane(Analysis):
    """through: the names of three places; null for the first, the middle and the last. All places are drawn.
    points: along each side of a rectangle around all places, and along each edge of the triangle.
    margin: around them, as a share of the longer side.

    Batch-norm statistics are computed anew at each point.
    """

    least = 3

    images: PositiveInt = 500
    through: Annotated[list[str], Len(3, 3)] | None = None
    points: Annotated[int, Ge(3)] = 21
    margin: NonNegativeFloat = 0.2

    def __call__(self, subject: Subject, track: Track[Any]) -> Findings:
        """Raises LandscapeError for places that span no plane, or names of none."""
        corners = self._corners(subject.names)
        flat = Flat(subject.parameters[corners])
        where = np.array([flat.project(place) for place in subject.parameters])  # [M, 3]: x, y, distance
        low, high = where[:, :2].min(0), where[:, :2].max(0)
        margin = self.margin * (high - low).max()
        x, y = np.linspace(low - margin, high + margin, self.points).T
        sought = [("grid", (x_, y_)) for y_ in y for x_ in x]
        triangle = where[corners, :2]
        for start, end in zip(triangle, np.roll(triangle, -1, 0), strict=True):
            sought += [("edge", start + t * (end - start)) for t in np.linspace(0, 1, self.points, endpoint=False)]
        sought.append(("centre", triangle.mean(0)))
        batches = sum(-(-len(subject.data.splits[split]) // BATCH) for split in ("train", *SPLITS))
        rows: list[dict[str, float | str]] = []
        for part, (x_, y_) in track(sought, f"plane: {len(sought)} points × {batches} batches", len(sought)):
            row: dict[str, float | str] = {"part": part, "x": float(x_), "y": float(y_)}
            with subject.standing(flat.point(x_, y_)):
                for split in SPLITS:
                    losses, right = subject.losses(split)
                    row |= {f"{split}/loss": float(losses.mean()), f"{split}/accuracy": float(right.mean())}
            rows.append(row)
        values = self._values(rows) | {"off_plane_max": float(where[:, 2].max())}
        return Findings(values, rows, picture(rows, subject, corners, where, hills(subject)))

    def _corners(self, names: Sequence[str]) -> list[int]:
        through = self.through or [names[0], names[(len(names) - 1) // 2], names[-1]]
        for name in through:
            if name not in names:
                raise LandscapeError(f"plane.through={name} is no place here; there are {', '.join(names)}")
        return [names.index(name) for name in through]

    def _values(self, rows: Sequence[dict[str, float | str]]) -> dict[str, float]:
        values: dict[str, float] = {}
        for split in SPLITS:
            of = {part: [float(row[f"{split}/loss"]) for row in rows if row["part"] == part]
                  for part in ("grid", "edge", "centre")}  # fmt: skip
            highest = max(of["edge"][:: self.points])  # each edge begins at a corner
            values |= {
                f"{split}_corners_max": highest,
                f"{split}_edges_max": max(of["edge"]),
                f"{split}_centre": of["centre"][0],
                f"{split}_low_share": sum(each <= highest for each in of["grid"]) / len(of["grid"]),
            }
        return values


class Flat:
    """The plane through three corners [3, P]: the first at the origin, the second on the x axis; lengths are those of
    parameter space. Raises LandscapeError if they lie on a line."""

    def __init__(self, corners: Tensor) -> None:
        self.origin = corners[0].double()
        along, other = corners[1:].double() - self.origin
        self.x = F.normalize(along, dim=0)
        self.y = other - self.x.dot(other) * self.x  # Gram and Schmidt
        if not min(along.norm(), self.y.norm()) > FLAT * max(along.norm(), other.norm()):
            raise LandscapeError("plane.through: these three places lie on one line, which spans no plane")
        self.y = F.normalize(self.y - self.x.dot(self.y) * self.x, dim=0)  # again, for what rounding has left

    def point(self, x: float, y: float) -> Tensor:
        """[P], in float32."""
        return (self.origin + x * self.x + y * self.y).float()

    def project(self, place: Tensor) -> tuple[float, float, float]:
        """x, y, and the distance from the plane, of a place [P]."""
        way = place.double() - self.origin
        x, y = self.x.dot(way), self.y.dot(way)
        return float(x), float(y), float((way - x * self.x - y * self.y).norm())


def hills(subject: Subject) -> list[tuple[int, float]]:
    """Which places of a run have a hill once they are stored, and its width σ. None has where a width is no radius."""
    penalty = subject.config.penalty
    if subject.run is None or penalty is None or type(penalty.distance) is not Euclidean:
        return []
    return [(i, float(penalty.width(place, subject.start))) for i, place in enumerate(subject.parameters[:-1])]


def picture(
    rows: Sequence[dict[str, float | str]],
    subject: Subject,
    corners: Sequence[int],
    where: NDArray[np.float64],
    hills: Sequence[tuple[int, float]],
) -> Figure:
    """Contours of both losses. where [M, 3]: of the places, on the plane and off it."""
    grid = [row for row in rows if row["part"] == "grid"]
    side = math.isqrt(len(grid))
    x, y = (np.array([row[axis] for row in grid], dtype=float).reshape(side, side) for axis in "xy")
    names = short(subject.names)
    tall = min(max(np.ptp(y) / np.ptp(x), 0.3), 1.5)  # of one panel, 5 inches wide
    beside = tall > 0.7
    figure = Figure(figsize=(12.4, 5 * tall + 1.4) if beside else (8, 11 * tall + 1.6), dpi=110, layout="compressed")
    panels = figure.subplots(1, 2, sharey=True) if beside else figure.subplots(2, 1, sharex=True)
    outlined = [Stroke(linewidth=3, foreground="black"), Normal()]
    for axes, split in zip(panels, SPLITS, strict=True):
        loss = np.array([row[f"{split}/loss"] for row in grid], dtype=float).reshape(side, side)
        _contours(figure, axes, x, y, loss, f"{split} loss, nats")
        if subject.run:
            axes.plot(
                *where[:, :2].T, color="white", lw=1.6, path_effects=outlined, label="the run, from place to place"
            )
        label = "where a hill is down to exp(−1/2) of its height"
        for i, width in hills:
            if width > where[i, 2]:
                radius = math.sqrt(width**2 - where[i, 2] ** 2)  # of the circle in which the plane cuts it
                turn = np.linspace(0, 2 * np.pi, 200)
                circle = where[i, 0] + radius * np.cos(turn), where[i, 1] + radius * np.sin(turn)
                axes.plot(*circle, color="white", ls="--", lw=1.4, path_effects=outlined, label=label)
                label = ""
        for i, (name, (x_, y_, off)) in enumerate(zip(names, where, strict=True)):
            axes.plot(x_, y_, ms=11 if i in corners else 8, ls="", mec="white", zorder=3, **mark(i))
            note = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.8}
            text = name if i in corners else f"{name}, {off:.2g} off the plane"
            axes.annotate(text, (x_, y_), (8, 8), textcoords="offset points", fontsize=9, bbox=note)
        axes.set(aspect="equal", xlim=(x.min(), x.max()), ylim=(y.min(), y.max()))
    along = f"way from {names[corners[0]]} towards {names[corners[1]]}, in the unit of ‖θ‖"
    for axes in panels[-1:] if not beside else panels:
        axes.set_xlabel(along)
    for axes in panels if not beside else panels[:1]:
        axes.set_ylabel("way across")
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=True, facecolor="#BBBBBB")
    return figure


def _contours(figure: Figure, axes: Axes, x: Any, y: Any, loss: NDArray[np.float64], label: str) -> None:
    """[H, W] each; levels are evenly spaced in the logarithm of the loss."""
    found = loss[np.isfinite(loss)].clip(TINY)
    levels = np.geomspace(found.min(), max(found.max(), 1.01 * found.min()), 16)
    levels[0] *= 1 - 1e-6  # not to lose the extremes to rounding
    levels[-1] *= 1 + 1e-6
    shown = np.ma.masked_invalid(loss.clip(TINY))
    filled = axes.contourf(x, y, shown, levels, norm=LogNorm(levels[0], levels[-1]), cmap="cividis")
    axes.contour(x, y, shown, levels[1:-1], colors="black", linewidths=0.4, alpha=0.6)
    bar = figure.colorbar(filled, ax=axes, label=label)
    ticks = [float(level) for level in levels[::3]]
    bar.set_ticks(ticks, labels=[f"{level:.2g}" for level in ticks])

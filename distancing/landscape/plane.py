"""The plane through three places: the loss on it, and how the run went over it."""

import math
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Len
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import NDArray
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from distancing.analysis import Analysis
from distancing.component import component
from distancing.distances import Euclidean
from distancing.evaluate import BATCH
from distancing.landscape.marks import mark
from distancing.landscape.subject import Findings, LandscapeError, Subject, Track

FLAT = 1e-4  # of the longer side: a third place nearer to the line of the others than this spans no plane
SPLITS = "train", "test"


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
        flat = Flat(subject.places[corners])
        where = np.array([flat.project(place) for place in subject.places])  # [M, 3]: x, y, and how far off the plane
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
        values = {}
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
        if not self.y.norm() > FLAT * max(along.norm(), other.norm()):
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
    if subject.run is None or penalty is None or not isinstance(penalty.distance, Euclidean):
        return []
    return [(i, float(penalty.width(place, subject.start))) for i, place in enumerate(subject.places[:-1])]


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
    figure = Figure(figsize=(12, 5.4), dpi=110, layout="constrained", facecolor="white")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, split in zip(panels, SPLITS, strict=True):
        loss = np.array([row[f"{split}/loss"] for row in grid], dtype=float).reshape(side, side)
        _contours(figure, axes, x, y, loss, f"{split} loss, nats")
        for i, width in hills:
            if width > where[i, 2]:  # where the hill's height is down to exp(−1/2)
                radius = math.sqrt(width**2 - where[i, 2] ** 2)
                axes.add_patch(Circle(where[i, :2], radius, fill=False, ec="white", ls="--", lw=1.4))
        if subject.run:
            axes.plot(*where[:, :2].T, color="white", lw=1.6)
        for i, (name, (x_, y_, off)) in enumerate(zip(subject.names, where, strict=True)):
            look = {**mark(i), "ls": "", "mec": "white", "zorder": 3}
            axes.plot(x_, y_, ms=10 if i in corners else 7, **look)
            text = name.rpartition("/")[2] if i in corners else f"{name.rpartition('/')[2]}, {off:.2g} off"
            note = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.75}
            axes.annotate(text, (x_, y_), (7, 7), textcoords="offset points", fontsize=9, bbox=note)
        axes.set(
            xlabel="distance along the first edge", aspect="equal", xlim=(x.min(), x.max()), ylim=(y.min(), y.max())
        )
    panels[0].set_ylabel("distance from it, in the plane")
    return figure


def _contours(figure: Figure, axes: Axes, x: Any, y: Any, loss: NDArray[np.float64], label: str) -> None:
    """[H, W] each; levels are evenly spaced in the logarithm of the loss."""
    low, high = np.nanmin(loss), np.nanmax(loss)
    levels = np.geomspace(low, max(high, low * 1.01), 16)
    filled = axes.contourf(x, y, loss, levels, norm=LogNorm(low, levels[-1]), cmap="cividis", extend="both")
    axes.contour(x, y, loss, levels, colors="black", linewidths=0.4, alpha=0.6)
    bar = figure.colorbar(filled, ax=axes, shrink=0.85, label=label)
    bar.set_ticks(levels[::3], labels=[f"{level:.2g}" for level in levels[::3]])

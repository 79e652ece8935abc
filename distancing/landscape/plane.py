"""The plane through three places: the loss on it, and how the run went over it."""

import itertools
import math
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Len
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.ticker import LogFormatterSciNotation
from numpy.typing import NDArray
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from distancing.analysis import Analysis
from distancing.component import component
from distancing.distances import Euclidean
from distancing.landscape.marks import COLOURS, mark
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
        where = [flat.project(place) for place in subject.places]  # x, y and the height above the plane
        x, y = (self._side([each[i] for each in where]) for i in (0, 1))
        grid = [(x_, y_) for y_ in y for x_ in x]
        triangle = [where[corner][:2] for corner in corners]
        edges = [_between(*ends, t) for ends in itertools.combinations(triangle, 2) for t in np.linspace(0, 1, self.points)]
        centre = tuple(np.mean(triangle, axis=0))
        sought = [("grid", at) for at in grid] + [("edge", at) for at in edges] + [("centre", centre)]
        rows: list[dict[str, float | str]] = []
        for kind, (x_, y_) in track(sought, "plane", len(sought)):
            row: dict[str, float | str] = {"part": kind, "x": x_, "y": y_}
            with subject.standing(flat.point(x_, y_)):
                for split in SPLITS:
                    losses, right = subject.losses(split)
                    row |= {f"{split}/loss": float(losses.mean()), f"{split}/accuracy": float(right.mean())}
            rows.append(row)
        return Findings()

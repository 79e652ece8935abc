"""The sharpness of the loss at each checkpoint, by measures that rescaling a network can't change, and by raw ones."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Lt, MinLen
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from distancing.component import component
from distancing.component.analysis import Analysis
from distancing.data.batches import Split
from distancing.errors import LandscapeError
from distancing.landscape import units
from distancing.landscape.curvature import largest_eigenvalue, relative, trace_samples
from distancing.landscape.loss import Loss
from distancing.landscape.marks import mark, short
from distancing.landscape.subject import Findings, Subject, Track

RADII = 0.02, 0.05, 0.1, 0.2
Row = dict[str, float | str]


@component
class Sharpness(Analysis):
    """Sharpness of the training loss on `images` evenly spaced images, in evaluation mode, with batch-norm statistics
    recomputed once for each checkpoint.

    unit: the unit of a step's length: the norm of the `filter`, or |θ_i| of each `element`; see units.py.
    radii (`unit`): the lengths of the steps. A radius of 0.1 moves every filter by a tenth of its norm in a random
        direction; in the worst direction it bounds the length ‖u‖ of all filters' moves together.
    directions: the number of random directions (Li et al. 2018).
    starts: the largest number of classes from which an ascent to the worst point within each radius starts, besides the
        start in the steepest direction; see `worst`.
    ascent_steps: the number of further gradient steps of the ascent that is highest after its first step.
    eigenvalue_steps: the largest number of Hessian-vector products for the largest eigenvalue.
    tolerance: the relative error of the eigenvalue at which these products end early.
    probes: the number of Hessian-vector products for each trace.
    """

    least = 1
    VALUES: ClassVar[dict[str, tuple[str, str]]] = {
        "CHECKPOINT/rise_random_RADIUS": ("nats", "the mean rise of the loss in random directions"),
        "CHECKPOINT/rise_worst_RADIUS": ("nats", "the largest rise that was found, a lower bound of the largest"),
        "CHECKPOINT/hessian_max": ("", "the largest eigenvalue of the Hessian H"),
        "CHECKPOINT/hessian_trace": ("", "the trace of H"),
        "CHECKPOINT/hessian_max_relative": (
            "",
            "the largest eigenvalue of D·H·D, where D holds the unit of each parameter",
        ),
        "CHECKPOINT/hessian_trace_relative": ("", "the trace of D·H·D"),
    }

    images: PositiveInt = 500
    unit: units.Unit = "filter"
    radii: Annotated[list[PositiveFloat], MinLen(1)] = dataclasses.field(default_factory=lambda: list(RADII))
    directions: Annotated[int, Ge(2)] = 10
    starts: NonNegativeInt = 10
    ascent_steps: PositiveInt = 10
    eigenvalue_steps: PositiveInt = 50
    tolerance: Annotated[float, Ge(0), Lt(1)] = 0.01
    probes: Annotated[int, Ge(2)] = 20

    def __call__(self, subject: Subject, track: Track[Any]) -> Findings:
        """Return the values CHECKPOINT/MEASURE. Raise LandscapeError if a checkpoint's loss is not finite."""
        passes = 2 + len(self.radii) * (self.directions + 2 * (self.starts + 1) + self.ascent_steps + 1)
        passes += 2 * (self.eigenvalue_steps + 1)  # a trace takes one
        loss = Loss(subject.network, subject.theta, subject.data, subject.data.train, lambda: next(ticks, None))
        total = len(subject.parameters) * passes * loss.batches
        ticks = iter(track(range(total), "sharpness", total))
        rows: list[Row] = []
        for name, theta in zip(subject.names, subject.parameters, strict=True):
            with subject.at(theta):
                rows += [{"checkpoint": name, **row} for row in self.measure(loss, name)]
        values = {f"{row['checkpoint']}/{_label(row)}": float(row["value"]) for row in rows}
        return Findings(values, rows, picture(rows, subject.names, self.unit))

    def measure(self, loss: Loss, name: str) -> list[Row]:
        """Return rows of measure, radius, value and error at the network's current parameters.

        All checkpoints are measured with the same random numbers. name: the checkpoint's, for error messages.
        """
        theta, generator = loss.theta, torch.Generator().manual_seed(self.seed)
        scale = units.scale(theta, self.unit)
        rows = self._rises(loss, name, scale, generator)
        for suffix, unit in (("", torch.ones_like(scale)), ("_relative", scale)):
            start = units.random_step(theta, "element", generator)
            product = relative(loss.product, unit)
            *_, largest = islice(largest_eigenvalue(product, start, self.tolerance), self.eigenvalue_steps)
            probes = torch.stack([units.random_step(theta, "element", generator).sign() for _ in range(self.probes)])
            samples = trace_samples((relative(term, unit) for term in loss.products()), probes)
            rows.append(_row(f"hessian_max{suffix}", *largest))
            rows.append(_row(f"hessian_trace{suffix}", *_mean_and_error(samples.tolist())))
        return rows

    def _rises(self, loss: Loss, name: str, scale: Tensor, generator: torch.Generator) -> list[Row]:
        """Return rows of the loss's rise at each radius: the mean in random directions, and the largest one reached."""
        theta, origin = loss.theta, loss.theta.vector.clone()
        base = loss.value()
        if not math.isfinite(base):
            raise LandscapeError(f"{name} has a training loss of {base}")

        def go(u: Tensor) -> None:
            theta.vector.copy_(origin + scale * u)

        random: dict[float, list[float]] = {radius: [] for radius in sorted(self.radii)}
        for _ in range(self.directions):
            u = units.random_step(theta, self.unit, generator)
            for radius, rises in random.items():
                go(radius * u)
                rises.append(loss.value() - base)
        rows = [_row("rise_random", *_mean_and_error(rises), radius) for radius, rises in random.items()]
        go(1e-3 * min(random) * F.normalize(u, dim=0))  # not quite the checkpoint, where the loss may be stationary
        directions = [scale * loss.value_and_gradient()[1]]
        theta.vector.copy_(origin)
        # towards each class: the loss of its images falls there, because the network takes others for it as well
        directions += [-scale * part.value_and_gradient()[1] for part in by_class(loss, self.starts)]
        starts = [direction / direction.norm() for direction in directions if direction.norm() > 0]
        highest = base
        for radius in random:
            highest = max(highest, worst(loss, go, starts, scale, radius, self.ascent_steps))
            rows.append(_row("rise_worst", highest - base, 0.0, radius))
        theta.vector.copy_(origin)
        return rows


def worst(
    loss: Loss, go: Callable[[Tensor], None], starts: Iterable[Tensor], scale: Tensor, length: float, steps: int
) -> float:
    """Return the highest loss reached in the ball ‖u‖ ≤ `length`, a lower bound of its maximum.

    An ascent takes one step from each start [P] of length 1 and continues from the highest point. A step
    u ← length · ∂L/∂u / ‖∂L/∂u‖ maximises the linearised loss within the ball. Near u = 0 it is the step of Kwon et al.
    (2021). On a quadratic loss the steps are power iterations with the Hessian. On a convex loss no step goes down.

    The end of an ascent depends on its start. At the highest points the network takes images of other classes for one
    class's, and from random starts nearly all ascents end at the same class: `Sharpness` starts towards each of them.
    """
    highest = top = -math.inf
    best = torch.zeros_like(scale)
    for start in starts:
        value, u = uphill(loss, go, length * start, scale, length)
        go(u)
        height = loss.value()
        highest = max(highest, value, height)
        if height > top:
            top, best = height, u
    for _ in range(steps):
        value, best = uphill(loss, go, best, scale, length)
        highest = max(highest, value)
    go(best)
    return max(highest, loss.value())


def uphill(loss: Loss, go: Callable[[Tensor], None], u: Tensor, scale: Tensor, length: float) -> tuple[float, Tensor]:
    """Return the loss at u [P], and where a step leads from there: u again if the gradient is 0 or not finite."""
    go(u)
    value, gradient = loss.value_and_gradient()
    slope = scale * gradient
    norm = slope.norm()
    return value, slope * (length / norm) if 0 < norm < math.inf else u


def by_class(loss: Loss, most: int) -> Iterator[Loss]:
    """Yield the loss of each class's images alone, for the first so many classes that have any."""
    images, labels = loss.split.images, loss.split.labels
    for label in labels.unique()[:most]:
        mine = labels == label
        yield Loss(loss.network, loss.theta, loss.data, Split(images[mine], labels[mine]), lambda: None)


def _row(measure: str, value: float, error: float, radius: float | str = "") -> Row:
    return {"measure": measure, "radius": radius, "value": value, "error": error}


def _mean_and_error(samples: Sequence[float]) -> tuple[float, float]:
    """Return the mean and its standard error."""
    x = torch.tensor(samples, dtype=torch.float64)
    return float(x.mean()), float(x.std() / len(samples) ** 0.5)


def _label(row: Row) -> str:
    return f"{row['measure']}_{row['radius']:g}" if row["radius"] else str(row["measure"])


def picture(rows: Sequence[Row], names: Sequence[str], unit: str) -> Figure:
    """Draw the rises over the radius, and each checkpoint's largest eigenvalues and traces."""
    figure = Figure(figsize=(12, 4.2), dpi=110, layout="constrained", facecolor="white")
    rises, *others = figure.subplots(1, 3, width_ratios=(1.5, 1, 1))
    lines = {"worst": "-", "random": ":"}
    labels = {"worst": "worst found: a lower bound", "random": "random"}
    fills = {"": ("white", "of θ"), "_relative": (None, f"relative to the {unit}s' norms")}
    for i, (name, label) in enumerate(zip(names, short(names), strict=True)):
        own = [row for row in rows if row["checkpoint"] == name]
        for direction, line in lines.items():
            points = [row for row in own if row["measure"] == f"rise_{direction}"]
            radius, value, error = (np.array([row[key] for row in points]) for key in ("radius", "value", "error"))
            rises.errorbar(radius, value, error, **mark(i), ls=line, ms=5, label=label if line == "-" else None)
        hessian = {row["measure"]: (row["value"], row["error"]) for row in own if not row["radius"]}
        for axes, measure in zip(others, ("hessian_max", "hessian_trace"), strict=True):
            for suffix, (colour, _) in fills.items():
                axes.errorbar(i, *hessian[measure + suffix], **mark(i), ls="", ms=6, mfc=colour)
    styles = [Line2D([], [], color="black", ls=line, label=labels[direction]) for direction, line in lines.items()]
    rises.legend(handles=[*rises.get_legend_handles_labels()[0], *styles], frameon=False, fontsize=9)
    rises.set(xscale="log", xlabel=f"radius, relative to the {unit}s' norms", ylabel="rise of the training loss, nats")
    rises.set_xticks(radius, [f"{r:g}" for r in radius])
    rises.minorticks_off()
    for axes, label in zip(others, ("largest eigenvalue", "trace"), strict=True):
        axes.set_ylabel(f"{label} of the Hessian, nats")
        axes.set_xticks(range(len(names)), short(names), rotation=30, ha="right")
        axes.margins(x=0.15)
    squares = [Line2D([], [], ls="", marker="o", color="black", mfc=mfc, label=label) for mfc, label in fills.values()]
    others[0].legend(handles=squares, frameon=False, fontsize=9)
    for axes, measure in zip((rises, *others), ("rise", "hessian_max", "hessian_trace"), strict=True):
        axes.spines[["top", "right"]].set_visible(False)
        if all(float(row["value"]) > 0 for row in rows if str(row["measure"]).startswith(measure)):
            axes.set_yscale("log")
    return figure

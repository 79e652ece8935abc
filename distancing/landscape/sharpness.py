"""How sharp is the loss at each place? By measures that a mere rescaling of the network can't change, and raw ones."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Lt, MinLen
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from distancing.analysis import Analysis
from distancing.component import component
from distancing.data import Split
from distancing.landscape import units
from distancing.landscape.curvature import largest_eigenvalue, relative, trace_samples
from distancing.landscape.loss import Loss
from distancing.landscape.marks import mark, short
from distancing.landscape.subject import Findings, LandscapeError, Subject, Track

RADII = 0.02, 0.05, 0.1, 0.2
Row = dict[str, float | str]


@component
class Sharpness(Analysis):
    """Of the training loss on the first `images` images, in evaluation mode, batch-norm statistics as they are at the
    place.

    unit: in which a step is measured, `filter` or `element`; see units.py.
    radii: of the steps. 0.1 moves every filter by a tenth of its norm in a random direction, and all of them together
        by as much (‖u‖) in the worst one.
    directions: random ones (Li et al. 2018).
    starts: classes, at most, from which an ascent to the worst place within each radius begins, besides the one on the
        steepest way up; see `worst`.
    ascent_steps: further gradients on the ascent that is highest after its first step.
    eigenvalue_steps: products with the Hessian, at most, for its largest eigenvalue; fewer once it is known to
    tolerance: relative.
    probes: products for each trace.
    """

    least = 1

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
        """Values PLACE/MEASURE. Raises LandscapeError where the loss is not finite."""
        passes = 2 + len(self.radii) * (self.directions + 2 * (self.starts + 1) + self.ascent_steps + 1)
        passes += 2 * (self.eigenvalue_steps + self.probes)
        loss = Loss(subject.network, subject.theta, subject.data, subject.data.train, lambda: next(ticks, None))
        total = len(subject.places) * passes * loss.batches
        ticks = iter(track(range(total), "sharpness", total))
        rows: list[Row] = []
        for name, place in zip(subject.names, subject.places, strict=True):
            with subject.standing(place):
                rows += [{"place": name, **row} for row in self.of_place(loss, name)]
        values = {f"{row['place']}/{_label(row)}": float(row["value"]) for row in rows}
        return Findings(values, rows, picture(rows, subject.names, self.unit))

    def of_place(self, loss: Loss, name: str) -> list[Row]:
        """Rows of measure, radius, value and error, of the network as it stands; at every place by the same noise."""
        theta, generator = loss.theta, torch.Generator().manual_seed(self.seed)
        scale = units.scale(theta, self.unit)
        rows = self._rises(loss, name, scale, generator)
        for kind, product in (("", loss.product), ("_relative", relative(loss.product, scale))):
            start = units.random_step(theta, "element", generator)
            *_, largest = islice(largest_eigenvalue(product, start, self.tolerance), self.eigenvalue_steps)
            probes = (units.random_step(theta, "element", generator).sign() for _ in range(self.probes))
            rows.append(_row(f"hessian_max{kind}", *largest))
            rows.append(_row(f"hessian_trace{kind}", *_mean(list(trace_samples(product, probes)))))
        return rows

    def _rises(self, loss: Loss, name: str, scale: Tensor, generator: torch.Generator) -> list[Row]:
        """Of the loss within each radius: the mean in random directions, and the largest one found."""
        theta, place = loss.theta, loss.theta.vector.clone()
        base = loss.value()
        if not math.isfinite(base):
            raise LandscapeError(f"{name} has a training loss of {base}")

        def go(u: Tensor) -> None:
            theta.vector.copy_(place + scale * u)

        random: dict[float, list[float]] = {radius: [] for radius in sorted(self.radii)}
        for _ in range(self.directions):
            u = units.random_step(theta, self.unit, generator)
            for radius, rises in random.items():
                go(radius * u)
                rises.append(loss.value() - base)
        rows = [_row("rise_random", *_mean(rises), radius) for radius, rises in random.items()]
        go(1e-3 * min(random) * F.normalize(u, dim=0))  # not quite the place, where the loss may be stationary
        ways = [scale * loss.value_and_gradient()[1]]
        theta.vector.copy_(place)
        # towards each class: its images' loss falls there, since the network takes others for it as well
        ways += [-scale * part.value_and_gradient()[1] for part in by_class(loss, self.starts)]
        starts = [way / way.norm() for way in ways if way.norm() > 0]
        highest = base
        for radius in random:
            highest = max(highest, worst(loss, go, starts, scale, radius, self.ascent_steps))
            rows.append(_row("rise_worst", highest - base, 0.0, radius))
        theta.vector.copy_(place)
        return rows


def worst(
    loss: Loss, go: Callable[[Tensor], None], starts: Iterable[Tensor], scale: Tensor, length: float, steps: int
) -> float:
    """Return the highest loss found in the ball ‖u‖ ≤ `length`, a lower bound of the highest.

    An ascent takes one step from each start [P] of length 1, and goes on from the highest place. A step is
    u ← length · ∂L/∂u / ‖∂L/∂u‖, which maximises the loss's linear part within the ball: near u = 0 the step of Kwon et
    al. (2021), on a quadratic loss the power iteration with the Hessian, and where the loss is convex never one down.
    Where it ends depends on its start. At the highest places the network takes images of other classes for one class's,
    and from random starts an ascent nearly always ends at the same of these: `Sharpness` starts towards each.
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


def _mean(samples: Sequence[float]) -> tuple[float, float]:
    """…and its standard error."""
    found = torch.tensor(samples, dtype=torch.float64)
    return float(found.mean()), float(found.std() / len(samples) ** 0.5)


def _label(row: Row) -> str:
    return f"{row['measure']}_{row['radius']:g}" if row["radius"] else str(row["measure"])


def picture(rows: Sequence[Row], names: Sequence[str], unit: str) -> Figure:
    """The rises over the radius; eigenvalues and traces place by place."""
    figure = Figure(figsize=(12, 4.2), dpi=110, layout="constrained", facecolor="white")
    rises, *others = figure.subplots(1, 3, width_ratios=(1.5, 1, 1))
    lines = {"worst": "-", "random": ":"}
    said = {"worst": "worst found: a lower bound", "random": "random"}
    fills = {"": ("white", "of θ"), "_relative": (None, f"relative to the {unit}s' norms")}
    for i, (name, label) in enumerate(zip(names, short(names), strict=True)):
        of = {(row["measure"], row["radius"]): (float(row["value"]), float(row["error"]))
              for row in rows if row["place"] == name}  # fmt: skip
        for kind, line in lines.items():
            points = [(float(radius), *found) for (measure, radius), found in of.items() if measure == f"rise_{kind}"]
            radius, value, error = np.array(points).T
            rises.errorbar(radius, value, error, **mark(i), ls=line, ms=5, label=label if line == "-" else None)
        for axes, measure in zip(others, ("hessian_max", "hessian_trace"), strict=True):
            for kind, (colour, _) in fills.items():
                axes.errorbar(i, *of[measure + kind, ""], **mark(i), ls="", ms=6, mfc=colour)
    kinds = [Line2D([], [], color="black", ls=line, label=said[kind]) for kind, line in lines.items()]
    rises.legend(handles=[*rises.get_legend_handles_labels()[0], *kinds], frameon=False, fontsize=9)
    rises.set(xscale="log", xlabel=f"radius, relative to the {unit}s' norms", ylabel="rise of the training loss, nats")
    rises.set_xticks(radius, [f"{each:g}" for each in radius])
    rises.minorticks_off()
    for axes, what in zip(others, ("largest eigenvalue", "trace"), strict=True):
        axes.set_ylabel(f"{what} of the Hessian, nats")
        axes.set_xticks(range(len(names)), short(names), rotation=30, ha="right")
        axes.margins(x=0.15)
    squares = [Line2D([], [], ls="", marker="o", color="black", mfc=mfc, label=label) for mfc, label in fills.values()]
    others[0].legend(handles=squares, frameon=False, fontsize=9)
    for axes, measure in zip((rises, *others), ("rise", "hessian_max", "hessian_trace"), strict=True):
        axes.spines[["top", "right"]].set_visible(False)
        if all(float(row["value"]) > 0 for row in rows if str(row["measure"]).startswith(measure)):
            axes.set_yscale("log")
    return figure

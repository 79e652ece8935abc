"""A curve of low loss between two checkpoints, where the straight line may cross a barrier."""

import math
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Lt
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from distancing.component import component
from distancing.component.analysis import Analysis
from distancing.data.batches import Epoch
from distancing.errors import LandscapeError
from distancing.landscape import lines
from distancing.landscape.path import Pairs, Path, line, pairs, passes, profile
from distancing.landscape.subject import Findings, Subject, Track
from distancing.models.evaluation import batch_norms


@component
class Valley(Analysis):
    """Loss and accuracy on a quadratic Bézier curve between two checkpoints, whose bend is trained for a low loss all
    along it, and on the straight line: do both lie in one valley (Draxler et al. 2018; Garipov et al. 2018)?

    The curve has as many parameters as a chain of two line segments, but no corner, and its points are spread evenly.
    Garipov et al. found it to be the slightly better of the two.

    points (points): the number of points on the curve and on the line, the ends included.
    pairs: the pairs of checkpoints, as in Barrier.
    epochs (epochs): the length of the curve's training, on the training images without augmentation.
    lr: the initial learning rate, which falls to 0 on a cosine. The optimiser is SGD.
    momentum: the momentum of SGD.
    batch_size (images): the size of a batch.
    """

    VALUES: ClassVar[dict[str, tuple[str, str]]] = {
        **lines.VALUES,
        "length_over_distance/PAIR": ("", "the length of the curve, relative to the straight line"),
    }

    points: Annotated[int, Ge(3)] = 25
    pairs: Pairs = "ends"
    epochs: PositiveInt = 40
    lr: PositiveFloat = 0.1
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    batch_size: Annotated[int, Ge(2)] = 128

    def __call__(self, subject: Subject, track: Track[Any]) -> Findings:
        names, theta = subject.names, subject.parameters
        values, profiles = dict[str, float](), {}
        for i, j in pairs(self.pairs, len(names)):
            a, b = theta[i], theta[j]
            bend = self.trained(subject, a, b, track)
            with subject.progress(track, "valley", 2 * passes(subject, self.points)):
                straight = line(subject, i, j, self.points)
                curve = profile(subject, bezier(a, bend, b), self.points)
            profiles[names[i], names[j]] = {"line": straight, "curve": curve}
            distance = float((a - b).norm())
            pair = lines.tag(names[i], names[j])
            values[f"distance/{pair}"] = distance
            values[f"length_over_distance/{pair}"] = length(a, bend, b) / distance if distance else math.nan
        return Findings(lines.heights(profiles) | values, lines.rows(profiles), lines.picture(profiles))

    def trained(self, subject: Subject, a: Tensor, b: Tensor, track: Track[Any]) -> Tensor:
        """Return the trained bend [P] between a and b.

        Each step takes the gradient of the cross entropy at a random point of the curve. Batch norms use the batch, as
        in training; dropout is off. The order of the images and the points follow from the seed. Raise LandscapeError
        if the learning rate is too large.
        """
        generator = torch.Generator().manual_seed(self.seed)
        bend, velocity = a.lerp(b, 0.5), torch.zeros_like(a)
        epochs = (Epoch(subject.data, self.batch_size, self.seed, epoch) for epoch in range(self.epochs))
        batches = (batch for epoch in epochs for batch in epoch.batches())
        steps = self.epochs * math.ceil(len(subject.data.train) / self.batch_size)
        norms = batch_norms(subject.network)
        with subject.at(a, refresh=False) as network:
            for step, (images, labels) in enumerate(track(batches, "valley: training", steps)):
                t = float(torch.rand((), generator=generator))
                subject.theta.vector.copy_(bezier(a, bend, b)(t))
                for norm in norms:
                    norm.train(len(labels) > 1)  # batch norm can't normalise a single image
                with subject.autocast:
                    logits = network(images)
                F.cross_entropy(logits.float(), labels).backward()
                subject.theta.collect_gradient()
                velocity.mul_(self.momentum).add_(subject.theta.gradient, alpha=2 * t * (1 - t))
                bend.sub_(velocity, alpha=self.lr * (1 + math.cos(math.pi * step / steps)) / 2)
            network.eval()
        if not bool(bend.isfinite().all()):
            raise LandscapeError(f"valley.lr={self.lr}: training the curve diverged; set a smaller learning rate")
        return bend


def bezier(a: Tensor, bend: Tensor, b: Tensor) -> Path:
    """Return the quadratic Bézier curve (1 − t)² a + 2t(1 − t) bend + t² b."""
    return lambda t: (1 - t) ** 2 * a + 2 * t * (1 - t) * bend + t**2 * b


def length(a: Tensor, bend: Tensor, b: Tensor, pieces: int = 1000) -> float:
    """Return the length of the Bézier curve, by the trapezoidal rule with `pieces` pieces."""
    first, last = 2 * (bend - a).double(), 2 * (b - bend).double()  # the derivative is linear between these
    t = torch.linspace(0, 1, pieces + 1, dtype=torch.float64)
    ff, fl, ll = (float(x @ y) for x, y in ((first, first), (first, last), (last, last)))
    speed = ((1 - t) ** 2 * ff + 2 * t * (1 - t) * fl + t**2 * ll).clamp(min=0).sqrt()
    return float(speed[:-1].add(speed[1:]).sum() / (2 * pieces))

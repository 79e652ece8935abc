"""Loss and accuracy along a path through parameter space, and the height of the barrier on it."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor

from distancing.landscape.subject import Subject
from distancing.models.evaluation import batch_norms

SPLITS = ("train", "test")
Pairs = Literal["ends", "successive", "first", "all"]
Path = Callable[[float], Tensor]  # t in [0, 1] → θ [P]


@dataclasses.dataclass(frozen=True)
class Profile:
    """Loss and accuracy at T points of a path, in float64.

    t [T]: from 0 to 1. losses: each split's [T, N] of N images, in nats. accuracy: each split's [T], from 0 to 1.
    stored: each split's mean losses at both ends with the batch-norm statistics of the checkpoints, which are those of
    training; {} if the ends are no checkpoints.
    """

    t: Tensor
    losses: Mapping[str, Tensor]
    accuracy: Mapping[str, Tensor]
    stored: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)

    def height(self, split: str) -> tuple[float, float]:
        """Return the barrier's height on a split and its standard error, in nats."""
        return height(self.losses[split], self.t)

    def rows(self) -> Iterator[dict[str, float | str]]:
        """Yield a CSV row for each point: t, and each split's mean loss and accuracy; at the ends also `stored`."""
        ends = {0: 0, len(self.t) - 1: 1}  # point → end
        for i, t in enumerate(self.t.tolist()):
            row: dict[str, float | str] = {"t": t}
            for split in SPLITS:
                row[f"{split}/loss"] = float(self.losses[split][i].mean())
                row[f"{split}/accuracy"] = float(self.accuracy[split][i])
                known = i in ends and split in self.stored
                row[f"{split}/loss_stored_statistics"] = self.stored[split][ends[i]] if known else ""
            yield row


def lerp(a: Tensor, b: Tensor) -> Path:
    """Return the straight line from a [P] to b [P]; its ends are exactly a and b."""
    return lambda t: a.lerp(b, t)


def profile(subject: Subject, path: Path, points: int) -> Profile:
    """Return loss and accuracy at `points` equidistant t from 0 to 1.

    Batch-norm statistics are recomputed at each point, since those of the ends do not fit the points between them.
    """
    t = torch.linspace(0, 1, points, dtype=torch.float64)
    evaluations = []
    for t_i in t.tolist():
        with subject.at(path(t_i)):
            evaluations.append([subject.losses(split) for split in SPLITS])
    by_split = dict(zip(SPLITS, zip(*evaluations, strict=True), strict=True))
    losses = {split: torch.stack([loss for loss, _ in points]) for split, points in by_split.items()}
    accuracy = {split: torch.stack([correct.mean() for _, correct in points]) for split, points in by_split.items()}
    return Profile(t, losses, accuracy)


def line(subject: Subject, i: int, j: int, points: int) -> Profile:
    """Return the profile of the straight line from checkpoint i to checkpoint j, which is computed once."""
    if (i, j, points) not in subject.lines:
        path = profile(subject, lerp(subject.parameters[i], subject.parameters[j]), points)
        ends = subject.stored_losses(i), subject.stored_losses(j)
        stored = {split: (ends[0][split], ends[1][split]) for split in SPLITS}
        subject.lines[i, j, points] = dataclasses.replace(path, stored=stored)
    known: Profile = subject.lines[i, j, points]
    return known


def passes(subject: Subject, points: int) -> int:
    """Return the number of batches that one `profile` takes."""
    refreshed = ["train"] if batch_norms(subject.network) else []  # whose batches give the batch-norm statistics
    return points * subject.count(*refreshed, *SPLITS)


def height(losses: Tensor, t: Tensor) -> tuple[float, float]:
    """Return the barrier's height max_t [L(t) − (1 − t) L(0) − t L(1)] and its standard error, in nats.

    losses [T, N]: of N images; L is their mean. The maximum includes the ends, so that a height of 0 says that the loss
    nowhere exceeds the chord between the ends. The standard error is that of the mean excess of N images at the highest
    point; it ignores that this point was selected. It is NaN for a single image.
    """
    excess = losses - losses[0].lerp(losses[-1], t.to(losses)[:, None])
    at_top, n = excess[int(excess.mean(1).argmax())], losses.shape[1]
    return float(at_top.mean()), float(at_top.std()) / math.sqrt(n) if n > 1 else math.nan


def pairs(selection: Pairs, checkpoints: int) -> list[tuple[int, int]]:
    """Return the pairs (i, j), i < j, of `checkpoints` checkpoints.

    selection: the first and the last (`ends`), each and the next (`successive`), the `first` and each other, or `all`.
    """
    selects = {
        "ends": lambda i, j: (i, j) == (0, checkpoints - 1),
        "successive": lambda i, j: j == i + 1,
        "first": lambda i, _: i == 0,
        "all": lambda *_: True,
    }[selection]
    return [(i, j) for j in range(checkpoints) for i in range(j) if selects(i, j)]

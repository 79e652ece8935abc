"""What lies along a path through the space of parameters, and how high it rises above its ends."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor

from distancing.landscape.subject import Subject

SPLITS = ("train", "test")
Pairs = Literal["ends", "successive", "first", "all"]


@dataclasses.dataclass(frozen=True)
class Profile:
    """t [T], from 0 to 1; losses in nats, of each split [T, N]; accuracy (0…1), of each split [T]; all float64."""

    t: Tensor
    losses: Mapping[str, Tensor]
    accuracy: Mapping[str, Tensor]

    def height(self, split: str) -> tuple[float, float]:
        return height(self.losses[split], self.t)

    def rows(self) -> Iterator[dict[str, float | str]]:
        """For a CSV: t, and each split's loss and accuracy there."""
        for i, t in enumerate(self.t.tolist()):
            row: dict[str, float | str] = {"t": t}
            for split in SPLITS:
                row[f"{split}/loss"] = float(self.losses[split][i].mean())
                row[f"{split}/accuracy"] = float(self.accuracy[split][i])
            yield row


Path = Callable[[float], Tensor]  # t (0…1) → a place [P]


def lerp(a: Tensor, b: Tensor) -> Path:
    """The straight line; its ends are a and b exactly."""
    return lambda t: a.lerp(b, t)


def profile(subject: Subject, path: Path, points: int) -> Profile:
    """Along the path, t from 0 to 1 in equal steps, with batch-norm statistics computed anew at each of them: by
    themselves, those of the ends don't fit what lies between."""
    t = torch.linspace(0, 1, points, dtype=torch.float64)
    found = []
    for each in t.tolist():
        with subject.standing(path(each)):
            found.append([subject.losses(split) for split in SPLITS])
    by_split = dict(zip(SPLITS, zip(*found, strict=True), strict=True))
    losses = {split: torch.stack([loss for loss, _ in here]) for split, here in by_split.items()}
    accuracy = {split: torch.stack([right.mean() for _, right in here]) for split, here in by_split.items()}
    return Profile(t, losses, accuracy)


def passes(subject: Subject, points: int) -> int:
    """The batches that one `profile` takes."""
    return points * subject.count("train", *SPLITS)  # the first for batch norm


def height(losses: Tensor, t: Tensor) -> tuple[float, float]:
    """max_t [L(t) − (1 − t) L(0) − t L(1)] in nats, and its standard error, from the losses [T, N] of N images.

    L is the mean over the images; the ends are points, too, so that 0 says that the path is nowhere above the chord.
    The error is that of the mean of N images' excess at the highest point; that this was chosen isn't in it. NaN for
    one image.
    """
    excess = losses - losses[0].lerp(losses[-1], t.to(losses)[:, None])
    at_top, n = excess[int(excess.mean(1).argmax())], losses.shape[1]
    return float(at_top.mean()), float(at_top.std()) / math.sqrt(n) if n > 1 else math.nan


def pairs(kind: Pairs, places: int) -> list[tuple[int, int]]:
    """The first and the last; each place and the next; the first and each other one; or all."""
    every = [(i, j) for j in range(places) for i in range(j)]
    wanted = {"ends": lambda i, j: (i, j) == (0, places - 1), "successive": lambda i, j: j == i + 1,
              "first": lambda i, _: i == 0, "all": lambda *_: True}[kind]  # fmt: skip
    return [pair for pair in every if wanted(*pair)]

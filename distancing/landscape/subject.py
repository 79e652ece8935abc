"""What is looked at: stored networks of one architecture, on fixed images, without augmentation or dropout."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distancing.data.batches import Data, Split
from distancing.errors import LandscapeError
from distancing.hills.theta import Theta
from distancing.models.evaluation import evaluating, refresh_from
from distancing.runs import RunDirectory
from distancing.stored import Checkpoint, evaluation_images
from distancing.training.settings import Config

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")
BATCH = 128  # images: on a CPU their activations fit its caches, which is twice as fast as thousands at a time
Track = Callable[[Iterable[T], str, int], Iterable[T]]  # an iterable, passed on with a progress bar of this total


@dataclasses.dataclass(frozen=True)
class Findings:
    """Of one analysis. values: named numbers, for result.json and TensorBoard; rows: of the CSV, all with the same
    keys; figure: the picture."""

    values: Mapping[str, float]
    rows: Sequence[Mapping[str, float | str]]
    figure: "Figure"


class Subject:
    """The places of `members` and one network to stand at any of them.

    names [M], places [M, P], start [P] (θ_0 of the first member's run); network, whose parameters `theta` holds;
    data, of which every split has at most `images` images; run, if all members are of one.
    Raises LandscapeError if the members have different architectures, or dropout.
    """

    def __init__(
        self, members: Sequence[Checkpoint], device: torch.device, images: int, data: Data | None = None
    ) -> None:
        first = members[0]
        for other in members[1:]:
            if other.config.model != first.config.model:
                raise LandscapeError(f"{first.name} and {other.name} are networks of different architectures")
        self.checkpoints, self.device, self.config = members, device, first.config
        self.names = [member.name for member in members]
        self.network: nn.Module = first.network(device)
        if any(isinstance(each, nn.modules.dropout._DropoutNd) and each.p > 0 for each in self.network.modules()):
            raise LandscapeError(f"{first.name} has dropout, so that its loss is a random number: model.dropout=0")
        self.theta = Theta(self.network.eval())
        self.parameters = torch.stack([member.parameters(self.theta) for member in members])
        self.start = first.initial_parameters(self.theta)
        self.autocast = first.config.autocast(device)
        self.data = shortened(data or fixed_images(first.config, device), images)
        folders = {member.file.parent.parent for member in members}
        self.run = RunDirectory(folders.pop()) if len(folders) == 1 else None
        self._tick: Callable[[], None] = lambda: None

    @contextmanager
    def standing(self, place: Tensor, refresh: bool = True) -> Iterator[nn.Module]:
        """The network with the parameters `place` [P], and its batch-norm statistics computed anew for them; afterwards
        parameters and buffers are what they were, bit for bit."""
        kept = [self.theta.vector, *self.network.buffers()]
        before = [each.clone() for each in kept]
        try:
            self.theta.vector.copy_(place)
            if refresh:
                refresh_from(self.network, (inputs for inputs, _ in self.batches("train")), self.autocast)
            yield self.network
        finally:
            for each, value in zip(kept, before, strict=True):
                each.copy_(value)

    def losses(self, split: str) -> tuple[Tensor, Tensor]:
        """Of the network as it stands, for each image of the split: cross entropy in nats, and whether it is right,
        [N] each, in float64 on the CPU."""
        with evaluating(self.network), self.autocast:
            logits = torch.cat([self.network(inputs).float() for inputs, _ in self.batches(split)]).cpu().double()
        labels = self.data.splits[split].labels.cpu()
        return F.cross_entropy(logits, labels, reduction="none"), (logits.argmax(1) == labels).double()

    def batches(self, split: str) -> Iterator[tuple[Tensor, Tensor]]:
        """The split's images, normalised [B, C, H, W], and labels [B], in batches of equal size: their batch norm's
        statistics weigh the same."""
        data, n = self.data.splits[split], self.count(split)
        for pixels, labels in zip(data.images.tensor_split(n), data.labels.tensor_split(n), strict=True):
            yield self.data.normalise(pixels), labels
            self._tick()

    def count(self, *splits: str) -> int:
        """How many batches these are."""
        return sum(math.ceil(len(self.data.splits[split]) / BATCH) for split in splits)

    @contextmanager
    def progress(self, track: Track[Any], what: str, batches: int) -> Iterator[None]:
        """A progress bar over the next so many batches."""
        bar = iter(track(range(batches), what, batches))
        self._tick = lambda: next(bar, None)
        try:
            yield
        finally:
            self._tick = lambda: None
            for _ in bar:  # ends the bar
                pass


def fixed_images(config: Config, device: torch.device) -> Data:
    """The images as they are judged: each once, not augmented."""
    data = evaluation_images(config, device)
    assert not data.augmented
    return data


def shortened(data: Data, n: int) -> Data:
    """At most the first n images of each split; normalised as before."""

    def first(split: Split | None) -> Split | None:
        return split and Split(split.images[:n], split.labels[:n])

    kept: dict[str, Any] = {"train": first(data.train), "test": first(data.test), "validation": first(data.validation)}
    return dataclasses.replace(data, **kept)

"""What is looked at: stored networks of one architecture, on fixed images, without augmentation or dropout."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from distancing.config import Config
from distancing.data import Data, Split
from distancing.ensemble.judge import images
from distancing.ensemble.members import Member
from distancing.evaluate import predict, refresh_batch_norm
from distancing.storage import RunDirectory
from distancing.theta import Theta

T = TypeVar("T")
Track = Callable[[Iterable[T], str, int], Iterable[T]]  # an iterable, passed on with a progress bar of this total


class LandscapeError(Exception):
    """This can't be asked of these networks; the message is one line."""


@dataclasses.dataclass(frozen=True)
class Findings:
    """Of one analysis. values: named numbers, for result.json and TensorBoard; rows: of the CSV, all with the same
    keys; figure: the picture."""

    values: Mapping[str, float]
    rows: Sequence[Mapping[str, float | str]]
    figure: Figure


class Subject:
    """The places of `members` and one network to stand at any of them.

    names [M], places [M, P], start [P] (θ_0 of the first member's run); network, whose parameters `theta` holds;
    data, of which every split has at most `images` images; run, if all members are of one.
    Raises LandscapeError if the members have different architectures, or dropout.
    """

    def __init__(self, members: Sequence[Member], device: torch.device, images: int, data: Data | None = None) -> None:
        first = members[0]
        for other in members[1:]:
            if other.config.model != first.config.model:
                raise LandscapeError(f"{first.name} and {other.name} are networks of different architectures")
        self.members, self.device, self.config = members, device, first.config
        self.names = [member.name for member in members]
        places, ways = (torch.stack(each).to(device) for each in zip(*(m.way(device) for m in members), strict=True))
        self.places, self.start = places, places[0] - ways[0]
        self.network: nn.Module = first.network(device)
        if any(isinstance(each, nn.modules.dropout._DropoutNd) and each.p > 0 for each in self.network.modules()):
            raise LandscapeError(f"{first.name} has dropout, so that its loss is a random number: model.dropout=0")
        self.network.eval()
        self.theta = Theta(self.network)
        self.autocast = first.config.autocast(device)
        self.data = shortened(data or fixed_images(first.config, device), images)
        folders = {member.file.parent.parent for member in members}
        self.run = RunDirectory(folders.pop()) if len(folders) == 1 else None

    @contextmanager
    def standing(self, place: Tensor, refresh: bool = True) -> Iterator[nn.Module]:
        """The network with the parameters `place` [P], and its batch-norm statistics computed anew for them; afterwards
        parameters and buffers are what they were, bit for bit."""
        before = {name: value.clone() for name, value in self.network.state_dict().items()}
        try:
            self.theta.vector.copy_(place)
            if refresh:
                refresh_batch_norm(self.network, self.data, self.autocast)
            yield self.network
        finally:
            self.network.load_state_dict(before)

    def losses(self, split: str) -> tuple[Tensor, Tensor]:
        """Of the network as it stands, for each image of the split: cross entropy in nats, and whether it is right,
        [N] each, in float64 on the CPU."""
        data = self.data.splits[split]
        logits, labels = predict(self.network, self.data, data, self.autocast).double(), data.labels.cpu()
        return F.cross_entropy(logits, labels, reduction="none"), (logits.argmax(1) == labels).double()


def fixed_images(config: Config, device: torch.device) -> Data:
    """The images as they are judged: each once, not augmented."""
    data = images(config, device)
    assert not data.augmented
    return data


def shortened(data: Data, n: int) -> Data:
    """At most the first n images of each split; normalised as before."""

    def first(split: Split | None) -> Split | None:
        return split and Split(split.images[:n], split.labels[:n])

    kept: dict[str, Any] = {"train": first(data.train), "test": first(data.test), "validation": first(data.validation)}
    return dataclasses.replace(data, **kept)

"""The checkpoints and images that an analysis evaluates, without augmentation or dropout."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distancing.data.batches import Data
from distancing.errors import LandscapeError
from distancing.hills.theta import Theta
from distancing.models.evaluation import batch_size, evaluating, refresh_from
from distancing.runs import RunDirectory
from distancing.stored import Checkpoint, evaluation_images

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")
Track = Callable[[Iterable[T], str, int], Iterable[T]]  # (items, description, total) → the items, with a progress bar


@dataclasses.dataclass(frozen=True)
class Findings:
    """The results of one analysis.

    values: named numbers, for result.json and TensorBoard. rows: the rows of the CSV file, all with the same keys.
    """

    values: Mapping[str, float]
    rows: Sequence[Mapping[str, float | str]]
    figure: "Figure"


class Subject:
    """M checkpoints of one architecture, and one network that can take the parameters of any of them.

    names [M] and parameters [M, P]: of the checkpoints. start [P]: θ_0 of the first checkpoint's run.
    network: its parameters are the views of `theta`. data: at most `images` images of each split, normalised as in the
    first checkpoint's run.
    run: the run's directory if all checkpoints are of one run, else None. lines: the profiles of
    `path.line`, which analyses share.

    Raise LandscapeError if the architectures differ, StorageError if a run scored its networks on other images.
    """

    def __init__(self, checkpoints: Sequence[Checkpoint], device: torch.device, images: int) -> None:
        first = checkpoints[0]
        for other in checkpoints[1:]:
            if other.config.model != first.config.model:
                raise LandscapeError(f"{first.name} and {other.name} are networks of different architectures")
        device = device if device.type != "mps" else torch.device("cpu")  # MPS has no float64
        self.checkpoints, self.device, self.config = checkpoints, device, first.config
        self.names = [checkpoint.name for checkpoint in checkpoints]
        self.network: nn.Module = first.network(device)
        self.theta = Theta(self.network.eval())
        self.parameters = torch.stack([checkpoint.parameters(self.theta) for checkpoint in checkpoints])
        self.start = first.initial_parameters(self.theta)
        self.autocast = first.config.autocast_of_stored(device)
        data = evaluation_images(first.config, device)
        for checkpoint in checkpoints:
            checkpoint.check_images(data)
        self.data = shortened(data, images)
        folders = {checkpoint.file.parent.parent for checkpoint in checkpoints}
        self.run = RunDirectory(folders.pop()) if len(folders) == 1 else None
        self.lines: dict[tuple[int, int, int], Any] = {}
        self._tick: Callable[[], None] = lambda: None

    @contextmanager
    def at(self, parameters: Tensor, refresh: bool = True) -> Iterator[nn.Module]:
        """Yield the network with these parameters [P] and, if `refresh`, batch-norm statistics recomputed for them.

        Afterwards parameters and buffers are restored bit for bit.
        """
        tensors = [self.theta.vector, *self.network.buffers()]
        saved = [tensor.clone() for tensor in tensors]
        try:
            self.theta.vector.copy_(parameters)
            if refresh:
                refresh_from(self.network, (inputs for inputs, _ in self.batches("train")), self.autocast)
            yield self.network
        finally:
            for tensor, value in zip(tensors, saved, strict=True):
                tensor.copy_(value)

    def stored_losses(self, checkpoint: int) -> dict[str, float]:
        """Return each split's mean loss of a checkpoint, in nats, with the batch-norm statistics that it has stored."""
        buffers = list(self.network.buffers())
        stored = self.checkpoints[checkpoint].network(self.device).buffers() if buffers else ()
        with self.at(self.parameters[checkpoint], refresh=False):  # which restores the buffers, too
            for buffer, value in zip(buffers, stored, strict=True):
                buffer.copy_(value)
            return {split: float(self.losses(split)[0].mean()) for split in self.data.splits}

    def losses(self, split: str) -> tuple[Tensor, Tensor]:
        """Return the network's cross entropy [N] of each image of the split, in nats, and 1 where it is correct, else 0
        [N]; both in float64 on the CPU, in the order of `batches`."""
        with evaluating(self.network), self.autocast:
            pairs = [(self.network(inputs).float(), labels) for inputs, labels in self.batches(split)]
        logits, labels = (torch.cat(parts).cpu() for parts in zip(*pairs, strict=True))
        logits = logits.double()
        return F.cross_entropy(logits, labels, reduction="none"), (logits.argmax(1) == labels).double()

    def batches(self, split: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the split's normalised images [B, C, H, W] and labels [B], divided by `Split.divided`."""
        for batch in self.data.splits[split].divided(self.count(split)):
            yield self.data.normalise(batch.images), batch.labels
            self._tick()

    def count(self, *splits: str) -> int:
        """Return the number of batches of these splits together."""
        images = (self.data.splits[split].images for split in splits)
        return sum(math.ceil(len(of_split) / batch_size(of_split)) for of_split in images)

    @contextmanager
    def progress(self, track: Track[Any], description: str, batches: int) -> Iterator[None]:
        """Show a progress bar over the next `batches` batches."""
        bar = iter(track(range(batches), description, batches))
        self._tick = lambda: next(bar, None)
        try:
            yield
        finally:
            self._tick = lambda: None
            for _ in bar:  # ends the bar
                pass


def shortened(data: Data, n: int) -> Data:
    """Return n images of each split, normalised as before."""
    splits: dict[str, Any] = {name: split.spread(n) for name, split in data.splits.items()}
    return dataclasses.replace(data, **splits)

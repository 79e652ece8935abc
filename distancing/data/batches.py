"""A data set on the training device, as uint8 images, and its batches.

Their order and augmentation follow from (seed, epoch) alone, so that a resumed run needs no generator state.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Split:
    """A part of a data set. images: uint8 [N, H, W, C]. labels: int64 [N]. Both are on one device."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def spread(self, n: int) -> "Split":
        """Return n evenly spaced images, or all if there are fewer. Files may have their images sorted by class."""
        if n >= len(self):
            return self
        chosen = torch.arange(n, device=self.labels.device) * len(self) // n
        return Split(self.images[chosen], self.labels[chosen])

    def divided(self, batches: int) -> Iterator["Split"]:
        """Yield so many batches, which differ in size by one image at most.

        Each takes its images from the whole split, so that it has the batch-norm statistics of all classes.
        """
        for first in range(batches):
            yield Split(self.images[first::batches], self.labels[first::batches])

    @cached_property
    def fingerprint(self) -> str:
        """A hash, 16 hexadecimal digits, of the images and labels in their order."""
        digest = hashlib.sha256(self.images.cpu().numpy().tobytes())
        digest.update(self.labels.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Data:
    """The splits of a data set.

    mean, std: the mean and standard deviation of the training images by channel [C], in grey levels.
    padding: the width of the border of zeros around a training image before a random crop of its own size; 0: no crop.
    flip: mirror each training image with probability ½, drawn anew in each epoch.
    memory_format: the layout of the batches.
    """

    train: Split
    test: Split
    validation: Split | None
    mean: Tensor
    std: Tensor
    padding: int = 0
    flip: bool = False
    memory_format: torch.memory_format = torch.contiguous_format

    @property
    def splits(self) -> dict[str, Split]:
        """The splits by name, without a missing validation split."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: split for name, split in named.items() if split is not None}

    @property
    def augmented(self) -> bool:
        """True if training images are cropped or mirrored."""
        return bool(self.padding or self.flip)

    @cached_property
    def padded(self) -> Tensor:
        """The training images with their border of zeros."""
        return F.pad(self.train.images, (0, 0, *[self.padding] * 4)) if self.padding else self.train.images

    def normalise(self, images: Tensor) -> Tensor:
        """Return uint8 [B, H, W, C] as float32 [B, C, H, W], of mean 0 and variance 1 over the training images."""
        pixels = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=self.memory_format)
        return pixels.sub_(self.mean[:, None, None]).div_(self.std[:, None, None])


def mean_std(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and standard deviation of each channel [C], computed in float64 from counts of grey levels.

    The deviation of a constant channel is 1.
    """
    levels = torch.arange(256, dtype=torch.float64)
    counts = [torch.bincount(channel.flatten(), minlength=256).double() for channel in images.unbind(-1)]
    share = torch.stack(counts) / counts[0].sum()
    mean = share @ levels
    std = (share * (levels - mean[:, None]).square()).sum(1).sqrt()
    return mean.float(), torch.where(std > 0, std, 1.0).float()


class Epoch:
    """One pass over the training split. `begin` replaces it by another one, at the same addresses.

    All random numbers are drawn here, on the CPU, from (seed, epoch), so that the order is the same on every device.

    order: the image at each position of the epoch [N]. rows, columns: the row and the column in the padded image of
    each pixel of the crop at each position, [N, H] and [N, W].
    """

    def __init__(self, data: Data, batch_size: int, seed: int, epoch: int) -> None:
        device, n = data.train.labels.device, len(data.train)
        self.data, self.batch_size = data, batch_size
        self.order = torch.empty(n, dtype=torch.int64, device=device)
        if data.augmented:
            self.rows, self.columns = (self.order.new_empty(n, size) for size in data.train.images.shape[1:3])
        self._positions = torch.arange(batch_size, device=device)  # the positions of the first batch
        self.begin(seed, epoch)

    def begin(self, seed: int, epoch: int) -> None:
        """Draw the order and the augmentation of an epoch."""
        generator = np.random.default_rng([seed, epoch])
        device, n = self.order.device, len(self.order)
        self.order.copy_(torch.from_numpy(generator.permutation(n)))
        if not self.data.augmented:
            return
        shifts = torch.from_numpy(generator.integers(0, 2 * self.data.padding + 1, (2, n))).to(device)
        flips = torch.from_numpy(generator.integers(0, 2, n).astype(bool) & self.data.flip).to(device)
        height, width = self.data.train.images.shape[1:3]
        columns = torch.arange(width, device=device).expand(n, width)
        columns = torch.where(flips[:, None], columns.flip(1), columns)
        torch.add(shifts[0, :, None], torch.arange(height, device=device), out=self.rows)
        torch.add(shifts[1, :, None], columns, out=self.columns)

    def batches(self, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the images and labels from batch `first` on. The last batch may be smaller."""
        for start in range(first * self.batch_size, len(self.order), self.batch_size):
            yield self._at(torch.arange(start, min(start + self.batch_size, len(self.order)), device=self.order.device))

    def batch(self, number: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Return normalised images [B, C, H, W] and labels [B] of a batch.

        number: the batch's number, a tensor [1] on the device, so that the host need not know it. size: B, the number
        of its images.
        """
        return self._at(number * self.batch_size + self._positions[:size])

    def _at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        index = self.order[positions]
        if self.data.augmented:
            rows, columns = self.rows[positions, :, None], self.columns[positions, None, :]
            pixels = self.data.padded[index[:, None, None], rows, columns]
        else:
            pixels = self.data.train.images[index]
        return self.data.normalise(pixels), self.data.train.labels[index]

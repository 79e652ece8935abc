"""The data sets, and how they are split. No decision depends on the test set."""

import hashlib
import importlib.util
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Lt
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveInt, model_validator
from typing_extensions import Self

from distancing.component import component
from distancing.data.batches import Data, Split, mean_std
from distancing.errors import DatasetError

Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]


@component
class Dataset:
    """The base class of all data sets.

    augment: zero-padded random crops, and mirror images if these keep their class.
    train_images (images): use only this many of the training images, with balanced classes; null for all.
    validation_fraction: hold out this fraction of them for validation, stratified.
    folds: k-fold cross-validation: divide them into this many stratified parts instead, of which one is held out.
    fold: the part that is held out for validation, counted from 0.
    seed: the seed of these draws. It is not the run's seed, so that runs with different seeds share their split.
    bootstrap: bagging (Breiman 1996): draw as many images as there are to train with, with replacement.
    bootstrap_seed: the seed of this draw alone, so that ensemble members may differ in it and share the rest.
    """

    augment: bool = False
    train_images: PositiveInt | None = None
    validation_fraction: Annotated[float, Ge(0), Lt(1)] = 0.0
    folds: Annotated[int, Ge(2)] | None = None
    fold: NonNegativeInt | None = None
    seed: Annotated[NonNegativeInt, Lt(2**32)] = 0
    bootstrap: bool = False
    bootstrap_seed: Annotated[NonNegativeInt, Lt(2**32)] = 0

    image_shape: ClassVar[tuple[int, int, int]]  # channels, height, width
    classes: ClassVar[int] = 10
    available: ClassVar[int]  # the number of training images
    padding: ClassVar[int] = 4
    mirror: ClassVar[bool] = False

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.train_images is not None and not self.classes <= self.train_images <= self.available:
            raise ValueError(
                f"train_images={self.train_images} is not between {self.classes} (one for each class) "
                f"and {self.available} (all)"
            )
        if self.folds is None and self.fold is not None:
            raise ValueError(f"fold={self.fold} needs folds, 2 or more")
        if self.folds is not None:
            if self.fold is None or self.fold >= self.folds:
                raise ValueError(f"folds={self.folds} needs a fold from 0 to {self.folds - 1}, not fold={self.fold}")
            if self.validation_fraction:
                raise ValueError(
                    f"folds={self.folds} needs validation_fraction=0, not {self.validation_fraction}: "
                    "the fold is the validation part"
                )
        if (self.folds or self.validation_fraction) and min(self.held_out, self.size) < self.classes:
            setting = f"folds={self.folds}" if self.folds else f"validation_fraction={self.validation_fraction}"
            raise ValueError(
                f"{setting} divides the training images into {self.size} and {self.held_out}: "
                f"fewer than one for each of {self.classes} classes"
            )
        return self

    @property
    def held_out(self) -> int:
        """The number of validation images."""
        chosen = self.train_images or self.available
        if self.folds is not None and self.fold is not None:
            return len(range(self.fold, chosen, self.folds))
        return round(self.validation_fraction * chosen)

    @property
    def size(self) -> int:
        """The number of images to train with."""
        return (self.train_images or self.available) - self.held_out

    def read(self) -> tuple[Arrays, Arrays]:
        """Return all training and all test images, uint8 [N, H, W, C], with their labels, or raise DatasetError."""
        raise NotImplementedError

    def load(self, device: torch.device, memory_format: torch.memory_format = torch.contiguous_format) -> Data:
        """Return the splits on `device`, with batches in `memory_format`. Raise DatasetError if they cannot be read."""
        (images, labels), test = self.read()
        chosen = balanced(labels, self.train_images, self.seed) if self.train_images else np.arange(len(labels))
        held_out = chosen[:0]
        if self.validation_fraction:
            train, validation = stratified_split(labels[chosen], self.held_out, self.seed)
            chosen, held_out = chosen[train], chosen[validation]
        elif self.folds is not None:
            fold_of = stratified_folds(labels[chosen], self.folds, self.seed)
            chosen, held_out = chosen[fold_of != self.fold], chosen[fold_of == self.fold]
        # before the bootstrap, so that all ensemble members see the same input for an image
        mean, std = mean_std(torch.from_numpy(images[chosen]))
        if self.bootstrap:
            chosen = np.random.default_rng(self.bootstrap_seed).choice(chosen, len(chosen))

        def split(x: NDArray[Any], y: NDArray[Any]) -> Split:
            return Split(torch.from_numpy(x).to(device), torch.from_numpy(y).to(device))

        return Data(
            train=split(images[chosen], labels[chosen]),
            test=split(*test),
            validation=split(images[held_out], labels[held_out]) if len(held_out) else None,
            mean=mean.to(device),
            std=std.to(device),
            padding=self.padding if self.augment else 0,
            flip=self.mirror and self.augment,
            memory_format=memory_format,
        )


def balanced(labels: NDArray[np.int64], n: int, seed: int) -> NDArray[np.int64]:
    """Return the indices of n random images. Class counts differ by at most one, unless a class runs out of images."""
    order = np.random.default_rng(seed).permutation(len(labels))
    rank = np.empty(len(labels), dtype=np.int64)  # rank within its class, in this order
    for label in np.unique(labels):
        images = order[labels[order] == label]
        rank[images] = np.arange(len(images))
    return order[np.argsort(rank[order], kind="stable")][:n]


def stratified_split(labels: NDArray[np.int64], n: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide the images at random, with the same shares of the classes; return the indices of the rest, and of n.

    These are the indices of scikit-learn's `train_test_split(stratify=labels)`, which takes 1 s to import. The legacy
    generator never changes its numbers.
    """
    generator = np.random.RandomState(seed)
    counts = np.bincount(labels)
    rest = _shares(counts, len(labels) - n, generator)
    taken = _shares(counts - rest, n, generator)
    parts: list[list[NDArray[np.int64]]] = [[], []]
    for images, first, second in zip(
        np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1]), rest, taken, strict=True
    ):
        images = images[generator.permutation(len(images))]
        parts[0].append(images[:first])
        parts[1].append(images[first : first + second])
    first_part, second_part = (generator.permutation(np.concatenate(part)) for part in parts)
    return first_part, second_part


def _shares(counts: NDArray[np.int64], n: int, generator: np.random.RandomState) -> NDArray[np.int64]:
    """Divide n among classes in proportion to their counts.

    The largest remainders are rounded up. A lot decides between equal ones.
    """
    exact = counts / counts.sum() * n
    shares = np.floor(exact).astype(np.int64)
    for remainder in np.unique(exact - shares)[::-1]:
        missing = n - shares.sum()
        if not missing:
            break
        (equal,) = np.where(exact - np.floor(exact) == remainder)
        shares[generator.choice(equal, min(len(equal), missing), replace=False)] += 1
    return shares


def stratified_folds(labels: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int64]:
    """Return a random fold, from 0, for each image [N].

    The sizes of the folds, and the counts of each class in them, differ by at most one. The size of a fold depends on N
    alone, which scikit-learn's StratifiedKFold does not guarantee.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    fold_of = np.empty(len(labels), dtype=np.int64)
    fold_of[by_class] = np.arange(len(labels)) % folds  # dealt out like cards, class after class
    return fold_of


@component
class Digits(Dataset):
    """scikit-learn's 1,797 scanned digits of 8×8 pixels and 17 grey levels, which need no download.

    A fixed, stratified fifth of them is the test set.
    """

    image_shape = (1, 8, 8)
    available = 1437
    padding = 1

    def read(self) -> tuple[Arrays, Arrays]:
        # sklearn.datasets.load_digits reads the same file, after 1 s of imports
        file = _folder_of("sklearn") / "datasets/data/digits.csv.gz"
        try:
            table = np.loadtxt(file, np.uint8, delimiter=",")
        except (OSError, ValueError) as error:
            raise DatasetError(f"can't read scikit-learn's digits: {error}; install scikit-learn again") from error
        images, labels = table[:, :-1].reshape(-1, 8, 8, 1), table[:, -1].astype(np.int64)
        train, test = stratified_split(labels, 360, seed=0)
        return (images[train], labels[train]), (images[test], labels[test])


def _folder_of(package: str) -> Path:
    """Return the folder of an installed package, without importing it. Raise DatasetError if it is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise DatasetError(f"{package} is not installed")
    return Path(spec.origin).parent


@component
class Torchvision(Dataset):
    """A data set that torchvision reads, and downloads if it is missing.

    root: the folder of the data set. It may be read-only if nothing has to be downloaded.
    download: download the data set if it is missing.
    """

    root: str = "data"
    download: bool = True
    reader: ClassVar[str]  # its class in torchvision.datasets
    digests: ClassVar[tuple[str, ...]] = ()  # of the training and test images, if torchvision does not check the files

    @model_validator(mode="after")
    def _root_is_a_folder(self) -> Self:
        if not self.root.strip() or not self.root.isprintable():
            raise ValueError(f"root={self.root!r} is not the name of a folder")
        return self

    def read(self) -> tuple[Arrays, Arrays]:
        import torchvision

        reader = getattr(torchvision.datasets, self.reader)
        try:
            train, test = (_arrays(reader(self.root, train=train, download=self.download)) for train in (True, False))
            self._check(train, self.available, self.digests[:1])
            self._check(test, 10_000, self.digests[1:])
        except Exception as error:  # torchvision passes on any error of its reader or the network
            hint = "" if self.download else "; dataset.download=true would fetch it"
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise DatasetError(f"dataset.root={self.root}: can't read {self.reader}: {reason}{hint}") from error
        return train, test

    def _check(self, arrays: Arrays, n: int, digest: tuple[str, ...]) -> None:
        """Raise ValueError for files that torchvision can read but that hold something else."""
        images, labels = arrays
        shape = (n, *self.image_shape[1:], self.image_shape[0])
        if images.shape != shape or labels.shape != (n,):
            raise ValueError(f"images {images.shape} and labels {labels.shape} instead of {shape} and {(n,)}")
        if labels.min() < 0 or labels.max() >= self.classes:
            raise ValueError(f"labels from {labels.min()} to {labels.max()} for {self.classes} classes")
        if digest and hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()[:16] != digest[0]:
            raise ValueError("the checksum of its images and labels is wrong")


def _arrays(dataset: Any) -> Arrays:
    images = np.ascontiguousarray(dataset.data, dtype=np.uint8)
    return images.reshape(*images.shape[:3], -1), np.asarray(dataset.targets, dtype=np.int64)


@component
class MNIST(Torchvision):
    """60,000 and 10,000 handwritten digits (LeCun et al. 1998)."""

    image_shape = (1, 28, 28)
    available = 60_000
    reader = "MNIST"
    digests = ("d18cfd466eb143ac", "a0863a96c44e5666")


@component
class FashionMNIST(Torchvision):
    """60,000 and 10,000 pictures of clothes (Xiao et al. 2017)."""

    image_shape = (1, 28, 28)
    available = 60_000
    mirror = True
    reader = "FashionMNIST"


@component
class KMNIST(Torchvision):
    """60,000 and 10,000 handwritten Japanese characters in 10 classes (Clanuwat et al. 2018)."""

    image_shape = (1, 28, 28)
    available = 60_000
    reader = "KMNIST"


@component
class CIFAR10(Torchvision):
    """50,000 and 10,000 colour photographs in 10 classes (Krizhevsky 2009)."""

    image_shape = (3, 32, 32)
    available = 50_000
    mirror = True
    reader = "CIFAR10"


@component
class CIFAR100(CIFAR10):
    """50,000 and 10,000 colour photographs in 100 classes (Krizhevsky 2009)."""

    classes = 100
    reader = "CIFAR100"

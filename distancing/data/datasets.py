"""The data sets, and how they are split. No decision depends on the test set."""

import contextlib
import hashlib
import importlib.util
import math
import os
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge, Lt
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveInt, model_validator
from typing_extensions import Self

from distancing.component import component
from distancing.data.batches import Data, Split, mean_std
from distancing.data.draws import balanced, stratified_folds, stratified_split
from distancing.errors import DatasetError, first_line
from distancing.process import memory

GIB = 2**30  # bytes
Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]


@component
class Dataset:
    """The base class of all data sets.

    augment: crop the zero-padded images at random, and mirror half of them if mirror images keep their class.
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
    test_images: ClassVar[int] = 0  # the number of test images; only the check of the memory needs it
    padding: ClassVar[int] = 4
    mirror: ClassVar[bool] = False

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        for name in ("image_shape", "available"):
            if not hasattr(self, name):
                raise ValueError(f"{type(self).__name__} does not define {name}")
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
        raise DatasetError(f"dataset: {type(self).__name__} does not define read")

    def load(self, device: torch.device, memory_format: torch.memory_format = torch.contiguous_format) -> Data:
        """Return the splits on `device`, with batches in `memory_format`.

        Raise DatasetError if the images cannot be read or do not fit into the memory, or if a class keeps no image to
        train with.
        """
        self._check_memory(device)
        (images, labels), test = self.read()
        try:
            self._check_arrays((images, labels), self.available)
            self._check_arrays(test, len(test[0]))
        except (ValueError, TypeError, AttributeError) as error:
            raise DatasetError(f"dataset: {type(self).__name__} has {error}") from error
        chosen = balanced(labels, self.train_images, self.seed) if self.train_images else np.arange(len(labels))
        held_out = chosen[:0]
        if self.validation_fraction:
            train, validation = stratified_split(labels[chosen], self.held_out, self.seed)
            chosen, held_out = chosen[train], chosen[validation]
        elif self.folds is not None:
            fold_of = stratified_folds(labels[chosen], self.folds, self.seed)
            chosen, held_out = chosen[fold_of != self.fold], chosen[fold_of == self.fold]
        if len(lost := np.setdiff1d(labels[held_out], labels[chosen])):
            setting = f"fold={self.fold}" if self.folds else f"validation_fraction={self.validation_fraction}"
            raise DatasetError(
                f"dataset.{setting} leaves no training image of class {lost[0]}, which has "
                f"{np.sum(labels[held_out] == lost[0])}: hold out fewer, or add images of this class"
            )
        # computed before the bootstrap, so that all ensemble members see the same input for an image
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

    def _check_arrays(self, arrays: Arrays, n: int) -> None:
        """Raise ValueError unless these are n images of this data set's shape with labels of its classes."""
        images, labels = arrays
        shape = (n, *self.image_shape[1:], self.image_shape[0])
        if images.shape != shape or labels.shape != (n,):
            raise ValueError(f"images {images.shape} and labels {labels.shape} instead of {shape} and {(n,)}")
        if images.dtype != np.uint8 or labels.dtype != np.int64:
            raise ValueError(f"images of {images.dtype} and labels of {labels.dtype} instead of uint8 and int64")
        if labels.min() < 0 or labels.max() >= self.classes:
            raise ValueError(f"labels from {labels.min()} to {labels.max()} for {self.classes} classes")

    def _check_memory(self, device: torch.device) -> None:
        """Raise DatasetError unless the free memory holds all images and a copy of the chosen ones."""
        total, chosen = self.available + self.test_images, self.train_images or self.available
        needs = [("this machine", total + chosen, memory.free())]
        if device.type == "cuda":
            needs.append(("the GPU", chosen + self.test_images, torch.cuda.mem_get_info(device)[0]))
        for place, images, free in needs:
            if (needed := images * math.prod(self.image_shape)) > free:
                raise DatasetError(
                    f"dataset: {type(self).__name__} has {total:,} images of {'×'.join(map(str, self.image_shape))}, "
                    f"which need {needed / GIB:.3g} GiB of memory, but {place} has {free / GIB:.3g} GiB left: free "
                    "some, ask Slurm for more (hydra.launcher.mem_gb), or use fewer or smaller images"
                )


def relative_to(path: str) -> str:
    """Return the end of a message about a missing path: the folder that a relative path starts from, or nothing."""
    return "" if Path(path).is_absolute() else f"; the path is relative to the current folder, {Path.cwd()}"


@component
class Digits(Dataset):
    """scikit-learn's 1,797 scanned digits of 8×8 pixels and 17 grey levels, which need no download.

    A fixed, stratified fifth of them is the test set.
    """

    image_shape = (1, 8, 8)
    available = 1437
    test_images = 360
    padding = 1

    def read(self) -> tuple[Arrays, Arrays]:
        spec = importlib.util.find_spec("sklearn")  # whose load_digits reads the same file, after 1 s of imports
        if spec is None or spec.origin is None:
            raise DatasetError("sklearn is not installed")
        file = Path(spec.origin).with_name("datasets") / "data/digits.csv.gz"
        try:
            table = np.loadtxt(file, np.uint8, delimiter=",")
        except (OSError, ValueError) as error:
            raise DatasetError(f"can't read scikit-learn's digits: {error}; install scikit-learn again") from error
        images, labels = table[:, :-1].reshape(-1, 8, 8, 1), table[:, -1].astype(np.int64)
        train, test = stratified_split(labels, 360, seed=0)
        return (images[train], labels[train]), (images[test], labels[test])


@component
class Torchvision(Dataset):
    """A data set that torchvision reads, and downloads if it is missing.

    root: the folder of the data set. It may be read-only if nothing has to be downloaded.
    download: download the data set if it is missing.
    """

    root: str = "data"
    download: bool = True
    test_images = 10_000
    reader: ClassVar[str]  # the name of the class in torchvision.datasets
    digests: ClassVar[tuple[str, ...]] = ()  # checksums of the training and the test images, if torchvision has none

    @model_validator(mode="after")
    def _root_is_a_folder(self) -> Self:
        if not self.root.strip() or not self.root.isprintable():
            raise ValueError(f"root={self.root!r} is not the name of a folder")
        return self

    def read(self) -> tuple[Arrays, Arrays]:
        raw = Path(self.root, self.reader, "raw").expanduser()
        missing = [folder for folder in (raw, *raw.parents) if not os.path.exists(folder)]  # made before a download
        try:
            train, test = (self._read_part(train) for train in (True, False))
            self._check_arrays(train, self.available)
            self._check_arrays(test, self.test_images)
            for arrays, digest in zip((train, test), self.digests, strict=False):
                if hashlib.sha256(arrays[0].tobytes() + arrays[1].tobytes()).hexdigest()[:16] != digest:
                    raise ValueError("the checksum of its images and labels is wrong")
        except Exception as error:  # torchvision passes on any error of its reader or the network
            for folder in missing:
                with contextlib.suppress(OSError):  # it was not made, or is not empty
                    folder.rmdir()
            hint = "" if self.download else "; dataset.download=true would fetch it"
            reason = f"can't read {self.reader}: {first_line(error)}{hint}"
            raise DatasetError(f"dataset.root={self.root}: {reason}") from error
        return train, test

    def _read_part(self, train: bool) -> Arrays:
        """Return the training or the test images, as torchvision reads them."""
        import torchvision

        reader = getattr(torchvision.datasets, self.reader)
        return self._arrays(reader(self.root, **self._part(train), download=self.download))

    def _part(self, train: bool) -> dict[str, bool | str]:
        """Return the arguments with which torchvision reads the training or the test images."""
        return {"train": train}

    def _arrays(self, dataset: Any) -> Arrays:
        """Return the images and labels of torchvision's data set."""
        images = np.ascontiguousarray(dataset.data, dtype=np.uint8)
        return images.reshape(*images.shape[:3], -1), np.asarray(dataset.targets, dtype=np.int64)


@component
class MNIST(Torchvision):
    """60,000 training and 10,000 test images of handwritten digits (LeCun et al. 1998)."""

    image_shape = (1, 28, 28)
    available = 60_000
    reader = "MNIST"
    digests = ("d18cfd466eb143ac", "a0863a96c44e5666")


@component
class FashionMNIST(Torchvision):
    """60,000 training and 10,000 test images of clothes (Xiao et al. 2017)."""

    image_shape = (1, 28, 28)
    available = 60_000
    mirror = True
    reader = "FashionMNIST"


@component
class KMNIST(Torchvision):
    """60,000 training and 10,000 test images of handwritten Japanese characters (Clanuwat et al. 2018)."""

    image_shape = (1, 28, 28)
    available = 60_000
    reader = "KMNIST"


@component
class EMNIST(Torchvision):
    """28×28 pixels of handwritten letters and digits (Cohen et al. 2017), transposed, as they are in the files.

    split: `balanced` (47 classes), `byclass` (62, of unequal sizes), `bymerge` (47, of unequal sizes), `digits` (10),
        `letters` (26) or `mnist` (10).
    """

    split: Literal["balanced", "byclass", "bymerge", "digits", "letters", "mnist"] = "balanced"

    image_shape = (1, 28, 28)
    reader = "EMNIST"
    sizes: ClassVar[dict[str, tuple[int, int, int]]] = {  # training images, test images, classes
        "balanced": (112_800, 18_800, 47),
        "byclass": (697_932, 116_323, 62),
        "bymerge": (697_932, 116_323, 47),
        "digits": (240_000, 40_000, 10),
        "letters": (124_800, 20_800, 26),
        "mnist": (60_000, 10_000, 10),
    }

    @property
    def available(self) -> int:  # type: ignore[override]
        return self.sizes[self.split][0]

    @property
    def test_images(self) -> int:  # type: ignore[override]
        return self.sizes[self.split][1]

    @property
    def classes(self) -> int:  # type: ignore[override]
        return self.sizes[self.split][2]

    def _part(self, train: bool) -> dict[str, bool | str]:
        return {"split": self.split, "train": train}

    def _arrays(self, dataset: Any) -> Arrays:
        images, labels = super()._arrays(dataset)
        return images, labels - 1 if self.split == "letters" else labels  # a is 1 in the file


@component
class SVHN(Torchvision):
    """73,257 training and 26,032 test images: colour photographs of digits in house numbers (Netzer et al. 2011)."""

    image_shape = (3, 32, 32)
    available = 73_257
    test_images = 26_032
    reader = "SVHN"

    def _part(self, train: bool) -> dict[str, bool | str]:
        return {"split": "train" if train else "test"}

    def _arrays(self, dataset: Any) -> Arrays:
        images = np.ascontiguousarray(dataset.data.transpose(0, 2, 3, 1), dtype=np.uint8)
        return images, np.asarray(dataset.labels, dtype=np.int64)


@component
class STL10(SVHN):
    """5,000 training and 8,000 test images: colour photographs of 96×96 pixels in 10 classes (Coates et al. 2011).

    The download has 2.6 GB, because it also has 100,000 images without labels, which are not used.
    """

    image_shape = (3, 96, 96)
    available = 5_000
    test_images = 8_000
    padding = 12
    mirror = True
    reader = "STL10"


@component
class CIFAR10(Torchvision):
    """50,000 training and 10,000 test images: colour photographs in 10 classes (Krizhevsky 2009)."""

    image_shape = (3, 32, 32)
    available = 50_000
    mirror = True
    reader = "CIFAR10"


@component
class CIFAR100(CIFAR10):
    """50,000 training and 10,000 test images: colour photographs in 100 classes (Krizhevsky 2009)."""

    classes = 100
    reader = "CIFAR100"

"""A data set in a file of numpy arrays."""

import functools
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from distancing.component import component
from distancing.data.datasets import Arrays, Dataset, relative_to
from distancing.errors import DatasetError, first_line

ZIP = b"PK\3\4"  # the first bytes of a zip file
COLOURS = (1, 3)  # the channels of most images


class Part(NamedTuple):
    """The shape [N, H, W, C] of the images of a split, and their labels [N]."""

    shape: tuple[int, int, int, int]
    labels: NDArray[np.int64]


@component
class Npz(Dataset):
    """The arrays x_train, y_train, x_test and y_test of an .npz file.

    Images are uint8 [N, H, W] or [N, H, W, C]. Labels are integers [N] from 0, and each class has training images. The
    number of classes is the largest training label plus one. Random crops are padded with an eighth of the height.
    Mirror images are not used.

    path: the file.
    """

    path: str

    @property
    def image_shape(self) -> tuple[int, int, int]:  # type: ignore[override]
        _, height, width, channels = self._parts[0].shape
        return channels, height, width

    @property
    def classes(self) -> int:  # type: ignore[override]
        return int(self._parts[0].labels.max()) + 1

    @property
    def available(self) -> int:  # type: ignore[override]
        return self._parts[0].shape[0]

    @property
    def test_images(self) -> int:  # type: ignore[override]
        return self._parts[1].shape[0]

    @property
    def padding(self) -> int:  # type: ignore[override]
        return max(1, self.image_shape[1] // 8)

    @property
    def _parts(self) -> tuple[Part, Part]:
        with _errors_named(self.path):
            file = os.stat(self.path)
            return _parts(self.path, file.st_mtime_ns, file.st_size)

    def read(self) -> tuple[Arrays, Arrays]:
        train, test = self._parts
        with _errors_named(self.path), np.load(self.path, allow_pickle=False) as arrays:
            x_train, x_test = (
                np.ascontiguousarray(arrays[f"x_{name}"].reshape(part.shape))
                for name, part in (("train", train), ("test", test))
            )
        return (x_train, train.labels), (x_test, test.labels)


@contextmanager
def _errors_named(path: str) -> Iterator[None]:
    """Turn the errors of a wrong or damaged file into a DatasetError that names it."""
    try:
        yield
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        hint = relative_to(path) if isinstance(error, FileNotFoundError) else ""
        raise DatasetError(f"dataset.path={path}: {first_line(error)}{hint}") from error


@functools.lru_cache(maxsize=1)
def _parts(path: str, modified: int, size: int) -> tuple[Part, Part]:  # noqa: ARG001  # part of the cache's key
    """Return the shapes and labels of the training and the test images, without reading the images.

    Raise ValueError for arrays that do not fit.
    """
    if os.path.isdir(path):
        raise ValueError("this is a folder, which dataset=folder reads")
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:
            if file.read(4) == ZIP:
                raise ValueError("the file is damaged: its end is missing; write or copy it again")
        raise ValueError("this is no .npz file; numpy.savez(file, x_train=…, y_train=…, x_test=…, y_test=…) writes one")
    with np.load(path, allow_pickle=False) as arrays:
        train, test = (_part(arrays, name) for name in ("train", "test"))
    if train.shape[1:] != test.shape[1:]:
        raise ValueError(f"training images are {train.shape[1:]}, but test images are {test.shape[1:]}")
    if test.labels.max() > train.labels.max():
        raise ValueError(f"y_test has the class {test.labels.max()}, but y_train ends with {train.labels.max()}")
    if train.labels.max() >= len(train.labels):
        raise ValueError(f"y_train has the class {train.labels.max()} for {len(train.labels)} images: number from 0")
    counts = np.bincount(train.labels)
    if not counts.all():
        missing, largest = counts.argmin(), len(counts) - 1
        raise ValueError(f"y_train has no image of class {missing}, but of {largest}: number the classes from 0")
    return train, test


def _part(arrays: "np.lib.npyio.NpzFile", name: str) -> Part:
    """Return the shape of the images and their labels. Raise ValueError for arrays of wrong types or shapes."""
    shape, dtype = _header(arrays, f"x_{name}")
    if dtype != np.uint8 or len(shape) not in (3, 4) or 0 in shape:
        raise ValueError(f"x_{name} is {dtype} {list(shape)}; uint8 [N, H, W] or [N, H, W, C] is needed")
    if len(shape) == 4 and shape[1] in COLOURS and shape[3] not in COLOURS:
        raise ValueError(f"x_{name} is {list(shape)}, but channels come last: store x.transpose(0, 2, 3, 1)")
    labels_shape, labels_dtype = _header(arrays, f"y_{name}")
    if labels_shape != shape[:1] or labels_dtype.kind not in "iu":
        raise ValueError(f"y_{name} is {labels_dtype} {list(labels_shape)}; {shape[0]} integers from 0 are needed")
    labels = arrays[f"y_{name}"]
    if labels.min() < 0:
        raise ValueError(f"y_{name} has the class {labels.min()}; classes are integers from 0")
    n, height, width, channels = (*shape, 1)[:4]
    return Part((n, height, width, channels), labels.astype(np.int64))


def _header(arrays: "np.lib.npyio.NpzFile", name: str) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    """Return the shape and the type of an array in the file."""
    if name not in arrays.files or arrays.zip is None:
        raise ValueError(f"the file has {', '.join(arrays.files)}, but no {name}")
    with arrays.zip.open(f"{name}.npy") as file:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(file)
    return shape, dtype

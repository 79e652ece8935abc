"""A data set in a file of numpy arrays."""

import functools
import os
import zipfile
import zlib

import numpy as np
from numpy.typing import NDArray

from distancing.component import component
from distancing.data.datasets import Arrays, Dataset
from distancing.errors import DatasetError


@component
class Npz(Dataset):
    """The arrays x_train, y_train, x_test and y_test of an .npz file.

    Images are uint8 [N, H, W] or [N, H, W, C]; labels are integers [N] from 0. There are as many classes as the largest
    training label says. Random crops are padded with an eighth of the height. Mirror images are not used.

    path: the file.
    """

    path: str

    @property
    def image_shape(self) -> tuple[int, int, int]:  # type: ignore[override]
        height, width, channels = self.read()[0][0].shape[1:]
        return channels, height, width

    @property
    def classes(self) -> int:  # type: ignore[override]
        return int(self.read()[0][1].max()) + 1

    @property
    def available(self) -> int:  # type: ignore[override]
        return len(self.read()[0][1])

    @property
    def padding(self) -> int:  # type: ignore[override]
        return max(1, self.image_shape[1] // 8)

    def read(self) -> tuple[Arrays, Arrays]:
        try:
            file = os.stat(self.path)
            return _read(self.path, file.st_mtime_ns, file.st_size)
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise DatasetError(f"dataset.path={self.path}: {reason}") from error


@functools.lru_cache(maxsize=1)
def _read(path: str, modified: int, size: int) -> tuple[Arrays, Arrays]:  # noqa: ARG001  # part of the cache's key
    with np.load(path, allow_pickle=False) as arrays:
        if not isinstance(arrays, np.lib.npyio.NpzFile):
            raise ValueError("this is one array; an .npz file with x_train, y_train, x_test, y_test belongs here")
        train, test = (_part(arrays[f"x_{part}"], arrays[f"y_{part}"], part) for part in ("train", "test"))
    if train[0].shape[1:] != test[0].shape[1:]:
        raise ValueError(f"training images are {train[0].shape[1:]}, but test images are {test[0].shape[1:]}")
    if test[1].max() > train[1].max():
        raise ValueError(f"y_test has the class {test[1].max()}, but y_train ends with {train[1].max()}")
    return train, test


def _part(images: NDArray[np.uint8], labels: NDArray[np.int64], part: str) -> Arrays:
    """Return images [N, H, W, C] and labels [N] of the right types. Raise ValueError for others."""
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or 0 in images.shape:
        raise ValueError(f"x_{part} is {images.dtype} {list(images.shape)}; uint8 [N, H, W] or [N, H, W, C] is needed")
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise ValueError(f"y_{part} is {labels.dtype} {list(labels.shape)}; {len(images)} integers from 0 are needed")
    return np.ascontiguousarray(images.reshape(*images.shape[:3], -1)), labels.astype(np.int64)

"""A data set of image files in class folders."""

import functools
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pydantic import PositiveInt

from distancing.component import component
from distancing.data.datasets import Arrays, Dataset
from distancing.errors import DatasetError

FORMATS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
FEWEST = 2  # images of a class


@component
class Folder(Dataset):
    """The images in `path`/train/CLASS and `path`/test/CLASS. The classes are numbered in the order of their names.

    Each image is resized to `image_size` × `image_size` pixels once, and kept as uint8. Random crops are padded with an
    eighth of that.

    path: the folder.
    image_size (pixels): the height and the width of the resized images.
    colours: `rgb`, or `grey` for one channel.
    """

    path: str
    image_size: PositiveInt = 32
    colours: Literal["rgb", "grey"] = "rgb"

    @property
    def image_shape(self) -> tuple[int, int, int]:  # type: ignore[override]
        return (3 if self.colours == "rgb" else 1), self.image_size, self.image_size

    @property
    def classes(self) -> int:  # type: ignore[override]
        return len(_files(self.path, "train"))

    @property
    def available(self) -> int:  # type: ignore[override]
        return sum(map(len, _files(self.path, "train").values()))

    @property
    def padding(self) -> int:  # type: ignore[override]
        return max(1, self.image_size // 8)

    def read(self) -> tuple[Arrays, Arrays]:
        train, test = (_files(self.path, part) for part in ("train", "test"))
        if other := test.keys() - train.keys():
            raise DatasetError(f"dataset.path={self.path}: test has the class {sorted(other)[0]}, which train has not")
        return self._arrays(train, list(train)), self._arrays(test, list(train))

    def _arrays(self, files: dict[str, list[Path]], names: list[str]) -> Arrays:
        images = [self._image(file) for name in names for file in files.get(name, [])]
        labels = [label for label, name in enumerate(names) for _ in files.get(name, [])]
        return np.stack(images), np.asarray(labels, dtype=np.int64)

    def _image(self, file: Path) -> NDArray[np.uint8]:
        """Return an image [H, W, C]. Raise DatasetError if it cannot be read."""
        try:
            with Image.open(file) as image:
                pixels = image.convert("RGB" if self.colours == "rgb" else "L")
                resized = pixels.resize((self.image_size, self.image_size), Image.Resampling.BILINEAR)
        except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise DatasetError(f"can't read the image {file}: {(str(error).splitlines() or ['?'])[0]}") from error
        return np.asarray(resized, dtype=np.uint8).reshape(self.image_size, self.image_size, -1)


@functools.lru_cache(maxsize=8)
def _files(path: str, part: str) -> dict[str, list[Path]]:
    """Return the image files of each class, sorted. Raise DatasetError if there are too few."""
    folder = Path(path) / part
    classes = sorted(child for child in folder.iterdir() if child.is_dir()) if folder.is_dir() else []
    files = {c.name: sorted(file for file in c.iterdir() if file.suffix.lower() in FORMATS) for c in classes}
    if part == "train" and (len(files) < FEWEST or min(map(len, files.values())) < FEWEST):
        counts = ", ".join(f"{name}: {len(images)}" for name, images in files.items()) or "none"
        raise DatasetError(f"{folder} needs two or more class folders with two or more images each, but has {counts}")
    if not any(files.values()):
        raise DatasetError(f"{folder} has no images in class folders")
    return files

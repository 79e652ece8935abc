"""A data set of image files in class folders."""

import functools
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from annotated_types import Gt, Lt
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import PositiveInt

from distancing.component import component
from distancing.data.datasets import Arrays, Dataset, relative_to
from distancing.data.draws import stratified_split
from distancing.errors import DatasetError, first_line

FORMATS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
FEWEST = 2  # images of a class
Files = dict[str, list[Path]]  # by class


@component
class Folder(Dataset):
    """The images in `path`/train/CLASS and `path`/test/CLASS, or in `path`/CLASS if `test_fraction` is given.

    The classes are numbered in the order of their names.

    Each image is turned upright as its EXIF orientation says, resized to `image_size` × `image_size` pixels once, and
    kept as uint8. Images whose transparency varies, and images in a folder below that of their class, are refused.
    Random crops are padded with an eighth of that.

    path: the folder.
    test_fraction: use this fraction of the images in `path`/CLASS as test images. The draw is stratified, with `seed`,
        and each class has at least one training and one test image.
    image_size (pixels): the height and the width of the resized images.
    colours: `rgb`, or `grey` for one channel.
    """

    path: str
    test_fraction: Annotated[float, Gt(0), Lt(1)] | None = None
    image_size: PositiveInt = 32
    colours: Literal["rgb", "grey"] = "rgb"

    @property
    def image_shape(self) -> tuple[int, int, int]:  # type: ignore[override]
        return (3 if self.colours == "rgb" else 1), self.image_size, self.image_size

    @property
    def classes(self) -> int:  # type: ignore[override]
        return len(self._parts[0])

    @property
    def available(self) -> int:  # type: ignore[override]
        return sum(map(len, self._parts[0].values()))

    @property
    def test_images(self) -> int:  # type: ignore[override]
        return sum(map(len, self._parts[1].values()))

    @property
    def padding(self) -> int:  # type: ignore[override]
        return max(1, self.image_size // 8)

    @property
    def _parts(self) -> tuple[Files, Files]:
        """The training and the test files of each class."""
        if self.test_fraction is None:
            return _files(self.path, "train"), _files(self.path, "test")
        return _divided(self.path, self.test_fraction, self.seed)

    def read(self) -> tuple[Arrays, Arrays]:
        train, test = self._parts
        if other := test.keys() - train.keys():
            raise DatasetError(f"dataset.path={self.path}: test has the class {sorted(other)[0]}, which train lacks")
        return self._arrays(train, list(train)), self._arrays(test, list(train))

    def _arrays(self, files: Files, names: list[str]) -> Arrays:
        images = [self._image(file) for name in names for file in files.get(name, [])]
        labels = [label for label, name in enumerate(names) for _ in files.get(name, [])]
        return np.stack(images), np.asarray(labels, dtype=np.int64)

    def _image(self, file: Path) -> NDArray[np.uint8]:
        """Return an image [H, W, C]. Raise DatasetError if it cannot be read."""
        try:
            with Image.open(file) as image:
                if image.mode.startswith(("I", "F")):  # which `convert` would clip at 255
                    raise ValueError(f"it has more than 8 bits a channel (mode {image.mode}): convert it to 8 bits")
                if _varies_in_transparency(image):  # which `convert` would drop
                    raise ValueError("its transparency varies: lay it on a background, such as white")
                pixels = ImageOps.exif_transpose(image).convert("RGB" if self.colours == "rgb" else "L")
                resized = pixels.resize((self.image_size, self.image_size), Image.Resampling.BILINEAR)
        except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise DatasetError(f"can't read the image {file}: {first_line(error)}") from error
        return np.asarray(resized, dtype=np.uint8).reshape(self.image_size, self.image_size, -1)


@functools.lru_cache(maxsize=8)
def _files(path: str, part: str) -> Files:
    """Return the image files of each class, sorted.

    Raise DatasetError if there are too few, or if some are in a folder below that of their class.
    """
    if not Path(path).is_dir():
        what, hint = ("is a file", "") if Path(path).exists() else ("does not exist", relative_to(path))
        raise DatasetError(f"dataset.path={path} {what}; a folder with train/CLASS and test/CLASS is needed{hint}")
    folder = Path(path) / part
    files = _class_folders(folder)
    if part != "test" and (len(files) < FEWEST or min(map(len, files.values())) < FEWEST):
        counts = ", ".join(f"{name}: {len(images)}" for name, images in files.items()) or "none"
        one_folder = part == "train" and not folder.exists() and any(_class_folders(Path(path)).values())
        hint = f"; dataset.test_fraction=0.2 would divide the images in {path}/CLASS" if one_folder else ""
        raise DatasetError(
            f"{folder} needs two or more class folders with two or more images each, but has {counts}{hint}"
        )
    if not any(files.values()):
        raise DatasetError(f"{folder} has no images in class folders")
    for name in files:
        for file in (folder / name).glob("[!.]*/**/*"):
            if file.suffix.lower() in FORMATS:
                raise DatasetError(f"{file} is in a folder below its class: move it to {folder / name}")
    return files


def _varies_in_transparency(image: Image.Image) -> bool:
    if "A" not in image.getbands() and "transparency" not in image.info:
        return False
    least, largest = image.convert("RGBA").getchannel("A").getextrema()
    return least != largest


def _class_folders(folder: Path) -> Files:
    """Return the image files in each folder of a folder, sorted. Hidden files and folders do not count."""
    classes = sorted(child for child in folder.iterdir() if child.is_dir()) if folder.is_dir() else []
    shown = [child for child in classes if not child.name.startswith(".")]
    return {c.name: sorted(file for file in c.glob("[!.]*") if file.suffix.lower() in FORMATS) for c in shown}


@functools.lru_cache(maxsize=8)
def _divided(path: str, fraction: float, seed: int) -> tuple[Files, Files]:
    """Return the training and the test files of one folder of class folders, drawn with this seed.

    Raise DatasetError if a part would have fewer images than classes.
    """
    if {"train", "test"} <= (files := _files(path, "")).keys():
        raise DatasetError(f"dataset.test_fraction={fraction}: {path} has train/ and test/ already: leave it out")
    pairs = [(name, file) for name, images in files.items() for file in images]
    n = round(fraction * len(pairs))
    if min(n, len(pairs) - n) < len(files):
        raise DatasetError(
            f"dataset.test_fraction={fraction} divides the images in {path} into {len(pairs) - n} and {n}: "
            f"fewer than one for each of {len(files)} classes"
        )
    names = list(files)
    parts = stratified_split(np.array([names.index(name) for name, _ in pairs]), n, seed)
    train: Files = {name: [] for name in names}
    test: Files = {name: [] for name in names}
    for chosen, part in zip((train, test), parts, strict=True):
        for i in part:
            name, file = pairs[i]
            chosen[name].append(file)
    for name in names:
        for one, other in ((train, test), (test, train)):
            if not one[name]:  # a share of a small class that was rounded to 0
                one[name].append(other[name].pop())
    train, test = ({name: sorted(chosen) for name, chosen in part.items()} for part in (train, test))
    return train, test

"""An ensemble under the corruptions of Hendrycks & Dietterich (2019), at five severities.

The images are those of CIFAR-10-C's files, or of files in the same layout: NAME.npy has the corrupted test images of
severity 1, then those of severity 2, …, 5, in the order of the test images, uint8 [5N, H, W, C]; labels.npy has the
labels [5N]. Without files, imagecorruptions makes them from the test images; `make` stores them. Its strengths are
those of ImageNet-C, which are harsher on small images than those of CIFAR-10-C. Images of 28×28 pixels get a border for
this, and grey images are corrupted as colour ones.
"""

import dataclasses
import importlib
import io
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distancing.data.batches import Split
from distancing.data.datasets import CIFAR10, CIFAR100, Dataset
from distancing.ensemble import scores
from distancing.ensemble.calibration import scores_at, temperatures
from distancing.errors import EnsembleError, first_line
from distancing.runs import write
from distancing.runs.ensemble import CorruptedScores, CorruptionsResult
from distancing.stored import Checkpoint, evaluation_images

COMMON = ("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur",
          "snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate",
          "jpeg_compression")  # fmt: skip
FURTHER = ("speckle_noise", "gaussian_blur", "spatter", "saturate")  # for choices of hyperparameters, and in no mean
SEVERITIES = (1, 2, 3, 4, 5)
FOLDERS: dict[type[Dataset], str] = {CIFAR10: "CIFAR-10-C", CIFAR100: "CIFAR-100-C"}
SMALLEST = 28  # pixels of a side, of images whose corruptions are made
BORDERED = 32  # pixels of a side that imagecorruptions needs; smaller images get a border
ORIGIN = "origin.txt"  # in a folder whose files `make` made
SCORES = tuple(field.name for field in dataclasses.fields(CorruptedScores))
Images = NDArray[np.uint8]


def source(choice: str, dataset: Dataset, option: str = "--corruptions") -> Path | None:
    """Return the folder with corrupted test images of the data set, or None if they have to be made.

    choice: a folder; or `auto`, which takes CIFAR-10-C or CIFAR-100-C in the folder of the data set if it is there.
    option: what the user wrote, for messages. Raise EnsembleError for files that are missing or do not fit, and if
    images can't be made.
    """
    folder = Path(choice)
    if choice == "auto":
        name, root = FOLDERS.get(type(dataset)), getattr(dataset, "root", "")
        if not name or not (folder := Path(root, name)).is_dir():
            _check_made(dataset, option)
            return None
    _check_files(folder, dataset, f"{option}={choice}")
    return folder


def make(folder: Path, dataset: Dataset, track: Callable[..., Iterable[str]]) -> None:
    """Make the files that the folder lacks. Wait for another process that makes them.

    Raise EnsembleError if images can't be made, or if the folder has files that were not made here: their strengths are
    others.
    track: (names, description, total) → the names, with a progress bar.
    """
    option = f"--make-corruptions {folder}"
    if _missing(folder):
        _check_made(dataset, option)
    if any(folder.glob("[!.]*")) and not (folder / ORIGIN).exists():
        raise EnsembleError(f"{option}: the files there were not made by this command: name a new folder")
    _, (clean, labels) = dataset.read()
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / ".lock"):
        write(folder / ORIGIN, b"Made from the test images by imagecorruptions, with the strengths of ImageNet-C.\n")
        missing = _missing(folder)
        for name in track(missing, "corruptions", len(missing)):
            _save(folder / f"{name}.npy", np.concatenate([made(name, severity, clean) for severity in SEVERITIES]))
        _save(folder / "labels.npy", np.tile(labels, len(SEVERITIES)))


def _missing(folder: Path) -> list[str]:
    return [name for name in (*COMMON, *FURTHER) if not (folder / f"{name}.npy").exists()]


def _save(file: Path, array: NDArray[Any]) -> None:
    content = io.BytesIO()
    np.save(content, array)
    write(file, content.getvalue())


def _check_made(dataset: Dataset, option: str) -> None:
    """Raise EnsembleError unless imagecorruptions can be imported and takes the images of the data set."""
    channels, *size = dataset.image_shape
    files = "give a folder with files like those of CIFAR-10-C"
    if channels not in (1, 3) or min(size) < SMALLEST:
        shape = "×".join(map(str, dataset.image_shape))
        raise EnsembleError(
            f"{option}: images of {shape} (channels, height, width) can't be corrupted here, which needs 1 or 3 "
            f"channels and {SMALLEST}×{SMALLEST} pixels or more: {files}"
        )
    try:
        importlib.import_module("imagecorruptions")
    except ImportError as error:  # also of a library of the system, such as libGL.so.1, which OpenCV needs
        raise EnsembleError(
            f"{option}: {first_line(error)}: pip install 'distancing[corruptions]', or {files}"
        ) from error


def _check_files(folder: Path, dataset: Dataset, option: str) -> None:
    """Raise EnsembleError unless the folder has the 15 corruptions of the data set's test images, and their labels."""
    _, (images, labels) = dataset.read()
    n = len(SEVERITIES) * len(labels)
    for name in ("labels", *COMMON, *_further(folder)):
        array = _open(folder / f"{name}.npy", option)
        wanted = (n,) if name == "labels" else (n, *images.shape[1:])
        if array.shape not in (wanted, wanted[:-1] if wanted[-1] == 1 else wanted):
            raise EnsembleError(
                f"{option}: {name}.npy is {list(array.shape)}, and {list(wanted)} belongs there: five severities of "
                "each test image"
            )
        if name == "labels" and not (array.reshape(len(SEVERITIES), -1) == labels).all():
            raise EnsembleError(
                f"{option}: labels.npy has other labels than the test images in their order, five times"
            )
        if name != "labels" and array.dtype != np.uint8:
            raise EnsembleError(f"{option}: {name}.npy is {array.dtype}, and uint8 belongs there")


def _further(folder: Path) -> list[str]:
    return [name for name in FURTHER if (folder / f"{name}.npy").exists()]


def _open(file: Path, option: str) -> NDArray[Any]:
    """Return the array in a file, without reading it. Raise EnsembleError if there is none."""
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError("it is not an .npy file")
    except (OSError, ValueError, EOFError) as error:
        raise EnsembleError(f"{option}: can't read {file}: {error}") from error
    return array


def corrupted(folder: Path | None, name: str, severity: int, clean: Images) -> Images:
    """Return the corrupted test images [N, H, W, C] of a folder; without one, make them. clean: the test images."""
    if folder is None:
        return made(name, severity, clean)
    n = len(clean)
    array = _open(folder / f"{name}.npy", str(folder))
    return np.array(array[(severity - 1) * n : severity * n]).reshape(clean.shape)


def made(name: str, severity: int, clean: Images) -> Images:
    """Return corrupted images. The seed of each is the number of the corruption, the severity and its own number.

    clean: uint8 [N, H, W, C] with 1 or 3 channels. Of a grey image, the first channel of the corrupted colour image is
    taken: an average of the three would weaken their noise.
    """
    from imagecorruptions import corrupt

    number = (*COMMON, *FURTHER).index(name)
    images = np.empty_like(clean)
    _, height, width, channels = clean.shape
    missing = [max(0, BORDERED - side) for side in (height, width)]
    (top, _), (left, _), _ = border = *((n // 2, n - n // 2) for n in missing), (0, 0)
    with _numpy_state_kept():
        for i, image in enumerate(clean):
            np.random.seed([number, severity, i])
            own = {"seed": int(np.random.randint(2**31))} if name in ("impulse_noise", "glass_blur") else {}
            bordered = corrupt(np.pad(image, border, mode="edge"), severity, name, **own)
            images[i] = bordered[top : top + height, left : left + width, :channels]
    return images


@contextmanager
def _numpy_state_kept() -> Iterator[None]:
    """Restore NumPy's global generator, from which imagecorruptions draws, afterwards."""
    state = np.random.get_state()
    try:
        yield
    finally:
        np.random.set_state(state)


def judge_corruptions(
    members: Sequence[Checkpoint],
    folder: Path | None,
    device: torch.device,
    weights: Sequence[float],
    refresh: bool = False,
) -> CorruptionsResult:
    """Return the scores of the ensemble under each corruption.

    folder: what `source` returns. The images of one corruption and severity are in memory at a time, and all networks.
    """
    common = evaluation_images(members[0].config, device)
    predictors = [member.predictor(common, device, refresh) for member in members]
    w, labels = torch.tensor(weights, dtype=torch.float64), common.test.labels.cpu()

    def average(split: Split) -> Tensor:
        return scores.average(scores.probabilities(torch.stack([predict(split) for predict in predictors])), w)

    validation = (average(common.validation), common.validation.labels.cpu()) if common.validation else None
    q = average(common.test)
    known = temperatures((q, labels), validation)

    def score(prediction: Tensor) -> CorruptedScores:
        calibrated = scores_at(known, prediction, labels)
        return CorruptedScores(
            error=1 - scores.accuracy(prediction, labels),
            nll=scores.negative_log_likelihood(prediction, labels),
            ece=scores.expected_calibration_error(prediction, labels),
            calibrated_nll=calibrated["calibrated_nll"],
            calibrated_ece=calibrated["calibrated_ece"],
        )

    def on(name: str, severity: int) -> CorruptedScores:
        images = torch.from_numpy(corrupted(folder, name, severity, clean)).to(device)
        return score(average(Split(images, common.test.labels)))

    clean = common.test.images.cpu().numpy()
    names = [*COMMON, *(FURTHER if folder is None else _further(folder))]
    by_name = {name: [on(name, severity) for severity in SEVERITIES] for name in names}
    means = [_mean([by_name[name][severity - 1] for name in COMMON]) for severity in SEVERITIES]
    return CorruptionsResult(
        source=None if folder is None else str(folder),
        temperature_from="validation" if validation else "halves",
        severity={str(severity): values for severity, values in enumerate([score(q), *means])},
        corruptions=by_name,
    )


def _mean(rows: Sequence[CorruptedScores]) -> CorruptedScores:
    return CorruptedScores(**{name: statistics.fmean(vars(row)[name] for row in rows) for name in SCORES})

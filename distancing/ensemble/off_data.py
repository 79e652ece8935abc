"""How well an ensemble tells images of another data set from the test images."""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distancing.config.checks import construct
from distancing.data import datasets
from distancing.data.batches import Split
from distancing.data.datasets import Dataset, Torchvision
from distancing.data.folder import Folder
from distancing.data.npz import Npz
from distancing.ensemble import scores
from distancing.errors import EnsembleError
from distancing.runs.ensemble import Detection, OodResult
from distancing.stored import Checkpoint, evaluation_images

SETS: dict[str, type[Dataset]] = {
    "cifar10": datasets.CIFAR10,
    "cifar100": datasets.CIFAR100,
    "digits": datasets.Digits,
    "emnist": datasets.EMNIST,
    "fashion_mnist": datasets.FashionMNIST,
    "kmnist": datasets.KMNIST,
    "mnist": datasets.MNIST,
    "stl10": datasets.STL10,
    "svhn": datasets.SVHN,
}
Images = NDArray[np.uint8]  # [N, H, W, C]


@dataclasses.dataclass(frozen=True)
class Uncertainties:
    """How uncertain an ensemble is of N images.

    measures: each measure of uncertainty of the ensemble [N], by its name.
    members: the entropy of each member's prediction [M, N].
    """

    measures: dict[str, Tensor]
    members: Tensor


def detection(test: Uncertainties, ood: Uncertainties, fingerprint: str | None = None) -> OodResult:
    """Return how well the ensemble and its members tell out-of-distribution images from test images.

    fingerprint: that of the out-of-distribution images.
    """
    by_measure = {name: _detection(values, ood.measures[name]) for name, values in test.measures.items()}
    members = [_detection(*entropies) for entropies in zip(test.members, ood.members, strict=True)]
    return OodResult(images=ood.members.shape[1], members=members, fingerprint=fingerprint, **by_measure)


def _detection(test: Tensor, ood: Tensor) -> Detection:
    """Return how well an uncertainty tells images, for which it is `ood` [K], from test images, `test` [N].

    All scores are NaN if one of the uncertainties is.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

    uncertainty, truth = torch.cat((test, ood)), [0] * len(test) + [1] * len(ood)
    if uncertainty.isnan().any():
        return Detection(auroc=math.nan, aupr=math.nan, fpr95=math.nan)
    false, true, _ = roc_curve(truth, uncertainty, drop_intermediate=False)
    return Detection(
        auroc=float(roc_auc_score(truth, uncertainty)),
        aupr=float(average_precision_score(truth, uncertainty)),
        fpr95=float(false[(true >= 0.95).argmax()]),
    )


def uncertainties(p: Tensor, weights: Tensor) -> Uncertainties:
    """Return the uncertainties of members with probabilities p [M, N, C]."""
    w = weights.to(p)
    q = scores.average(p, w)
    entropy, members = torch.special.entr(q).sum(1), torch.special.entr(p).sum(2)
    information = entropy - torch.einsum("m,mn->n", w / w.sum(), members)
    return Uncertainties(
        {"max_probability": 1 - q.amax(1), "entropy": entropy, "mutual_information": information}, members
    )


def fingerprint(images: Images) -> str:
    """Return a hash, 16 hexadecimal digits, of the images in their order."""
    return Split(torch.from_numpy(images), torch.zeros(0, dtype=torch.int64)).fingerprint


def is_changed(name: str, known: OodResult, own: Dataset) -> bool:
    """Return whether the file or the folder of this name has other images than were judged. Raise as `images_of`.

    False if it is gone, and for the name of a data set, whose images never change.
    """
    return Path(name).exists() and fingerprint(images_of([name], own, "evaluate.ood")[name]) != known.fingerprint


def images_of(names: Sequence[str], own: Dataset, option: str = "--ood") -> dict[str, Images]:
    """Return the test images of data sets: choices of `dataset`, .npz files or folders of images.

    Those of a name are in $DISTANCING_DATA, or else beside the images of `own`.
    option: what the user wrote, for messages. Raise EnsembleError for `own`, on which the networks were trained, images
    of another shape and unknown names; DatasetError for images that can't be read.
    """
    return {name: _dataset(name, own, f"{option}={name}").read()[1][0] for name in names}


def uncertainties_of(
    members: Sequence[Checkpoint],
    ood: Mapping[str, Images],
    device: torch.device,
    weights: Sequence[float],
    refresh: bool = False,
) -> tuple[Uncertainties, dict[str, Uncertainties]]:
    """Return the uncertainties of the test images, and those of the test images of each other data set.

    ood: the images [N, H, W, C] of each other data set.
    """
    common = evaluation_images(members[0].config, device)
    images = [torch.from_numpy(array).to(device) for array in ood.values()]
    splits = [common.test, *(Split(x, torch.zeros(len(x), dtype=torch.int64, device=device)) for x in images)]
    logits: list[list[Tensor]] = [[] for _ in splits]
    for member in members:  # one network at a time is in memory
        predict = member.predictor(common, device, refresh)
        for of_members, split in zip(logits, splits, strict=True):
            of_members.append(predict(split))
    w = torch.tensor(weights, dtype=torch.float64)
    test, *others = (uncertainties(scores.probabilities(torch.stack(of_members)), w) for of_members in logits)
    return test, dict(zip(ood, others, strict=True))


def _dataset(name: str, own: Dataset, option: str) -> Dataset:
    """Return the data set of this name. Raise EnsembleError if it can't be compared with `own`."""
    path = Path(name)
    settings: dict[str, Any] = {}
    if path.suffix == ".npz":
        cls: type = Npz
        settings = {"path": name}
    elif name and path.is_dir():
        cls = Folder
        channels, size, _ = own.image_shape
        settings = {"path": name, "image_size": size, "colours": "rgb" if channels == 3 else "grey"}
    elif name in SETS:
        cls = SETS[name]
        if issubclass(cls, Torchvision):
            beside = {"root": own.root, "download": own.download} if isinstance(own, Torchvision) else {}
            folder = os.environ.get("DISTANCING_DATA")
            settings = beside | ({"root": folder} if folder else {})
    else:
        raise EnsembleError(
            f"{option} is none of {', '.join(SETS)}, nor an .npz file, nor a folder with train/ and test/"
        )
    dataset: Dataset = construct(cls, settings, option)
    paths = {Path(getattr(known, "path", "")).resolve() for known in (own, dataset)}
    if type(dataset) is type(own) and len(paths) == 1:
        raise EnsembleError(f"{option} is the data set that the networks were trained on: choose another one")
    if dataset.image_shape != own.image_shape:
        shapes = ["×".join(map(str, shape)) for shape in (dataset.image_shape, own.image_shape)]
        raise EnsembleError(
            f"{option} has images of {shapes[0]} (channels, height, width), and the networks were trained on "
            f"{shapes[1]}: choose a set of this shape"
        )
    return dataset

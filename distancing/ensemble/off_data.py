"""How well an ensemble tells images of another data set from the test images."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from distancing.config.checks import construct
from distancing.data.batches import Split
from distancing.data.datasets import Dataset, Torchvision
from distancing.data.folder import Folder
from distancing.data.npz import Npz
from distancing.ensemble import scores
from distancing.errors import EnsembleError
from distancing.models.evaluation import predict, refresh_batch_norm
from distancing.runs.ensemble import Detection, OodResult
from distancing.stored import Checkpoint, evaluation_images


def detection(p: Tensor, p_ood: Tensor, weights: Tensor | None = None) -> OodResult:
    """Return how well each measure of uncertainty detects out-of-distribution images.

    p: the probabilities [M, N, C] of the test images. p_ood: those of the others [M, N', C].
    """
    from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

    truth = [0] * p.shape[1] + [1] * p_ood.shape[1]
    by_measure = {}
    for name, values in _uncertainties(torch.cat((p, p_ood), 1), weights).items():
        false, true, _ = roc_curve(truth, values, drop_intermediate=False)
        by_measure[name] = Detection(
            auroc=float(roc_auc_score(truth, values)),
            aupr=float(average_precision_score(truth, values)),
            fpr95=float(false[(true >= 0.95).argmax()]),
        )
    return OodResult(images=p_ood.shape[1], **by_measure)


def _uncertainties(p: Tensor, weights: Tensor | None) -> dict[str, Tensor]:
    """Return each measure of uncertainty [N]."""
    w = p.new_ones(len(p)) if weights is None else weights.to(p)
    q = scores.average(p, w)
    entropy = torch.special.entr(q).sum(1)
    of_members = torch.einsum("m,mn->n", w / w.sum(), torch.special.entr(p).sum(2))
    return {"max_probability": 1 - q.amax(1), "entropy": entropy, "mutual_information": entropy - of_members}


def data_sets(names: Sequence[str], own: Dataset) -> dict[str, Dataset]:
    """Return the data sets of these names: choices of `dataset`, .npz files or folders of images.

    Raise EnsembleError for `own`, on which the networks were trained, images of another shape and unknown names.
    """
    return {name: _dataset(name, own) for name in names}


def judge_ood(
    members: Sequence[Checkpoint],
    sets: Mapping[str, Dataset],
    device: torch.device,
    weights: Sequence[float],
    refresh: bool,
) -> dict[str, OodResult]:
    """Return the detection of the images of each data set.

    sets: the data sets, whose test images are taken. Raise DatasetError for images that can't be read.
    """
    own = members[0].config.dataset
    images = {name: torch.from_numpy(dataset.read()[1][0]).to(device) for name, dataset in sets.items()}
    splits = {name: Split(x, torch.zeros(len(x), dtype=torch.int64, device=device)) for name, x in images.items()}
    common = evaluation_images(members[0].config, device)
    logits: dict[str, list[Tensor]] = {name: [] for name in ("test", *splits)}
    for member in members:  # one network at a time is in memory
        data = evaluation_images(member.config, device) if own.folds else common
        network, autocast = member.network(device), member.config.autocast(device)
        if refresh:
            refresh_batch_norm(network, data, autocast)
        for name, split in {"test": common.test, **splits}.items():
            logits[name].append(predict(network, data, split, autocast))
    p = {name: scores.probabilities(torch.stack(of_members)) for name, of_members in logits.items()}
    w = torch.tensor(weights, dtype=torch.float64)
    return {name: detection(p["test"], p[name], w) for name in splits}


def _dataset(name: str, own: Dataset) -> Dataset:
    """Return the data set of this name. Raise EnsembleError if it can't be compared with `own`."""
    from distancing.config.project import CONF  # a copy of the code for a sweep has no configs

    known = {file.stem: yaml.safe_load(file.read_text(encoding="utf-8")) for file in (CONF / "dataset").glob("*.yaml")}
    path = Path(name)
    settings: dict[str, Any] = {}
    if path.suffix == ".npz":
        cls: type = Npz
        settings = {"path": name}
    elif path.is_dir():
        cls = Folder
        channels, size, _ = own.image_shape
        settings = {"path": name, "image_size": size, "colours": "rgb" if channels == 3 else "grey"}
    elif name in known and name not in ("npz", "folder"):
        module, _, target = known[name]["_target_"].rpartition(".")
        cls = getattr(importlib.import_module(module), target)
        if isinstance(own, Torchvision) and issubclass(cls, Torchvision):
            settings = {"root": own.root, "download": own.download}
    else:
        choices = ", ".join(sorted(known.keys() - {"npz", "folder"}))
        raise EnsembleError(f"--ood={name} is none of {choices}, nor an .npz file, nor a folder with train/ and test/")
    dataset: Dataset = construct(cls, settings, f"--ood={name}")
    if type(dataset) is type(own) and Path(getattr(own, "path", "")) == Path(getattr(dataset, "path", "")):
        raise EnsembleError(f"--ood={name} is the data set that the networks were trained on: choose another one")
    if dataset.image_shape != own.image_shape:
        shapes = ["×".join(map(str, shape)) for shape in (dataset.image_shape, own.image_shape)]
        raise EnsembleError(
            f"--ood={name} has images of {shapes[0]} (channels, height, width), and the networks were trained on "
            f"{shapes[1]}: choose a set of this shape"
        )
    return dataset

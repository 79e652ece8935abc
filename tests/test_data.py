"""The data pipeline against plain references: the images of each split and batch."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torchvision.transforms import functional as TF

from distancing.data.batches import Data, Epoch, Split, mean_std
from distancing.data.datasets import (
    CIFAR10,
    MNIST,
    Dataset,
    Digits,
    FashionMNIST,
    Torchvision,
    balanced,
    stratified_folds,
    stratified_split,
)  # fmt: skip
from distancing.errors import DatasetError


def numbered(n: int, padding: int = 0, flip: bool = False, size: int = 6, channels: int = 2) -> Data:
    """Return n random images whose labels are their numbers."""
    images = torch.randint(0, 256, (n, size, size, channels), dtype=torch.uint8)
    split, (mean, std) = Split(images, torch.arange(n)), mean_std(images)
    return Data(train=split, test=split, validation=None, mean=mean, std=std, padding=padding, flip=flip)


@given(
    n=st.integers(1, 60), batch=st.integers(1, 70), seed=st.integers(0, 9), epoch=st.integers(0, 9),
    first=st.integers(0, 5), padding=st.integers(0, 3),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_an_epoch_shows_every_image_once(n: int, batch: int, seed: int, epoch: int, first: int, padding: int) -> None:
    """Order and augmentation follow from (seed, epoch), whichever batch the iteration begins with."""
    data = numbered(n, padding, flip=padding > 1)
    whole = list(Epoch(data, batch, seed, epoch).batches())
    assert sorted(torch.cat([labels for _, labels in whole]).tolist()) == list(range(n))
    rest = list(Epoch(data, batch, seed, epoch).batches(first))
    assert len(rest) == max(0, len(whole) - first)
    for (a, b), (c, d) in zip(whole[first:], rest, strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)


@given(n=st.integers(1, 40), batches=st.integers(1, 9), fewer=st.integers(1, 50))
def test_parts_of_sorted_images_are_of_all_classes(n: int, batches: int, fewer: int) -> None:
    split = numbered(n).train
    parts = [part.labels.tolist() for part in split.divided(min(batches, n))]
    assert sorted(itertools.chain(*parts)) == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert all(b - a == len(parts) for part in parts for a, b in itertools.pairwise(part))
    some = split.spread(fewer)
    assert torch.equal(some.images, split.images[some.labels])
    chosen = some.labels.tolist()
    assert len(chosen) == min(n, fewer)
    gaps = [b - a for a, b in itertools.pairwise([*chosen, n + chosen[0]])]
    assert max(gaps) - min(gaps) <= 1


def test_other_seeds_and_epochs_have_other_orders() -> None:
    data = numbered(50)
    orders = {tuple(Epoch(data, 50, seed, epoch).order.tolist()) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_crops_and_mirror_images_are_torchvisions(memory_format: torch.memory_format) -> None:
    """Each image is one of its 2·(2·padding + 1)² crops and mirrored crops, and all of them occur."""
    data = numbered(300, padding=1, flip=True, size=5)
    data = dataclasses.replace(data, memory_format=memory_format)
    padded = TF.pad(data.train.images.permute(0, 3, 1, 2), [1])
    crops = torch.stack([
        TF.hflip(crop) if flip else crop
        for flip in (False, True) for top in range(3) for left in range(3)
        for crop in [TF.crop(padded, top, left, 5, 5)]
    ])  # fmt: skip
    candidates = (crops.float() - data.mean[:, None, None]) / data.std[:, None, None]
    (images, labels), = Epoch(data, 300, 0, 0).batches()  # fmt: skip
    assert images.is_contiguous(memory_format=memory_format)
    same = (images - candidates[:, labels]).abs().amax((2, 3, 4)) < 1e-5
    assert same.any(0).all()
    assert (same.sum(1) > 5).all()  # of 300/18 expected


def test_normalised_with_the_training_images() -> None:
    images = torch.randint(0, 200, (50, 7, 7, 3), dtype=torch.uint8)
    images[..., 2] = 9  # a channel that never varies is only centred
    mean, std = mean_std(images)
    expected = images.double().flatten(0, 2)
    torch.testing.assert_close(mean, expected.mean(0).float())
    torch.testing.assert_close(std[:2], expected.std(0, unbiased=False).float()[:2])
    split = Split(images, torch.zeros(50))
    pixels = Data(train=split, test=split, validation=None, mean=mean, std=std).normalise(images)
    assert pixels.mean((0, 2, 3)).abs().max() < 1e-5
    torch.testing.assert_close(pixels.var((0, 2, 3), unbiased=False), torch.tensor([1.0, 1.0, 0.0]))


@given(st.lists(st.integers(0, 4), min_size=5, max_size=80), st.data())
def test_balanced_subsets(labels: list[int], data: Any) -> None:
    n = data.draw(st.integers(1, len(labels)))
    chosen = balanced(np.array(labels), n, seed=3)
    assert len(set(chosen.tolist())) == n
    counts, available = np.bincount(np.array(labels)[chosen], minlength=5), np.bincount(labels, minlength=5)
    for a in range(5):  # no class has two more than another that still had some
        assert all(counts[b] >= counts[a] - 1 for b in range(5) if counts[b] < available[b])


def digits_of(split: Split | None) -> set[bytes]:
    assert split is not None
    return {image.numpy().tobytes() for image in split.images}


def test_splits_of_the_digits() -> None:
    data = Digits(validation_fraction=0.2, train_images=500, seed=1).load(torch.device("cpu"))
    train, validation, test = map(digits_of, (data.train, data.validation, data.test))
    assert [len(data.train), len(data.splits["validation"]), len(data.test)] == [400, 100, 360]
    assert not train & validation
    assert not (train | validation) & test
    assert torch.equal(data.splits["validation"].labels.bincount(), torch.full((10,), 10))
    other = Digits(validation_fraction=0.2, train_images=500, seed=2).load(torch.device("cpu"))
    assert digits_of(other.train) != train
    assert digits_of(other.test) == test
    assert len(Digits().load(torch.device("cpu")).train) == Digits.available


@given(st.lists(st.integers(2, 9), min_size=2, max_size=9), st.floats(0, 1), st.integers(0, 9))
def test_stratified_splits_are_those_of_scikit_learn(counts: list[int], share: float, seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    n = min(max(round(share * len(labels)), len(counts)), len(labels) - len(counts))
    theirs = train_test_split(np.arange(len(labels)), test_size=n, stratify=labels, random_state=seed)
    for indices, expected in zip(stratified_split(labels, n, seed), theirs, strict=True):
        np.testing.assert_array_equal(indices, expected)


def test_the_digits_are_those_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = load_digits()
    images, labels = (np.concatenate(arrays) for arrays in zip(*Digits().read(), strict=True))
    theirs = np.concatenate(train_test_split(np.arange(1797), test_size=0.2, stratify=digits.target, random_state=0))
    np.testing.assert_array_equal(images[..., 0], digits.images[theirs])
    np.testing.assert_array_equal(labels, digits.target[theirs])
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(DatasetError, match="sklearn is not installed"):
        Digits().read()


@given(st.lists(st.integers(0, 4), min_size=1, max_size=80), st.integers(2, 9), st.integers(0, 9))
def test_folds_are_stratified(labels: list[int], folds: int, seed: int) -> None:
    """Their sizes follow from the number of images alone, and each class is spread as evenly as it can be."""
    numbers = stratified_folds(np.array(labels), folds, seed)
    n = len(labels)
    assert np.bincount(numbers, minlength=folds).tolist() == [n // folds + (i < n % folds) for i in range(folds)]
    for label in set(labels):
        assert np.ptp(np.bincount(numbers[np.array(labels) == label], minlength=folds)) <= 1
    assert np.array_equal(numbers, stratified_folds(np.array(labels), folds, seed))


def test_every_fold_of_the_digits_is_held_out_once() -> None:
    """The folds divide the images that train_images chose. A bootstrap draws from the training images alone."""
    cpu, datasets = torch.device("cpu"), [Digits(train_images=503, folds=4, fold=fold, seed=1) for fold in range(4)]
    splits = [dataset.load(cpu) for dataset in datasets]
    train, held_out = ([digits_of(data.splits[name]) for data in splits] for name in ("train", "validation"))
    chosen = train[0] | held_out[0]
    assert set().union(*held_out) == chosen
    assert sum(map(len, held_out)) == len(chosen) == 503
    assert train == [chosen - fold for fold in held_out]
    for dataset, data in zip(datasets, splits, strict=True):
        assert (len(data.train), len(data.splits["validation"])) == (dataset.size, dataset.held_out)
        assert data.splits["validation"].labels.bincount().min() >= 503 // 10 // 4
        assert torch.equal(data.mean, mean_std(data.train.images)[0])
    bagged = dataclasses.replace(datasets[2], bootstrap=True).load(cpu)
    assert digits_of(bagged.train) < train[2]
    assert digits_of(bagged.validation) == held_out[2]
    assert len({frozenset(digits_of(Digits(folds=4, fold=0, seed=seed).load(cpu).validation)) for seed in (1, 2)}) == 2


def test_a_bootstrap_draws_as_many_with_replacement() -> None:
    """About 1 − 1/e of the images are among them, each with its label; everything else is as without it."""
    plain = Digits(validation_fraction=0.2).load(torch.device("cpu"))
    label = {image.numpy().tobytes(): int(y) for image, y in zip(plain.train.images, plain.train.labels, strict=True)}
    drawn = []
    for seed in (0, 0, 1):
        data = Digits(validation_fraction=0.2, bootstrap=True, bootstrap_seed=seed).load(torch.device("cpu"))
        drawn.append([image.numpy().tobytes() for image in data.train.images])
        assert [label[image] for image in drawn[-1]] == data.train.labels.tolist()
        assert len(drawn[-1]) == len(plain.train) == len(label) == 1150
        assert len(set(drawn[-1])) / len(label) == pytest.approx(1 - 1 / np.e, abs=0.03)
        assert torch.equal(data.splits["validation"].images, plain.splits["validation"].images)
        assert torch.equal(data.test.images, plain.test.images)
        assert torch.equal(data.mean, plain.mean)
        assert torch.equal(data.std, plain.std)
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0]) & set(drawn[2])) / len(label) == pytest.approx((1 - 1 / np.e) ** 2, abs=0.05)


@pytest.mark.parametrize(("dataset", "torchvisions"), [(MNIST, "MNIST"), (CIFAR10, "CIFAR10")])
def test_real_images_are_read_as_torchvision_reads_them(
    dataset: type[Dataset], torchvisions: str, real_data: Path
) -> None:
    root: dict[str, Any] = {"root": str(real_data), "download": False}
    data = dataset(**root, train_images=1000, validation_fraction=0.1).load(torch.device("cpu"))
    assert torch.equal(
        data.train.labels.bincount() + data.splits["validation"].labels.bincount(), torch.full((10,), 100)
    )
    test = getattr(torchvision.datasets, torchvisions)(str(real_data), train=False)
    for i in (0, 17, 9999):
        image, label = test[i]
        assert np.array_equal(np.asarray(image).reshape(data.test.images[i].shape), data.test.images[i])
        assert label == data.test.labels[i]
    assert not digits_of(data.train) & digits_of(data.test)


def test_missing_images_are_named(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"root": str(tmp_path), "download": False}
    with pytest.raises(DatasetError, match=rf"dataset.root={tmp_path}: can't read FashionMNIST: .*download=true"):
        FashionMNIST(**settings).load(torch.device("cpu"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("dataset", "module"), [(FashionMNIST, "mnist"), (CIFAR10, "cifar")])
def test_a_download_that_fails_leaves_no_folder(
    dataset: type[Torchvision], module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(_: str, root: str = "", download_root: str = "", **__: str) -> None:
        Path(download_root or root).mkdir(parents=True, exist_ok=True)
        raise URLError("no network")

    monkeypatch.setattr(f"torchvision.datasets.{module}.download_and_extract_archive", download)
    with pytest.raises(DatasetError, match=f"can't read {dataset.__name__}: .*(Error downloading|no network)"):
        dataset(root=str(tmp_path / "new/data")).read()
    assert not list(tmp_path.iterdir())

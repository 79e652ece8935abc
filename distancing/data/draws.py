"""Random draws of images, which depend on labels and a seed alone."""

import numpy as np
from numpy.typing import NDArray


def balanced(labels: NDArray[np.int64], n: int, seed: int) -> NDArray[np.int64]:
    """Return the indices of n random images. Class counts differ by at most one, unless a class runs out of images."""
    order = np.random.default_rng(seed).permutation(len(labels))
    rank = np.empty(len(labels), dtype=np.int64)  # rank within its class, in this order
    for label in np.unique(labels):
        images = order[labels[order] == label]
        rank[images] = np.arange(len(images))
    return order[np.argsort(rank[order], kind="stable")][:n]


def stratified_split(labels: NDArray[np.int64], n: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide images at random, with the same shares of the classes; return the indices of the rest, and of n images.

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

    The largest remainders are rounded up. Equal ones are drawn at random.
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

"""The rows of metrics.csv, one for each epoch."""

from collections.abc import Sequence

import torch
from torch import Tensor

from distancing.training.gradients import GRADIENTS, PUSHED, gradients
from distancing.training.settings import Config
from distancing.training.step import CORRECT, COSINE, CROSS_ENTROPY, L2, PENALTY, RATIO


def columns(config: Config, splits: Sequence[str], checkpoints: Sequence[str]) -> list[str]:
    """Return the columns of metrics.csv. Columns of checkpoints that are not stored yet stay empty.

    splits: the evaluated splits. checkpoints: the names of all checkpoints that an epoch follows.
    """
    hills = [f"hill/{name}" for name in checkpoints] if config.penalty else []
    hills += [f"strength/{name}" for name in checkpoints] if config.penalty and config.penalty.changes else []
    return [
        "epoch",
        "phase",
        "lr",
        *(f"train/{name}" for name in ("cross_entropy", "l2", "penalty", "loss", "accuracy")),
        *(f"{split}/{name}" for split in splits for name in ("loss", "accuracy")),
        "parameter_norm",
        *(f"distance/{name}" for name in checkpoints),
        *hills,
        PUSHED,
        *GRADIENTS,
        "seconds",
    ]


def training_metrics(records: Tensor, images: int, batch_size: int, hills_act: bool) -> dict[str, float]:
    """Return the training metrics of an epoch, means over its images, from the records of its steps [S, 6]."""
    records = records.cpu().double()
    sizes = [min(batch_size, images - step * batch_size) for step in range(len(records))]
    weights = torch.tensor([size / images for size in sizes], dtype=torch.float64)
    mean = weights @ records
    return {
        "train/cross_entropy": float(mean[CROSS_ENTROPY]),
        "train/l2": float(mean[L2]),
        "train/penalty": float(mean[PENALTY]),
        "train/loss": float(mean[CROSS_ENTROPY] + mean[L2] + mean[PENALTY]),
        "train/accuracy": float(records[:, CORRECT].sum()) / images,
        **(gradients(records[:, COSINE], records[:, RATIO], weights) if hills_act else {}),
    }


def distances(theta: Tensor, checkpoints: Tensor) -> list[float]:
    """Return the distances ‖θ − θ_c‖ (2.1) from θ [P] to the checkpoints [K, P]."""
    lengths: list[float] = (theta - checkpoints).square().sum(1).sqrt().tolist()
    return lengths

"""The rows of metrics.csv, one for each epoch."""

from collections.abc import Sequence

import torch
from torch import Tensor

from distancing.runs.metrics_file import GRADIENTS, PUSHED
from distancing.training.gradients import gradients
from distancing.training.settings import Config
from distancing.training.step import CORRECT, COSINE, CROSS_ENTROPY, L2, PENALTY, RATIO

# The unit and the description of each column, for the generated reference. Capitals stand for any name.
DESCRIPTIONS = {
    "epoch": ("epochs", "the epochs done"),
    "phase": ("", "the phase of this epoch"),
    "lr": ("", "the learning rate at the epoch's first step"),
    "train/cross_entropy": ("nats", "the data's part of the loss, with smoothed labels if they are set"),
    "train/l2": ("nats", "λ‖θ‖²"),
    "train/penalty": ("nats", "Σ_c s_c·k(θ, θ_c), the height of the hills"),
    "train/loss": ("nats", "the sum of these three; like them, a mean over the epoch's images while training"),
    "train/accuracy": ("", "while training, from 0 to 1"),
    "validation/loss, test/loss": ("nats", "the cross entropy after the epoch, in evaluation mode"),
    "validation/accuracy, test/accuracy": ("", "after the epoch, in evaluation mode, from 0 to 1"),
    "parameter_norm": ("", "‖θ‖ over all parameters, after the epoch"),
    "distance/CHECKPOINT": ("", "‖θ − θ_c‖ after the epoch, for each checkpoint stored before"),
    "hill/CHECKPOINT": ("", "the height k(θ, θ_c) of each hill of strength 1, after the epoch"),
    "strength/CHECKPOINT": ("nats", "the strength s_c of each hill, if hills grow or fade"),
    PUSHED: (
        "",
        "the share of the epoch's images in whose steps the hills pushed; empty in a phase without hills. A hill does "
        "not push where its gradient is 0 in float32: on its top, and more than about 13 σ away. The columns below "
        "count only the steps with a push",
    ),
    "gradient_cosine": ("", "the cosine between the data's gradient and the hills', mean over the steps' images"),
    "gradient_ratio": ("", "‖hills' gradient‖ / ‖data's gradient‖, median over the steps"),
    "gradient_angle": ("degrees", "the angle between the data's gradient and the sum of both, median over the steps"),
    "gradient_STATISTIC_p10, gradient_STATISTIC_p90": ("", "the first and the last decile of each of these three"),
    "seconds": ("seconds", "the time of this epoch, evaluation included"),
}


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

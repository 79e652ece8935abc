"""Loss and accuracy of a network on a split, as it is."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional as F

from distancing.data import Data, Split

BATCH = 1000


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every module's own mode comes back."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def evaluate(network: nn.Module, data: Data, split: Split, autocast: torch.autocast) -> dict[str, float]:
    """`loss` (mean cross entropy in nats, labels not smoothed) and `accuracy` (0…1) over the split."""
    sums = torch.zeros(2, device=split.labels.device)
    with evaluating(network), autocast:
        for images, labels in zip(split.images.split(BATCH), split.labels.split(BATCH), strict=True):
            logits = network(data.normalise(images)).float()
            loss = F.cross_entropy(logits, labels, reduction="sum")
            sums += torch.stack((loss, (logits.argmax(1) == labels).sum()))
    loss_sum, correct = sums.tolist()
    return {"loss": loss_sum / len(split), "accuracy": correct / len(split)}

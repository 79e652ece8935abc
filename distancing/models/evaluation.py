"""Loss and accuracy of a network on a split, as it is."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distancing.data.batches import Data, Split

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


def predict(network: nn.Module, data: Data, split: Split, autocast: torch.autocast) -> Tensor:
    """The logits [N, C] over the split, float32, on the CPU."""
    with evaluating(network), autocast:
        found = [network(data.normalise(images)).float() for images in split.images.split(BATCH)]
    return torch.cat(found).cpu()


def loss_and_accuracy(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """What `evaluate` says, from the logits, in float64."""
    loss = F.cross_entropy(logits.double(), labels)
    return {"loss": float(loss), "accuracy": float((logits.argmax(1) == labels).double().mean())}


def refresh_batch_norm(network: nn.Module, data: Data, autocast: torch.autocast) -> None:
    """Set the running statistics of every batch norm to those of the training images, not augmented: the mean of
    the batches' own. (Izmailov et al. 2018: averaged parameters have no running statistics that fit them.)
    """
    refresh_from(network, map(data.normalise, data.train.images.split(BATCH)), autocast)


def refresh_from(network: nn.Module, batches: Iterable[Tensor], autocast: torch.autocast) -> None:
    """…to those of these normalised images [B, C, H, W], every batch counting the same."""
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean
    try:
        with evaluating(network), autocast:
            for norm in norms:
                norm.train()
            for images in batches:
                network(images)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


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

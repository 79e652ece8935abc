"""Logits, loss and accuracy of a network on a split, and the statistics of its batch norms."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distancing.data.batches import Data, Split

BATCH, CPU_BATCH = 1000, 128  # images: activations that leave a CPU's caches take twice the time
CPU_PIXELS = 2**14  # in a batch, at least: the calls for 128 images of 8×8 pixels take longer than their arithmetic


def batch_size(images: Tensor) -> int:
    """Return how many of these images [N, H, W, C] an evaluation takes at a time."""
    if images.device.type != "cpu":
        return BATCH
    return max(CPU_BATCH, CPU_PIXELS // (images.shape[1] * images.shape[2]))


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Set evaluation mode without gradients, and restore the network's mode afterwards."""
    mode = network.training
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(mode)


def predict(network: nn.Module, data: Data, split: Split, autocast: torch.autocast) -> Tensor:
    """Return the logits [N, C] over the split, float32, on the CPU."""
    with evaluating(network), autocast:
        batches = split.images.split(batch_size(split.images))
        logits = [network(data.normalise(images)).float() for images in batches]
    return torch.cat(logits).cpu()


def loss_and_accuracy(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the loss and the accuracy of `evaluate` from logits [N, C], in float64."""
    loss = F.cross_entropy(logits.double(), labels)
    return {"loss": float(loss), "accuracy": float((logits.argmax(1) == labels).double().mean())}


def refresh_batch_norm(network: nn.Module, data: Data, autocast: torch.autocast) -> None:
    """Set the running statistics of all batch norms to those of the training images, without augmentation.

    Averaged parameters need this, because their running statistics do not fit them (Izmailov et al. 2018).
    """
    batches = data.train.divided(math.ceil(len(data.train) / BATCH))  # of one size, because they count equally
    refresh_from(network, (data.normalise(batch.images) for batch in batches), autocast)


def batch_norms(network: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """Return the batch norms of a network."""
    return [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def refresh_from(network: nn.Module, batches: Iterable[Tensor], autocast: torch.autocast) -> None:
    """Set the running statistics of all batch norms to the mean over these normalised batches [B, C, H, W].

    torch.optim.swa_utils.update_bn would also switch dropout on.
    """
    norms = batch_norms(network)
    if not norms:
        return
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
    """Return `loss`, the mean cross entropy in nats without label smoothing, and `accuracy`, from 0 to 1."""
    sums, size = torch.zeros(2, device=split.labels.device), batch_size(split.images)
    with evaluating(network), autocast:
        for images, labels in zip(split.images.split(size), split.labels.split(size), strict=True):
            logits = network(data.normalise(images)).float()
            loss = F.cross_entropy(logits, labels, reduction="sum")
            sums += torch.stack((loss, (logits.argmax(1) == labels).sum()))
    loss_sum, correct = sums.tolist()
    return {"loss": loss_sum / len(split), "accuracy": correct / len(split)}

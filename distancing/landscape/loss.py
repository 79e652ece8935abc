"""The loss as a function of the network's current parameters: value, gradient and Hessian-vector products."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distancing.data.batches import Data, Split
from distancing.hills.theta import Theta

BATCH = 250  # images whose graph is in memory at a time


class Loss:
    """The mean cross entropy, in nats, of a network in evaluation mode over the images of `split`.

    Computes in the parameters' own precision, without autocast: bfloat16 would drown small differences and curvatures.

    batches: the number of batches of one pass over the images. tick: called after each batch.
    """

    def __init__(self, network: nn.Module, theta: Theta, data: Data, split: Split, tick: Callable[[], object]) -> None:
        self.network, self.theta, self.data, self.split, self.tick = network, theta, data, split, tick
        self.batches = -(-len(split) // BATCH)
        self._parameters = dict(network.named_parameters())

    def value(self) -> float:
        """Return L."""
        with torch.no_grad():
            return sum(float(loss) for loss in self._batch_losses())

    def value_and_gradient(self) -> tuple[float, Tensor]:
        """Return L and ∂L/∂θ [P]."""
        value, gradient = 0.0, torch.zeros_like(self.theta.vector)
        for loss in self._batch_losses():
            gradient += self._flat(torch.autograd.grad(loss, list(self._parameters.values())))
            value += float(loss.detach())
        return value, gradient

    def product(self, v: Tensor) -> Tensor:
        """Return H v [P] by differentiating twice (Pearlmutter 1994)."""
        total, named = torch.zeros_like(v), self.theta.named(v)
        direction = [named[name] for name in self._parameters]
        for loss in self._batch_losses():
            parameters = list(self._parameters.values())
            gradient = torch.autograd.grad(loss, parameters, create_graph=True)
            total += self._flat(torch.autograd.grad(gradient, parameters, direction, materialize_grads=True))
        return total

    def _flat(self, tensors: tuple[Tensor, ...]) -> Tensor:
        return self.theta.flatten(dict(zip(self._parameters, tensors, strict=True)))

    def _batch_losses(self) -> Iterator[Tensor]:
        """Yield each batch's contribution to the mean, in float64, which keeps differences of two losses exact."""
        for images, labels in zip(self.split.images.split(BATCH), self.split.labels.split(BATCH), strict=True):
            logits = self.network(self.data.normalise(images).to(self.theta.vector.dtype)).double()
            yield F.cross_entropy(logits, labels, reduction="sum") / len(self.split)
            self.tick()

"""The loss as a function of the parameters as they stand: its value, gradient, and the Hessian's products."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distancing.data.batches import Data, Split
from distancing.hills.theta import Theta

BATCH = 250  # images whose graph is in memory at a time


class Loss:
    """The mean cross entropy, in nats, of a network in evaluation mode over `split`.

    Always in the parameters' own precision: the differences and curvatures asked for here drown in bfloat16.
    tick: called once per batch of each pass.
    """

    def __init__(self, network: nn.Module, theta: Theta, data: Data, split: Split, tick: Callable[[], object]) -> None:
        self.network, self.theta, self.data, self.split, self.tick = network, theta, data, split, tick
        self.batches = -(-len(split) // BATCH)  # of one pass
        self._parameters = dict(network.named_parameters())

    def value(self) -> float:
        with torch.no_grad():
            return sum(float(each) for each in self._parts())

    def value_and_gradient(self) -> tuple[float, Tensor]:
        """…and ∂L/∂θ [P]."""
        value, gradient = 0.0, torch.zeros_like(self.theta.vector)
        for part in self._parts():
            found = torch.autograd.grad(part, list(self._parameters.values()))
            gradient += self._flat(found)
            value += float(part.detach())
        return value, gradient

    def product(self, v: Tensor) -> Tensor:
        """H v [P], by differentiating twice (Pearlmutter 1994)."""
        total, named = torch.zeros_like(v), self.theta.named(v)
        along = [named[name] for name in self._parameters]
        for part in self._parts():
            parameters = list(self._parameters.values())
            gradient = torch.autograd.grad(part, parameters, create_graph=True)
            total += self._flat(torch.autograd.grad(gradient, parameters, along, materialize_grads=True))
        return total

    def _flat(self, found: tuple[Tensor, ...]) -> Tensor:
        return self.theta.flatten(dict(zip(self._parameters, found, strict=True)))

    def _parts(self) -> Iterator[Tensor]:
        """Each batch's share of the mean, in float64: what is left of a difference of two is then the network's."""
        for images, labels in zip(self.split.images.split(BATCH), self.split.labels.split(BATCH), strict=True):
            logits = self.network(self.data.normalise(images).to(self.theta.vector.dtype)).double()
            yield F.cross_entropy(logits, labels, reduction="sum") / len(self.split)
            self.tick()

"""The loss as a function of the network's current parameters: value, gradient and Hessian-vector products."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distancing.data.batches import Data, Split
from distancing.hills.theta import Theta
from distancing.landscape.curvature import Product

BATCH, PIXELS = 250, 2**15  # whose graph is in memory at a time: so many images, or more if they are small


class Loss:
    """The mean cross entropy, in nats, of a network in evaluation mode over the images of `split`.

    Computes in the parameters' own precision, without autocast: bfloat16 would drown small differences and curvatures.

    batches: the number of batches of one pass over the images. tick: called after each batch.
    """

    def __init__(self, network: nn.Module, theta: Theta, data: Data, split: Split, tick: Callable[[], object]) -> None:
        self.network, self.theta, self.data, self.split, self.tick = network, theta, data, split, tick
        self.size = max(BATCH, PIXELS // (split.images.shape[1] * split.images.shape[2]))
        self.batches = -(-len(split) // self.size)
        self._parameters = dict(network.named_parameters())

    def value(self) -> float:
        """Return L."""
        with torch.no_grad():
            return sum(float(loss) for loss in self._batch_losses())

    def value_and_gradient(self) -> tuple[float, Tensor]:
        """Return L and ∂L/∂θ [P]."""
        value, gradient = 0.0, torch.zeros_like(self.theta.vector)
        for loss in self._batch_losses():
            gradient += self._flat(torch.autograd.grad(loss, list(self._parameters.values()), materialize_grads=True))
            value += float(loss.detach())
        return value, gradient

    def product(self, v: Tensor) -> Tensor:
        """Return H v [P]."""
        return sum((product(v) for product in self.products()), torch.zeros_like(v))

    def products(self) -> Iterator[Product]:
        """Yield for each batch a function v [P] → H v [P]; the Hessians of all batches add up to H.

        It differentiates the gradient (Pearlmutter 1994), which is computed once for all v.
        """
        parameters = list(self._parameters.values())
        for loss in self._batch_losses():
            gradient = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)

            def product(v: Tensor, gradient: tuple[Tensor, ...] = gradient) -> Tensor:
                named = self.theta.named(v)
                # a scalar, because torch imports SymPy if it is given the gradient of a vector
                pairs = zip(self._parameters, gradient, strict=True)
                slope = torch.stack([(part * named[name]).sum() for name, part in pairs]).sum()
                return self._flat(torch.autograd.grad(slope, parameters, retain_graph=True, materialize_grads=True))

            yield product

    def _flat(self, tensors: tuple[Tensor, ...]) -> Tensor:
        return self.theta.flatten(dict(zip(self._parameters, tensors, strict=True)))

    def _batch_losses(self) -> Iterator[Tensor]:
        """Yield each batch's contribution to the mean, in float64, which keeps differences of two losses exact."""
        for images, labels in zip(self.split.images.split(self.size), self.split.labels.split(self.size), strict=True):
            logits = self.network(self.data.normalise(images).to(self.theta.vector.dtype)).double()
            yield F.cross_entropy(logits, labels, reduction="sum") / len(self.split)
            self.tick()

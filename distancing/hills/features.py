"""Features φ that distances compare: maps from the parameters [.., P] of one or several networks to [.., F].

Metadynamics calls them collective variables. A hill pushes along them, and in no other direction.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distancing.hills.theta import Layout

Pullback = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Network:
    """The network whose features are compared.

    theta: the layout of its parameters. images: returns n training images, normalised [n, C, H, W].
    autocast: the context of its forward passes.
    """

    theta: Layout
    module: nn.Module
    images: Callable[[int], Tensor]
    autocast: torch.autocast


class Features:
    """The base class. A subclass defines `__call__`, and `vjp` if a closed form is cheaper than autograd.

    moving: whether the features depend on the batch of the step.
    """

    moving = False

    def __call__(self, theta: Tensor) -> Tensor:
        """Return φ(θ) [.., F] for θ [.., P]."""
        raise NotImplementedError

    def vjp(self, theta: Tensor) -> tuple[Tensor, Pullback]:
        """Return φ(θ) [F] for θ [P], and the map from ∂E/∂φ [F] to ∂E/∂θ [P]."""
        leaf = theta.detach().requires_grad_()
        with torch.enable_grad():
            phi = self(leaf)
        return phi.detach(), lambda gradient: torch.autograd.grad(phi, leaf, gradient)[0]

    def passes(self, batch: int, hills: int) -> tuple[int, int]:  # noqa: ARG002
        """Return the numbers of images in the forward and in the backward passes of a push.

        batch: the number of images in the step. hills: the number of hills that act.
        """
        return 0, 0

    def on(self, images: Tensor) -> "Features":
        """Return these features on a batch of images. Only `moving` features have this method."""
        raise NotImplementedError


class Identity(Features):
    """φ(θ) = θ."""

    def __call__(self, theta: Tensor) -> Tensor:
        return theta

    def vjp(self, theta: Tensor) -> tuple[Tensor, Pullback]:
        return theta, lambda gradient: gradient


class First(Features):
    """φ(θ) = the first n parameters. The weights come first in θ, before biases and batch norms."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __call__(self, theta: Tensor) -> Tensor:
        return theta[..., : self.n]

    def vjp(self, theta: Tensor) -> tuple[Tensor, Pullback]:
        return theta[: self.n], lambda gradient: F.pad(gradient, (0, len(theta) - self.n))


class Scaled(Features):
    """φ_i(θ) = r_i θ_i for the first parameters, one for each scale r_i."""

    def __init__(self, scale: Tensor) -> None:
        self.scale = scale

    def __call__(self, theta: Tensor) -> Tensor:
        return theta[..., : len(self.scale)] * self.scale

    def vjp(self, theta: Tensor) -> tuple[Tensor, Pullback]:
        return self(theta), lambda gradient: F.pad(gradient * self.scale, (0, len(theta) - len(self.scale)))


class FilterDirections(Features):
    """φ(θ) = the weights of each output filter, divided by their norm.

    The scale of a filter does not change them. Biases and batch norms, which only scale and shift, are ignored.

    lengths: the number of weights of each filter.
    """

    def __init__(self, lengths: Tensor) -> None:
        self.lengths, self.n = lengths, int(lengths.sum())
        # the filter of each weight
        self.filter = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)

    def __call__(self, theta: Tensor) -> Tensor:
        weights = theta[..., : self.n]
        return weights * self._spread(self._sum(weights.square()).sqrt().clamp_min(1e-12).reciprocal())

    def vjp(self, theta: Tensor) -> tuple[Tensor, Pullback]:
        weights = theta[: self.n]
        inverse = self._spread(self._sum(weights.square()).sqrt().clamp_min(1e-12).reciprocal())
        phi = weights * inverse

        def pull(gradient: Tensor) -> Tensor:  # (g − φ (φ·g)) / ‖θ_f‖: the part along φ would only scale the filter
            projection = self._spread(self._sum(phi * gradient))
            return F.pad((gradient - phi * projection) * inverse, (0, len(theta) - self.n))

        return phi, pull

    def _sum(self, weights: Tensor) -> Tensor:
        """Sum over each filter: [.., W] → [.., filters]."""
        # unsafe: the check of the lengths would wait for the device
        rows = [
            torch.segment_reduce(row, "sum", lengths=self.lengths, unsafe=True) for row in weights.reshape(-1, self.n)
        ]
        return torch.stack(rows).view(*weights.shape[:-1], len(self.lengths))

    def _spread(self, filters: Tensor) -> Tensor:
        """Repeat the value of each filter for each of its weights: [.., filters] → [.., W]."""
        return filters.index_select(-1, self.filter)


class Projection(Features):
    """φ(θ) = R θ of the first n parameters, for a fixed random matrix R [F, n].

    R has one entry ±1 in each column, and about equally many in each row (feature hashing, Weinberger et al. 2009). The
    mean of ‖R Δ‖² over the signs is ‖Δ‖².
    """

    def __init__(self, parameters: int, features: int, generator: torch.Generator, device: torch.device) -> None:
        padded = -(-parameters // features) * features
        order = torch.randperm(padded, generator=generator)
        self.n, self.padding, self.shape = parameters, padded - parameters, (features, -1)
        self.order = order.to(device)
        self.row = order.argsort()[:parameters].div(padded // features, rounding_mode="floor").to(device)
        self.sign = torch.randint(2, (parameters,), generator=generator).mul(2).sub(1).to(device, torch.float32)

    def __call__(self, theta: Tensor) -> Tensor:
        signed = F.pad(theta[..., : self.n] * self.sign, (0, self.padding)).index_select(-1, self.order)
        return signed.unflatten(-1, self.shape).sum(-1)

    def vjp(self, theta: Tensor) -> tuple[Tensor, Pullback]:
        padding = (0, len(theta) - self.n)
        return self(theta), lambda gradient: F.pad(gradient.index_select(0, self.row) * self.sign, padding)


class Predictions(Features):
    """φ(θ) = √(p / 2N) for the network's probabilities p [N, C] on N images.

    The squared distance of two such features is the mean squared Hellinger distance of the predictions, between 0 and
    1. Batch norms use the batch's statistics, as in training, and keep their running ones unchanged, so that equal
    parameters have equal features. Each θ costs one forward pass, and each push a backward pass.
    """

    def __init__(self, network: Network, images: Tensor, moving: bool) -> None:
        self.network, self.images, self.moving = network, images, moving

    def passes(self, batch: int, hills: int) -> tuple[int, int]:
        return (batch * (1 + hills), batch) if self.moving else (len(self.images),) * 2

    def on(self, images: Tensor) -> "Predictions":
        return Predictions(self.network, images, self.moving)

    def __call__(self, theta: Tensor) -> Tensor:
        if theta.ndim > 1:
            return torch.stack([self(row) for row in theta])
        module = self.network.module
        buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
        with _batch_statistics(module), self.network.autocast:
            state = {**self.network.theta.named(theta), **buffers}
            # a copy, because the network may change its inputs in place
            logits = torch.func.functional_call(module, state, (self.images.clone(),))
        if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < 2:
            shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"FunctionSpace compares classifiers with outputs [N, C], C ≥ 2; these are {shape}")
        logits = logits.to(theta.dtype)
        return (F.log_softmax(logits, 1) / 2).exp().flatten() / (2 * len(self.images)) ** 0.5


@contextmanager
def _batch_statistics(module: nn.Module) -> Iterator[None]:
    """Set evaluation mode everywhere but in batch norms, and restore the mode of every layer afterwards."""
    modes = {layer: layer.training for layer in module.modules()}
    for layer in modes:
        layer.training = isinstance(layer, nn.modules.batchnorm._BatchNorm)
    try:
        yield
    finally:
        for layer, mode in modes.items():
            layer.training = mode

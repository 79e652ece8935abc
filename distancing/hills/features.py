"""What a distance looks at: maps φ from the parameters [.., P] of one or several networks to features [.., F].

Metadynamics calls them collective variables: a hill pushes along them, and along nothing else. Knows no kernels.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distancing.hills.theta import Theta

Pullback = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Network:
    """The network that the parameters belong to. images(n): the first n training images, as the module sees them."""

    theta: Theta
    module: nn.Module
    images: Callable[[int], Tensor]
    autocast: torch.autocast


class Features:
    """The base of all. A new one is one class with `__call__`, whose gradient then comes from autograd. Override `vjp`
    where a closed form is cheaper."""

    moving = False  # changes from step to step, with the batch

    def __call__(self, theta: Tensor) -> Tensor:
        """φ [.., F] of θ [.., P]."""
        raise NotImplementedError

    def vjp(self, theta: Tensor) -> tuple[Tensor, Pullback]:
        """φ(θ) [F] of θ [P], and the map from ∂E/∂φ [F] to ∂E/∂θ [P]."""
        leaf = theta.detach().requires_grad_()
        with torch.enable_grad():
            phi = self(leaf)
        return phi.detach(), lambda gradient: torch.autograd.grad(phi, leaf, gradient)[0]

    def on(self, images: Tensor) -> "Features":
        """…as they are seen on a batch of images; only for those that are `moving`."""
        raise NotImplementedError


class Everything(Features):
    """φ(θ) = θ."""

    def __call__(self, theta: Tensor) -> Tensor:
        return theta

    def vjp(self, theta: Tensor) -> tuple[Tensor, Pullback]:
        return theta, lambda gradient: gradient


class Leading(Features):
    """φ(θ) = the first n parameters: the weights, without biases and batch norm."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __call__(self, theta: Tensor) -> Tensor:
        return theta[..., : self.n]

    def vjp(self, theta: Tensor) -> tuple[Tensor, Pullback]:
        return theta[: self.n], lambda gradient: F.pad(gradient, (0, len(theta) - self.n))


class Scaled(Features):
    """φ_i(θ) = r_i θ_i, of the first parameters, as many as there are scales r."""

    def __init__(self, scale: Tensor) -> None:
        self.scale = scale

    def __call__(self, theta: Tensor) -> Tensor:
        return theta[..., : len(self.scale)] * self.scale

    def vjp(self, theta: Tensor) -> tuple[Tensor, Pullback]:
        return self(theta), lambda gradient: F.pad(gradient * self.scale, (0, len(theta) - len(self.scale)))


class FilterDirections(Features):
    """φ(θ) = each output filter's weights divided by their norm: blind to a filter's scale, and so to biases and batch
    norm, which only scale and shift."""

    def __init__(self, lengths: Tensor) -> None:
        self.lengths, self.n = lengths, int(lengths.sum())
        self.filter = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)  # of each weight

    def __call__(self, theta: Tensor) -> Tensor:
        weights = theta[..., : self.n]
        return weights * self._spread(self._sum(weights.square()).sqrt().clamp_min(1e-12).reciprocal())

    def vjp(self, theta: Tensor) -> tuple[Tensor, Pullback]:
        weights = theta[: self.n]
        inverse = self._spread(self._sum(weights.square()).sqrt().clamp_min(1e-12).reciprocal())
        phi = weights * inverse

        def pull(gradient: Tensor) -> Tensor:  # what is along the direction only scales: (g − φ (φ·g)) / ‖θ_f‖
            along = self._spread(self._sum(phi * gradient))
            return F.pad((gradient - phi * along) * inverse, (0, len(theta) - self.n))

        return phi, pull

    def _sum(self, weights: Tensor) -> Tensor:
        """Over each filter: [.., W] → [.., filters]."""
        rows = [torch.segment_reduce(row, "sum", lengths=self.lengths) for row in weights.reshape(-1, self.n)]
        return torch.stack(rows).view(*weights.shape[:-1], len(self.lengths))

    def _spread(self, filters: Tensor) -> Tensor:
        """[.., filters] → [.., W]."""
        return filters.index_select(-1, self.filter)


class Projection(Features):
    """φ(θ) = R θ of the first n parameters, for a fixed random R [F, n] with one entry ±1 in each column and equally
    many in each row (Weinberger et al. 2009, feature hashing). The mean of ‖R Δ‖² over the signs is ‖Δ‖²."""

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
        behind = (0, len(theta) - self.n)
        return self(theta), lambda gradient: F.pad(gradient.index_select(0, self.row) * self.sign, behind)


class Predictions(Features):
    """φ(θ) = √(p / 2N), for the probabilities p [N, C] that the network gives to N images: the squared distance of two
    such features is the mean squared Hellinger distance of the predictions, between 0 and 1.

    The network normalises by the batch's own statistics, as in training, and leaves its running ones alone; so that
    equal parameters have equal features. One forward pass for each θ, and a backward pass for a push.
    """

    def __init__(self, network: Network, images: Tensor, moving: bool) -> None:
        self.network, self.images, self.moving = network, images, moving

    def on(self, images: Tensor) -> "Predictions":
        return Predictions(self.network, images, self.moving)

    def __call__(self, theta: Tensor) -> Tensor:
        if theta.ndim > 1:
            return torch.stack([self(each) for each in theta])
        module = self.network.module
        buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
        with _by_the_batch(module), self.network.autocast:
            state = {**self.network.theta.named(theta), **buffers}
            logits = torch.func.functional_call(module, state, (self.images,)).to(theta.dtype)
        return (F.log_softmax(logits, 1) / 2).exp().flatten() / (2 * len(self.images)) ** 0.5


@contextmanager
def _by_the_batch(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, but for the batch norms; every module's own mode comes back."""
    modes = {each: each.training for each in module.modules()}
    try:
        for each in modes:
            each.training = isinstance(each, nn.modules.batchnorm._BatchNorm)
        yield
    finally:
        for each, mode in modes.items():
            each.training = mode

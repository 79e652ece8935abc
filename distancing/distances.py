"""How far the parameters are from the stored checkpoints. Knows no kernels and no networks.

A new distance is one class with `__call__`; its gradient then comes from autograd on the parameter
vector alone (never through the network). Override `vjp` where a closed form is cheaper.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from distancing.component import component

Pullback = Callable[[Tensor], Tensor]
PIECE = 2**19  # parameters at a time on a CPU, where a [K, P] difference costs more in new memory than in arithmetic


@component
class Distance:
    """Squared distances of θ [P] to the checkpoints [K, P]: [K], or [K, P] where each parameter is apart."""

    def __call__(self, theta: Tensor, checkpoints: Tensor) -> Tensor:
        raise NotImplementedError

    def vjp(self, theta: Tensor, checkpoints: Tensor) -> tuple[Tensor, Pullback]:
        """The distances d, and the map from ∂E/∂d (d's shape) to ∂E/∂θ [P]."""
        d, pull, *_ = torch.func.vjp(lambda t: self(t, checkpoints), theta)
        return d, lambda weights: pull(weights)[0]


@component
class Euclidean(Distance):
    """(2.2) d(θ, θ_c) = Σ_i (θ_i − θ_ci)² over all parameters.

    Direct differences: the expanded form ‖θ‖² − 2θ·θ_c + ‖θ_c‖² cancels to noise near a checkpoint.
    """

    def __call__(self, theta: Tensor, checkpoints: Tensor) -> Tensor:
        return (theta - checkpoints).square().sum(1)

    def vjp(self, theta: Tensor, checkpoints: Tensor) -> tuple[Tensor, Pullback]:
        if theta.device.type == "cpu":
            return self._vjp_on_a_cpu(theta, checkpoints)
        difference = theta - checkpoints
        return difference.square().sum(1), lambda weights: 2 * (weights @ difference)

    def _vjp_on_a_cpu(self, theta: Tensor, checkpoints: Tensor) -> tuple[Tensor, Pullback]:
        pieces = list(zip(theta.split(PIECE), checkpoints.split(PIECE, 1), strict=True))
        d = checkpoints.new_zeros(len(checkpoints))
        for t, rows in pieces:
            for total, row in zip(d, rows, strict=True):
                total += (t - row).square().sum()

        def pull(weights: Tensor) -> Tensor:
            gradient = torch.zeros_like(theta)
            for (t, rows), out in zip(pieces, gradient.split(PIECE), strict=True):
                for row, weight in zip(rows, 2 * weights, strict=True):
                    out.addcmul_(t - row, weight)
            return gradient

        return d, pull


@component
class Elementwise(Distance):
    """(2.13) d_i(θ, θ_c) = (θ_i − θ_ci)² for every parameter on its own: one-dimensional hills, [K, P]."""

    def __call__(self, theta: Tensor, checkpoints: Tensor) -> Tensor:
        return (theta - checkpoints).square()

    def vjp(self, theta: Tensor, checkpoints: Tensor) -> tuple[Tensor, Pullback]:
        difference = theta - checkpoints
        return difference.square(), lambda weights: 2 * (weights * difference).sum(0)

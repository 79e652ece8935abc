"""How far the parameters are from the stored checkpoints, or what `features` φ sees of them. Knows no kernels.

d(θ, θ_c) = ‖φ(θ) − φ(θ_c)‖² in all but one of them. A new distance is one class with `features`, or with `__call__`;
its gradient then comes from autograd. Override `vjp` where a closed form is cheaper.
"""

from typing import Literal

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from distancing.component import component
from distancing.hills.features import (
    Everything,
    Features,
    FilterDirections,
    Leading,
    Network,
    Predictions,
    Projection,
    Pullback,
    Scaled,
)

PIECE = 2**17  # parameters at a time on a CPU: their difference stays in its cache, and no [K, P] one is ever made


@component
class Distance:
    """Squared distances of θ [P] to the checkpoints [K, P]: [K], or [K, P] where each parameter is apart.

    parameters: which ones count: `all`, or the `weights` of convolutions and linear layers alone, without biases and
        batch norm.
    """

    parameters: Literal["all", "weights"] = "all"

    def features(self, network: Network) -> Features:
        """φ: what of the parameters is compared."""
        return Everything() if self.parameters == "all" else Leading(network.theta.weights)

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
        return (self._vjp_on_a_cpu if theta.device.type == "cpu" else self._vjp_on_any)(theta, checkpoints)

    def _vjp_on_any(self, theta: Tensor, checkpoints: Tensor) -> tuple[Tensor, Pullback]:
        difference = theta - checkpoints
        return difference.square().sum(1), lambda weights: 2 * (weights @ difference)

    def _vjp_on_a_cpu(self, theta: Tensor, checkpoints: Tensor) -> tuple[Tensor, Pullback]:
        pieces = list(zip(theta.split(PIECE), checkpoints.split(PIECE, 1), strict=True))
        difference = theta.new_empty(len(pieces[0][0]))
        d = checkpoints.new_zeros(len(checkpoints))
        for t, rows in pieces:
            for total, row in zip(d, rows, strict=True):
                away = torch.sub(t, row, out=difference[: len(t)])
                total += away.dot(away)

        def pull(weights: Tensor) -> Tensor:
            gradient = torch.zeros_like(theta)
            acting = [(k, 2 * weight) for k, weight in enumerate(weights.tolist()) if weight]  # of some nothing is left
            for (t, rows), out in zip(pieces, gradient.split(PIECE), strict=True):
                for k, weight in acting:
                    out.add_(torch.sub(t, rows[k], out=difference[: len(t)]), alpha=weight)
            return gradient

        return d, pull


@component
class MeanSquare(Euclidean):
    """d = mean_i (θ_i − θ_ci)²: (2.2) over the number of parameters, so that one σ serves networks of all sizes."""

    def features(self, network: Network) -> Features:
        n = len(network.theta) if self.parameters == "all" else network.theta.weights
        return Scaled(network.theta.vector.new_full((n,), n**-0.5))


@component
class Layerwise(Euclidean):
    """d = mean_l mean_(i in l) (θ_i − θ_ci)²: every tensor of parameters counts the same, however large it is."""

    def features(self, network: Network) -> Features:
        tensors = list(network.theta.named(network.theta.vector).values())
        kept = [each for each in tensors if self.parameters == "all" or each.dim() >= 2]
        return Scaled(torch.cat([each.new_full((each.numel(),), (each.numel() * len(kept)) ** -0.5) for each in kept]))


@component
class FilterDirection(Euclidean):
    """d = Σ_f ‖θ_f/‖θ_f‖ − θ_cf/‖θ_cf‖‖², over the output filters f: 2 (1 − cos) of each one's turn.

    A filter before a batch norm can grow without changing the function; this distance doesn't see it (Dinh et al.
    2017; Li et al. 2018). It is at most 4 × the number of filters. Biases and batch norms never count.
    """

    def features(self, network: Network) -> Features:
        return FilterDirections(torch.tensor(network.theta.filters, device=network.theta.vector.device))


@component
class RandomProjection(Euclidean):
    """d = ‖R (θ − θ_c)‖² for a fixed random R of `dimensions` rows, drawn by `seed`: hills in few collective variables,
    as metadynamics places them (Laio & Parrinello 2002)."""

    dimensions: PositiveInt = 16
    seed: NonNegativeInt = 0

    def features(self, network: Network) -> Features:
        generator = torch.Generator().manual_seed(self.seed)
        n = len(network.theta) if self.parameters == "all" else network.theta.weights
        device = network.theta.vector.device
        return Projection(n, min(self.dimensions, n), generator, device)


@component
class FunctionSpace(Euclidean):
    """d = the mean squared Hellinger distance (½ Σ_c (√p_c − √q_c)², between 0 and 1) of the network's and the
    checkpoint's predictions.

    probe: on so many fixed training images, the first ones; each step then costs one more forward and backward pass
        over these, however many checkpoints there are. None: on the images of each step's batch, which costs one
        more forward pass for the network and each of the checkpoints, and a backward pass.
    """

    probe: PositiveInt | None = None

    def features(self, network: Network) -> Features:
        return Predictions(network, network.images(self.probe or 128), moving=self.probe is None)


@component
class Elementwise(Distance):
    """(2.13) d_i(θ, θ_c) = (θ_i − θ_ci)² for every parameter on its own: one-dimensional hills, [K, P]."""

    def __call__(self, theta: Tensor, checkpoints: Tensor) -> Tensor:
        return (theta - checkpoints).square()

    def vjp(self, theta: Tensor, checkpoints: Tensor) -> tuple[Tensor, Pullback]:
        difference = theta - checkpoints
        return difference.square(), lambda weights: 2 * (weights * difference).sum(0)

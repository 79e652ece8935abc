"""Squared distances between the parameters, or features φ of them, and the stored checkpoints.

d(θ, θ_c) = ‖φ(θ) − φ(θ_c)‖² for all distances except `Elementwise`. A new distance is a class with `features` or
`__call__`. Its gradient comes from autograd; override `vjp` if a closed form is cheaper.
"""

from typing import Literal

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from distancing.component import component
from distancing.hills.features import (
    Features,
    FilterDirections,
    First,
    Identity,
    Network,
    Predictions,
    Projection,
    Pullback,
    Scaled,
)

PIECE = 2**17  # parameters at a time on a CPU: their difference fits into its cache
SUM = 2**16  # parameters in one sum
SMALL = 2**23  # `vjp` keeps at most this many numbers, the differences to all checkpoints, for the gradient


@component
class Distance:
    """The base class of all distances.

    parameters: `all`, or only the `weights` of convolutions and linear layers, without biases and batch norm.
    """

    parameters: Literal["all", "weights"] = "all"

    def features(self, network: Network) -> Features:
        """Return the features φ that are compared."""
        return Identity() if self.parameters == "all" else First(network.theta.weights)

    def __call__(self, theta: Tensor, checkpoints: Tensor) -> Tensor:
        """Return the squared distances of θ [P] to checkpoints [K, P]: [K], or [K, P] if each parameter has its own.

        θ and the checkpoints are given by their features.
        """
        raise NotImplementedError

    def vjp(self, theta: Tensor, checkpoints: Tensor) -> tuple[Tensor, Pullback]:
        """Return the distances d, and the map from ∂E/∂d, of d's shape, to ∂E/∂θ [P]."""
        d, pull, *_ = torch.func.vjp(lambda t: self(t, checkpoints), theta)
        return d, lambda weights: pull(weights)[0]


@component
class Euclidean(Distance):
    """(2.2) d(θ, θ_c) = Σ_i (θ_i − θ_ci)² over all parameters.

    The differences are computed directly, because ‖θ‖² − 2θ·θ_c + ‖θ_c‖² cancels to noise near a checkpoint.
    """

    def __call__(self, theta: Tensor, checkpoints: Tensor) -> Tensor:
        return (theta - checkpoints).square().sum(1)

    def vjp(self, theta: Tensor, checkpoints: Tensor) -> tuple[Tensor, Pullback]:
        on_cpu = theta.device.type == "cpu"
        if on_cpu and checkpoints.numel() > SMALL:
            return self._vjp_in_pieces(theta, checkpoints)
        difference = theta - checkpoints
        if on_cpu:  # this needs no tensor of squares, and rounds less than one sum over all parameters
            norms = [torch.linalg.vector_norm(piece, dim=1) for piece in difference.split(SUM, 1)]
            d = torch.stack(norms).square().sum(0)
        else:
            d = difference.square().sum(1)
        return d, lambda weights: 2 * (weights @ difference)

    def _vjp_in_pieces(self, theta: Tensor, checkpoints: Tensor) -> tuple[Tensor, Pullback]:
        pieces = list(zip(theta.split(PIECE), checkpoints.split(PIECE, 1), strict=True))
        difference = theta.new_empty(len(pieces[0][0]))
        d = checkpoints.new_zeros(len(checkpoints))
        for t, rows in pieces:
            for total, row in zip(d, rows, strict=True):
                delta = torch.sub(t, row, out=difference[: len(t)])
                total += delta.dot(delta)

        def pull(weights: Tensor) -> Tensor:
            gradient = torch.zeros_like(theta)
            nonzero = [(k, 2 * weight) for k, weight in enumerate(weights.tolist()) if weight]  # others are far away
            for (t, rows), out in zip(pieces, gradient.split(PIECE), strict=True):
                for k, weight in nonzero:
                    out.add_(torch.sub(t, rows[k], out=difference[: len(t)]), alpha=weight)
            return gradient

        return d, pull


@component
class MeanSquare(Euclidean):
    """d = mean_i (θ_i − θ_ci)², which is (2.2) over the number of parameters: one σ serves networks of all sizes."""

    def features(self, network: Network) -> Features:
        n = len(network.theta) if self.parameters == "all" else network.theta.weights
        return Scaled(network.theta.vector.new_full((n,), n**-0.5))


@component
class Layerwise(Euclidean):
    """d = mean_l mean_(i in l) (θ_i − θ_ci)²: every parameter tensor l has the same weight, whatever its size."""

    def features(self, network: Network) -> Features:
        tensors = list(network.theta.named(network.theta.vector).values())
        layers = [tensor for tensor in tensors if self.parameters == "all" or tensor.dim() >= 2]
        scales = [layer.new_full((layer.numel(),), (layer.numel() * len(layers)) ** -0.5) for layer in layers]
        return Scaled(torch.cat(scales))


@component
class FilterDirection(Euclidean):
    """d = Σ_f ‖θ_f/‖θ_f‖ − θ_cf/‖θ_cf‖‖² over the output filters f, which is Σ_f 2 (1 − cos ∠(θ_f, θ_cf)).

    A filter before a batch norm can grow without a change of the function. This distance does not change then (Dinh et
    al. 2017; Li et al. 2018). It is at most 4 × the number of filters. Biases and batch norms are ignored.
    """

    parameters: Literal["all"] = "all"

    def features(self, network: Network) -> Features:
        return FilterDirections(torch.tensor(network.theta.filters, device=network.theta.vector.device))


@component
class RandomProjection(Euclidean):
    """d = ‖R (θ − θ_c)‖² for a fixed random matrix R.

    These are hills in a few collective variables, as in metadynamics (Laio & Parrinello 2002).

    dimensions: the number of rows of R.
    seed: the seed of R.
    """

    dimensions: PositiveInt = 16
    seed: NonNegativeInt = 0

    def features(self, network: Network) -> Features:
        generator = torch.Generator().manual_seed(self.seed)
        n = len(network.theta) if self.parameters == "all" else network.theta.weights
        device = network.theta.vector.device
        return Projection(n, min(self.dimensions, n), generator, device)


@component
class FunctionSpace(Euclidean):
    """d = the mean squared Hellinger distance, ½ Σ_c (√p_c − √q_c)² between 0 and 1, of the network's predictions p and
    the checkpoint's predictions q. The network's outputs are logits [N, C] of two classes or more.

    probe (images): compare them on this many of the training images, evenly spaced. Each step then costs one more
        forward and backward pass over these images, whatever the number of checkpoints. Null: compare them on the batch
        of each step, which costs one more forward pass for the network and for each checkpoint, and a backward pass.
    """

    parameters: Literal["all"] = "all"
    probe: PositiveInt | None = None

    def features(self, network: Network) -> Features:
        images = network.images(self.probe or 128)
        if self.probe and len(images) < self.probe:
            raise ValueError(f"probe={self.probe} is above the number of inputs, {len(images)}")
        return Predictions(network, images, moving=self.probe is None)


@component
class Elementwise(Distance):
    """(2.13) d_i(θ, θ_c) = (θ_i − θ_ci)² for each parameter i, which gives one-dimensional hills [K, P]."""

    def __call__(self, theta: Tensor, checkpoints: Tensor) -> Tensor:
        return (theta - checkpoints).square()

    def vjp(self, theta: Tensor, checkpoints: Tensor) -> tuple[Tensor, Pullback]:
        difference = theta - checkpoints
        return difference.square(), lambda weights: 2 * (weights * difference).sum(0)

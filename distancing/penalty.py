"""The hills: what the stored checkpoints add to the loss, and to its gradient."""

from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from distancing.component import component
from distancing.distances import Distance
from distancing.kernels import Kernel


@component
class Penalty:
    """(2.8, 2.9) E(θ) = s · Σ_c k(d(θ, θ_c)), for any number of checkpoints θ_c.

    strength: s, in nats, the height of one hill.
    sigma: the width σ of a hill, in the unit
    sigma_unit: `absolute`; `norm`, where 1 is ‖θ_c‖; or `travelled`, where 1 is ‖θ_c − θ_0‖, the way from
        the initial parameters to the checkpoint. The last two let one σ serve networks of different sizes,
        since d grows with their number of parameters.

    The push s·k′ is strongest, 0.61·s/σ for the Gaussian, at distance σ, and exactly 0 at the checkpoint.
    """

    distance: Distance
    kernel: Kernel
    strength: NonNegativeFloat
    sigma: PositiveFloat
    sigma_unit: Literal["absolute", "norm", "travelled"] = "absolute"

    def width(self, checkpoint: Tensor, start: Tensor) -> Tensor:
        """σ of the hill at `checkpoint` [P], a scalar; `start` [P] is θ_0."""
        if self.sigma_unit == "absolute":
            return checkpoint.new_tensor(self.sigma)
        origin = torch.zeros_like(start) if self.sigma_unit == "norm" else start
        return self.sigma * self.distance(checkpoint, origin[None]).mean().sqrt()

    def heights(self, theta: Tensor, checkpoints: Tensor, widths: Tensor) -> Tensor:
        """k(θ, θ_c) of each hill [K]; elementwise hills are summed over the parameters."""
        d = self.distance(theta, checkpoints)
        return self.kernel(d, _beside(widths, d)).flatten(1).sum(1) if d.ndim > 1 else self.kernel(d, widths)

    def energy(self, theta: Tensor, checkpoints: Tensor, widths: Tensor) -> tuple[Tensor, Tensor]:
        """E (a scalar) and ∂E/∂θ [P] (2.12–2.18), for θ [P], checkpoints [K, P] and their widths [K]."""
        d, pull = self.distance.vjp(theta, checkpoints)
        k, slope = self.kernel.slope(d, _beside(widths, d))
        return self.strength * k.sum(), pull(self.strength * slope)


def _beside(widths: Tensor, d: Tensor) -> Tensor:
    """The widths [K] in a shape that broadcasts against d, [K] or [K, P]."""
    return widths.reshape(-1, *(1,) * (d.ndim - 1))

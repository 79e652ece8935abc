"""The penalty: what the hills at the stored checkpoints add to the loss and to its gradient."""

from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor
from typing_extensions import Self

from distancing.component import component
from distancing.hills.distances import Distance, Elementwise
from distancing.hills.kernels import Kernel

NARROWEST = 1e-15  # its square, and that of the tip of a Laplace hill (σ/1000), are above 0 in float32


@component
class Penalty:
    """(2.8, 2.9) E(θ) = Σ_c s_c · k(d(θ, θ_c)), for any number of checkpoints θ_c.

    The push of a Gaussian hill is 0 at the checkpoint, and strongest, 0.61·s/σ, at distance σ.

    distance: how far θ is from a checkpoint.
    kernel: the height of a hill as a function of this distance.
    strength (nats): the height s of a new hill.
    sigma (`sigma_unit`): the width σ of a hill, at least 1e-15.
    sigma_unit: `absolute`; `norm`, which is ‖θ_c‖; or `travelled`, which is ‖θ_c − θ_0‖, the distance from the initial
        parameters to the checkpoint. The last two let one σ serve networks of different sizes, because d grows with
        the number of parameters. Both are measured by `distance`, which may ignore parameters or compare other
        features; an elementwise one takes the root mean square over the parameters.
    growth (nats per epoch): the growth of a hill on its top; elsewhere it grows by growth · k per epoch, where k is its
        height at θ.
    temperature (nats): slows the growth by the factor exp(−s_c·k / temperature), so that it comes to an end
        (well-tempered metadynamics, Barducci et al. 2008, where it is called ΔT); null for no such factor.
    half_life (epochs): the time in which a hill loses half of its height; null for a hill that stays.
    newest (hills): only this many hills, the newest ones, act and grow; null for all.
    fixed_norm: keep ‖θ‖ as it was at the newest checkpoint.

    Growth, decay and the fixed norm only apply in epochs in which hills act.
    """

    distance: Distance
    kernel: Kernel
    strength: NonNegativeFloat
    sigma: PositiveFloat
    sigma_unit: Literal["absolute", "norm", "travelled"] = "absolute"
    growth: NonNegativeFloat = 0.0
    temperature: PositiveFloat | None = None
    half_life: PositiveFloat | None = None
    newest: PositiveInt | None = None
    fixed_norm: bool = False

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.sigma < NARROWEST:
            raise ValueError(f"sigma={self.sigma} is below {NARROWEST}, too small for float32")
        if self.growth and isinstance(self.distance, Elementwise):
            raise ValueError(f"growth={self.growth} needs one hill for each checkpoint, not one for each parameter")
        if self.temperature and not self.growth:
            raise ValueError(f"temperature={self.temperature} needs growth > 0")
        return self

    @property
    def changes(self) -> bool:
        """True if the strength of a hill changes with time."""
        return bool(self.growth or self.half_life)

    def width(self, checkpoint: Tensor, start: Tensor) -> Tensor:
        """Return σ, a scalar, of the hill at `checkpoint`. `start` is θ_0; both are given by their features."""
        if self.sigma_unit == "absolute":
            return checkpoint.new_tensor(self.sigma)
        origin = torch.zeros_like(start) if self.sigma_unit == "norm" else start
        return self.sigma * self.distance(checkpoint, origin[None]).mean().sqrt()

    def heights(self, theta: Tensor, checkpoints: Tensor, widths: Tensor) -> Tensor:
        """Return k(θ, θ_c) of each hill [K]. Elementwise hills are summed over the parameters."""
        d = self.distance(theta, checkpoints)
        return self.kernel(d, _broadcast(widths, d)).flatten(1).sum(1) if d.ndim > 1 else self.kernel(d, widths)

    def energy(
        self, theta: Tensor, checkpoints: Tensor, widths: Tensor, strengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return E (2.9), its gradient ∂E/∂θ [P] (2.12–2.18), and the heights k, of d's shape.

        theta: θ [P]. checkpoints: θ_c [K, P]. widths, strengths: [K]; None stands for `strength`.
        """
        s = torch.full_like(widths, self.strength) if strengths is None else strengths
        d, pull = self.distance.vjp(theta, checkpoints)
        k, slope = self.kernel.slope(d, _broadcast(widths, d))
        return (_broadcast(s, d) * k).sum(), pull(_broadcast(s, d) * slope), k


def _broadcast(values: Tensor, d: Tensor) -> Tensor:
    """Return the values [K] in a shape that broadcasts against d, [K] or [K, P]."""
    return values.reshape(-1, *(1,) * (d.ndim - 1))

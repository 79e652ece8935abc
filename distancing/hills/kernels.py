"""From a squared distance to the height of a hill. Knows no parameters and no networks.

A new kernel is one class with `__call__`; its slope then comes from autograd. Override `slope` where a
closed form is cheaper.
"""

import torch
from torch import Tensor

from distancing.component import component


@component
class Kernel:
    """Heights of hills of width σ at squared distances d, elementwise; σ broadcasts against d."""

    def __call__(self, d: Tensor, sigma: Tensor) -> Tensor:
        raise NotImplementedError

    def slope(self, d: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """The heights k and dk/dd, both of d's shape."""
        k, pull, *_ = torch.func.vjp(lambda x: self(x, sigma), d)
        return k, pull(torch.ones_like(k))[0]


@component
class Laplace(Kernel):
    """k = exp(−√d / σ), with a tip that is round within σ/1000, where its slope would be infinite: as steep near the
    checkpoint as at σ, and longer in reach than the Gaussian."""

    def __call__(self, d: Tensor, sigma: Tensor) -> Tensor:
        tip = 1e-3 * sigma
        return torch.exp((tip - (d + tip**2).sqrt()) / sigma)


@component
class InverseQuadratic(Kernel):
    """k = 1 / (1 + d / 2σ²): as curved at the top as the Gaussian, and with a push that fades with 1/√d³ only."""

    def __call__(self, d: Tensor, sigma: Tensor) -> Tensor:
        return 1 / (1 + d / (2 * sigma**2))


@component
class Gaussian(Kernel):
    """(2.4) k = exp(−d / 2σ²), between 0 and 1; dk/dd = −k / 2σ²."""

    def __call__(self, d: Tensor, sigma: Tensor) -> Tensor:
        return torch.exp(-d / (2 * sigma**2))

    def slope(self, d: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        k = self(d, sigma)
        return k, -k / (2 * sigma**2)

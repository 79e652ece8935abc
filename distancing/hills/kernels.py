"""Kernels: the height of a hill as a function of the squared distance to its top.

A new kernel is a class with `__call__`. Its slope comes from autograd; override `slope` if a closed form is cheaper.
"""

import torch
from torch import Tensor

from distancing.component import component


@component
class Kernel:
    """The base class of all kernels."""

    def __call__(self, d: Tensor, sigma: Tensor) -> Tensor:
        """Return the heights k, of d's shape, of hills of width σ at squared distances d. σ broadcasts against d."""
        raise NotImplementedError

    def slope(self, d: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Return the heights k and their slopes dk/dd, both of d's shape."""
        k, pull, *_ = torch.func.vjp(lambda x: self(x, sigma), d)
        return k, pull(torch.ones_like(k))[0]


@component
class Laplace(Kernel):
    """k = exp(−√d / σ), rounded within σ/1000 of the top, where its slope would be infinite.

    The rounding makes k larger by 0.1 % elsewhere.

    In √d it falls most steeply at the top, and it reaches further than the Gaussian.
    """

    def __call__(self, d: Tensor, sigma: Tensor) -> Tensor:
        tip = 1e-3 * sigma
        return torch.exp((tip - (d + tip**2).sqrt()) / sigma)


@component
class InverseQuadratic(Kernel):
    """k = 1 / (1 + d / 2σ²), with the curvature of the Gaussian at the top, and a push that only fades like 1/√d³."""

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

"""The Hessian of the loss, through its products with vectors alone: its largest eigenvalue and its trace."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]  # v [P] → H v [P]


def relative(product: Product, scale: Tensor) -> Product:
    """Of the Hessian in the coordinates u of steps ε_i = scale_i u_i: D H D with D = diag(scale [P])."""
    return lambda v: scale * product(scale * v)


def largest_eigenvalue(product: Product, start: Tensor, tolerance: float) -> Iterator[tuple[float, float]]:
    """Lanczos' method from `start` [P]: after each product, the largest eigenvalue as known by then, never too large
    but for rounding, and a bound on its distance from an eigenvalue. Ends once the bound is below tolerance · |it|,
    or with NaN after a product that isn't finite.

    Three vectors and no more: without reorthogonalisation rounding makes copies of eigenvalues found already, but the
    outermost ones stay right (Paige 1980; Golub and Van Loan, section 10.3).
    """
    v = start / start.norm()
    before, beta = torch.zeros_like(v), 0.0
    diagonal: list[float] = []
    beside: list[float] = []
    while True:
        w = product(v) - beta * before
        diagonal.append(float(w.dot(v)))
        if not math.isfinite(diagonal[-1]):
            yield math.nan, math.nan
            return
        w -= diagonal[-1] * v
        off = torch.tensor(beside, dtype=torch.float64)
        tridiagonal = torch.tensor(diagonal, dtype=torch.float64).diag() + off.diag(1) + off.diag(-1)
        values, vectors = torch.linalg.eigh(tridiagonal)
        beta = float(w.norm())
        value, error = float(values[-1]), beta * float(vectors[-1, -1].abs())
        yield value, error
        if error <= tolerance * abs(value):
            return
        before, v = v, w / beta
        beside.append(beta)


def trace_samples(product: Product, probes: Iterator[Tensor]) -> Iterator[float]:
    """zᵀHz for each z [P] of independent ±1: each has the trace for its expectation (Hutchinson 1990)."""
    for z in probes:
        yield float(z.dot(product(z)))

"""The largest eigenvalue and the trace of the Hessian, computed from Hessian-vector products alone."""

import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]  # v [P] → H v [P]


def relative(product: Product, scale: Tensor) -> Product:
    """Return the products with D H D, D = diag(scale [P]): the Hessian with respect to u, where θ_i moves by
    scale_i u_i."""
    return lambda v: scale * product(scale * v)


def largest_eigenvalue(product: Product, start: Tensor, tolerance: float) -> Iterator[tuple[float, float]]:
    """Yield, after each product, an estimate λ of the largest eigenvalue and a bound on its error.

    Runs Lanczos' method from `start` [P]. λ never exceeds the largest eigenvalue by more than rounding, and some
    eigenvalue is within the bound of λ. Ends when the bound is at most tolerance · |λ|, or with NaN after a product
    that is not finite.

    Keeps three vectors only. Without reorthogonalisation, rounding adds copies of eigenvalues that have converged, but
    the extreme ones stay correct (Paige 1980; Golub and Van Loan, section 10.3).
    """
    v = start / start.norm()
    previous, beta = torch.zeros_like(v), 0.0
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    while True:
        w = product(v) - beta * previous
        diagonal.append(float(w.dot(v)))
        if not math.isfinite(diagonal[-1]):
            yield math.nan, math.nan
            return
        w -= diagonal[-1] * v
        off = torch.tensor(off_diagonal, dtype=torch.float64)
        tridiagonal = torch.tensor(diagonal, dtype=torch.float64).diag() + off.diag(1) + off.diag(-1)
        values, vectors = torch.linalg.eigh(tridiagonal)
        beta = float(w.norm())
        value, error = float(values[-1]), beta * float(vectors[-1, -1].abs())
        yield value, error
        if error <= tolerance * abs(value):
            return
        previous, v = v, w / beta
        off_diagonal.append(beta)


def trace_samples(products: Iterable[Product], probes: Tensor) -> Tensor:
    """Return zᵀHz for each probe z, as float64 [K]: unbiased estimates of the trace of H (Hutchinson 1990).

    products: those of the terms that add up to H. probes [K, P]: independent random signs.
    """
    samples = torch.zeros(len(probes), dtype=torch.float64)
    for product in products:
        samples += torch.stack([z.dot(product(z)) for z in probes]).cpu()
    return samples

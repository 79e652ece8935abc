"""Losses of one and two parameters, as maps from θ [..., P] to heights [...], and their stationary points."""

from collections.abc import Callable

import torch
from torch import Tensor

Loss = Callable[[Tensor], Tensor]


def two_valleys(theta: Tensor) -> Tensor:
    """(Figure 2.1) loss′ = 6 (x − 2/3) (x − 4/3) (x − 7/3): a valley, a barrier and a deeper valley."""
    t = theta[..., 0] - 2 / 3
    return 1 + t**2 * (10 - 14 * t + 4.5 * t**2) / 3


def three_valleys(theta: Tensor) -> Tensor:
    """loss′ = 0.55 x (x − 0.7) (x − 2) (x − 3) (x − 4): each valley is deeper than the one before."""
    x = theta[..., 0]
    return 1.7 + 0.55 * x**2 * (8.4 - x * (42.2 / 3 - x * (8.075 - x * (1.94 - x / 6))))


def wrong_way(theta: Tensor) -> Tensor:
    """(Figure 1.1) loss′ = x (x − 3) eˣ / 12: right of 0 it falls to the minimum, and left of 0 towards 2."""
    x = theta[..., 0]
    return 2 + (x**2 - 5 * x + 5) * torch.exp(x) / 12


def walled(theta: Tensor) -> Tensor:
    """`wrong_way` with L2 (1.13), λ = 0.02, so that it rises again on the far left."""
    return wrong_way(theta) + 0.02 * theta.square().sum(-1)


def four_valleys(theta: Tensor) -> Tensor:
    """A hundredth of Himmelblau's function: four valleys of the same depth."""
    x, y = theta[..., 0], theta[..., 1]
    return ((x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2) / 100


def moat(theta: Tensor) -> Tensor:
    """loss′ = r (r² − 1.2²) (r² − 2²) for the radius r: a ring-shaped valley, and a deeper one within."""
    u, bank, ring = theta.square().sum(-1), 1.2**2, 2.0**2
    return u * (u**2 / 6 - (bank + ring) * u / 4 + bank * ring / 2)


# the stationary points, and the number of directions in which the loss curves down: 0 is a minimum, P a maximum
STATIONARY: dict[Loss, dict[tuple[float, ...], int]] = {
    two_valleys: {(2 / 3,): 0, (4 / 3,): 1, (7 / 3,): 0},
    three_valleys: {(0.0,): 0, (0.7,): 1, (2.0,): 0, (3.0,): 1, (4.0,): 0},
    wrong_way: {(0.0,): 1, (3.0,): 0},
    walled: {(-2.424984,): 0, (0.0,): 1, (2.975510,): 0},
    four_valleys: {
        (3.0, 2.0): 0,
        (-2.805118, 3.131313): 0,
        (-3.779310, -3.283186): 0,
        (3.584428, -1.848127): 0,
        (0.086678, 2.884255): 1,
        (-3.073026, -0.081353): 1,
        (-0.127961, -1.953715): 1,
        (3.385154, 0.073852): 1,
        (-0.270845, -0.923039): 2,
    },
    moat: {(0.0, 0.0): 0, (1.2, 0.0): 1, (0.0, 2.0): 0},  # the last two stand for whole circles
}

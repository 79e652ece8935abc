"""A ball on a loss. torch's SGD with momentum moves it, and the penalty that trains the networks pushes it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from distancing.hills.distances import Euclidean
from distancing.hills.kernels import Gaussian
from distancing.hills.penalty import Penalty
from toy.losses import Loss


def hills(theta: Tensor, checkpoints: Tensor, strength: float, sigma: float) -> tuple[Tensor, Tensor]:
    """Return the height (2.8) [N] of hills on the checkpoints [K, P] at θ [N, P], and its gradient (2.11) [N, P]."""
    penalty = Penalty(distance=Euclidean(), kernel=Gaussian(), strength=strength, sigma=sigma)
    widths = checkpoints.new_full((len(checkpoints),), sigma)
    heights, gradients, _ = zip(*(penalty.energy(place, checkpoints, widths) for place in theta), strict=True)
    return torch.stack(heights), torch.stack(gradients)


@dataclass(frozen=True)
class Scene:
    """A ball on a loss.

    start: where it starts. steps: for how long it rolls.
    strength, sigma: the strength and the width of each hill.
    at: the checkpoints that are stored before it starts.
    store: the steps after which a checkpoint is stored, and a hill put, where the ball is (Algorithm 3, repeated).
    noise: the standard deviation of the noise on the gradient, which a minibatch also has. At a minimum with a
        checkpoint the gradient and the push are both 0, so the noise decides to which side the ball goes.
    """

    loss: Loss
    start: tuple[float, ...]
    steps: int
    strength: float
    sigma: float
    at: tuple[tuple[float, ...], ...] = ()
    store: tuple[int, ...] = ()
    noise: float = 0.2
    seed: int = 0

    @property
    def since(self) -> tuple[int, ...]:
        """The number of steps after which each checkpoint is stored."""
        return (0,) * len(self.at) + self.store

    def total(self, theta: Tensor, checkpoints: Tensor, there: Sequence[float | Tensor] | None = None) -> Tensor:
        """Return the loss with the hills (2.9) at θ [N, P]. there: the share of each hill, from 0 to 1."""
        total = self.loss(theta)
        for checkpoint, share in zip(checkpoints, there or [1.0] * len(checkpoints), strict=True):
            total = total + share * hills(theta, checkpoint[None], self.strength, self.sigma)[0]
        return total


@cache
def roll(scene: Scene) -> tuple[Tensor, Tensor]:
    """Return the ball's positions at the start and after each step [steps + 1, P], and the checkpoints [K, P]."""
    generator = torch.Generator().manual_seed(scene.seed)
    theta = torch.tensor(scene.start, dtype=torch.float64, requires_grad=True)
    checkpoints = theta.new_tensor(scene.at).reshape(-1, len(theta))
    optimizer = torch.optim.SGD([theta], lr=0.01, momentum=0.9)
    trajectory = [theta.detach().clone()]
    for step in range(1, scene.steps + 1):
        (data,) = torch.autograd.grad(scene.loss(theta), theta)
        push = hills(trajectory[-1][None], checkpoints, scene.strength, scene.sigma)[1][0]
        noise = scene.noise * torch.randn(theta.shape, generator=generator, dtype=theta.dtype)
        theta.grad = data + noise + push  # (2.11)
        optimizer.step()
        trajectory.append(theta.detach().clone())
        if step in scene.store:
            checkpoints = torch.cat((checkpoints, trajectory[-1][None]))
    return torch.stack(trajectory), checkpoints

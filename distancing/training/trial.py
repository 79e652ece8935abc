"""Trials of components outside this package, so that a wrong one is refused before a run starts."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from distancing.component.trust import line_of, own_modules
from distancing.errors import first_line
from distancing.hills.hills import Hills
from distancing.hills.penalty import Penalty
from distancing.hills.theta import Theta
from distancing.training.optimizers import Optimizer
from distancing.training.schedules import Schedule


def try_out(key: str, component: Any, trial: Callable[[], str | None]) -> None:
    """Raise ValueError with what is wrong about a component outside of this package.

    trial: uses the component, and returns the problem, or None.
    """
    if not own_modules([component]):
        return
    try:
        with torch.random.fork_rng([]):
            problem = trial()
    except Exception as error:  # whatever the user's code raises
        problem = f"raises {type(error).__name__}{line_of(error, component)}: {first_line(error)}"
    if problem:
        raise ValueError(f"{key}: {type(component).__name__} {problem}")


def schedule_problem(schedule: Schedule, lr: float, epochs: int) -> str | None:
    """Return what is wrong about the learning rates of a schedule, or None."""
    for t in (0.0, epochs / 2, float(epochs)):
        rate: object = schedule(lr, t, epochs)
        if not isinstance(rate, (int, float)) or not math.isfinite(rate) or rate < 0:
            return f"returns {rate!r} at epoch {t:g} of {epochs}, but a learning rate is a number, 0 or more"
    return None


def optimizer_problem(optimizer: Optimizer) -> str | None:
    """Return what is wrong about one step of an optimiser, or None."""
    theta = Theta(nn.Linear(2, 2))
    built: object = optimizer.build(theta)
    if not isinstance(built, torch.optim.Optimizer):
        return f"builds {type(built).__name__} instead of a torch.optim.Optimizer"
    before = theta.vector.clone()
    theta.gradient.fill_(1.0)
    built.step()
    if torch.equal(theta.vector, before) or not theta.vector.isfinite().all():
        return "does not step theta.vector to other finite numbers"
    return None


def decay_problem(optimizer: Optimizer) -> str | None:
    """Return what is wrong about the parameters to which an optimiser applies `l2`, or None."""
    theta = Theta(nn.Linear(2, 2))
    before = theta.vector.clone()
    optimizer.build(theta).step()  # the gradient is 0
    decayed = theta.vector != before
    weights, others = decayed[: theta.weights], decayed[theta.weights :]
    if not optimizer.l2 or (weights.all() and bool(others.any()) == (optimizer.decay == "all")):
        return None
    return (
        f"does not apply l2={optimizer.l2:g} to the parameters that decay={optimizer.decay} names: give torch's "
        "optimiser self.groups(theta, 2 * self.l2)"
    )


@torch.no_grad()
def penalty_problem(penalty: Penalty, network: nn.Module, images: Tensor, key: str) -> str | None:
    """Return what is wrong about the `distance` or the `kernel` (key) of two hills of a network, or None."""
    hills = Hills(network, penalty, steps_per_epoch=1, inputs=lambda n: images[:n])
    for place in (True, True, False):
        for p in network.parameters():
            p.add_(torch.randn_like(p), alpha=0.01)
        if place:
            hills.place()
    phi = hills.features(hills.theta.vector)
    d, pull = penalty.distance.vjp(phi, hills.centres)
    if key == "kernel":
        k, slope = penalty.kernel.slope(d, hills.widths.reshape(-1, *(1,) * (d.ndim - 1)))
        fits = k.shape == slope.shape == d.shape and (k + slope).isfinite().all()
        return None if fits else "does not return finite heights of the shape of the distances"
    if d.shape not in ((2,), hills.centres.shape) or not d.isfinite().all() or (d < 0).any():
        return f"returns {list(d.shape)} for two checkpoints, but [2] or [2, P] of finite numbers, 0 or more, is needed"
    fits = (gradient := pull(torch.ones_like(d))).shape == phi.shape and gradient.isfinite().all()
    return None if fits else "does not have a finite gradient of the shape of the parameters"

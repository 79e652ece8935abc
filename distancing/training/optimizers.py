"""Optimisers: torch.optim on the whole network as one tensor."""

from typing import Annotated

import torch
from annotated_types import Ge, Lt
from pydantic import NonNegativeFloat, PositiveFloat, model_validator
from typing_extensions import Self

from distancing.component import component
from distancing.hills.theta import Theta


@component
class Optimizer:
    """The base class of all optimisers.

    lr: the initial learning rate, before the schedule.
    l2: λ of (1.13), which adds λ‖θ‖² to the loss and 2λθ to the gradient.
    """

    lr: PositiveFloat
    l2: NonNegativeFloat = 0.0

    def build(self, theta: Theta) -> torch.optim.Optimizer:
        """Return torch's optimiser of `theta.vector`."""
        raise NotImplementedError


@component
class SGD(Optimizer):
    """SGD with momentum (Algorithms 1 and 2) in torch's form: v ← αv + g, θ ← θ − εv.

    The thesis's form (1.11), v ← αv − εg, θ ← θ + v, takes the same path while ε is constant, but not while it changes.

    momentum: α.
    nesterov: evaluate the gradient where the momentum leads. It needs momentum > 0.
    """

    momentum: Annotated[float, Ge(0), Lt(1)] = 0.0
    nesterov: bool = False

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Self:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov=true needs momentum > 0")
        return self

    def build(self, theta: Theta) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            [theta.vector],
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=2 * self.l2,  # the gradient of λθ² is 2λθ
            fused=True,  # reads θ, velocity and gradient from memory once
        )

"""How the parameters move: torch.optim, on the whole network as one tensor."""

from typing import Annotated

import torch
from annotated_types import Ge, Lt
from pydantic import NonNegativeFloat, PositiveFloat, model_validator
from typing_extensions import Self

from distancing.component import component
from distancing.hills.theta import Theta


@component
class Optimizer:
    """lr: the initial learning rate, before the schedule.
    l2: λ of (1.13), which adds λ‖θ‖² to the loss and so 2λθ to the gradient.
    """

    lr: PositiveFloat
    l2: NonNegativeFloat = 0.0

    def build(self, theta: Theta) -> torch.optim.Optimizer:
        """torch's optimiser of `theta.vector`."""
        raise NotImplementedError


@component
class SGD(Optimizer):
    """Algorithms 1 and 2 with v ← αv + g, θ ← θ − εv: torch's form, whose velocity v is without the learning
    rate ε. (1.11) is v ← αv − εg, θ ← θ + v: the same path while ε is constant, another while it changes.
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
            fused=True,  # θ, velocity and gradient go through the memory once
        )

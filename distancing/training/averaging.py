"""The average of a phase's parameters (SWA, Izmailov et al. 2018), and the Gaussian of SWAG (Maddox et al. 2019)."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import StateDict
from torch.optim.swa_utils import get_swa_avg_fn

_average = get_swa_avg_fn()  # (mean, θ, n) ↦ mean + (θ − mean) / (n + 1)


class Average:
    """The moments of the parameters θ [P] at the beginning of a phase and at the times when `add` is called.

    rank: the number of deviations to keep for `sample`; None if only the mean is needed.
    count: the number of parameters so far. mean: θ̄_SWA [P]. variance: Σ_diag [P]. deviations: the last θ_i − θ̄_i, as
    many as `rank`, where θ̄_i is the mean at that time.
    """

    def __init__(self, theta: Tensor, rank: int | None) -> None:
        self.rank, self.count, self.mean = rank, 1, theta.clone()
        self.variance = torch.zeros_like(theta) if rank else None
        self.deviations: list[Tensor] = []

    def add(self, theta: Tensor) -> None:
        """Add parameters θ [P] (Algorithm 1 of both papers)."""
        before, self.mean = self.mean, _average(self.mean, theta, self.count)
        if self.rank and self.variance is not None:
            # the mean of θ² minus the square of the mean, without their cancellation (Welford 1962)
            product = (theta - before) * (theta - self.mean)
            self.variance = _average(self.variance, product, self.count)
            self.deviations = [*self.deviations, theta - self.mean][-self.rank :]
        self.count += 1

    def sample(self, generator: torch.Generator) -> Tensor:
        """Draw θ [P] from SWAG's Gaussian: θ̄ + √(Σ_diag / 2) z₁ + D z₂ / √(2 (K − 1)), with K deviations D [P, K].

        generator: on the CPU, so that all devices get the same noise. Raise ValueError for fewer than two deviations.
        """
        if self.variance is None or len(self.deviations) < 2:
            raise ValueError(f"{len(self.deviations)} deviations: SWAG needs two or more")
        z = torch.randn(len(self.mean), generator=generator).to(self.mean)
        sample = self.mean + (self.variance / 2).sqrt() * z
        weights = torch.randn(len(self.deviations), generator=generator) / math.sqrt(2 * (len(self.deviations) - 1))
        for weight, deviation in zip(weights.tolist(), self.deviations, strict=True):
            sample.add_(deviation, alpha=weight)
        return sample

    def state_dict(self) -> StateDict:
        """Return the state of an unfinished run."""
        return dict(vars(self))

    @classmethod
    def from_state(cls, state: Mapping[str, Any] | None) -> "Average | None":
        """Return the average in a state of `state_dict`, or None for None."""
        if state is None:
            return None
        average = cls(state["mean"], state["rank"])
        vars(average).update(state)
        return average

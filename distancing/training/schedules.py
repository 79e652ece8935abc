"""Learning-rate schedules: from the time since the schedule's (re)start to the learning rate.

Time t is in epochs and moves on with every step, by the fraction of an epoch that the step is. A phase may
restart the schedule (`restart_schedule`); `length` is the number of epochs from there to the next restart,
or to the end of the run.
"""

import math

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from distancing.component import component


@component
class Schedule:
    def __call__(self, lr: float, t: float, length: int) -> float:
        """The learning rate at time 0 ≤ t ≤ `length`, for the initial rate `lr`."""
        raise NotImplementedError


@component
class Constant(Schedule):
    def __call__(self, lr: float, t: float, length: int) -> float:  # noqa: ARG002
        return lr


@component
class Step(Schedule):
    """(1.9) lr₀ · γ^⌊epoch / step_size⌋."""

    step_size: PositiveInt
    gamma: PositiveFloat

    def __call__(self, lr: float, t: float, length: int) -> float:  # noqa: ARG002
        try:
            return lr * self.gamma ** math.floor(t / self.step_size)
        except OverflowError:
            return math.inf


@component
class Cosine(Schedule):
    """(1.10) ε_min + ½ (ε_max − ε_min)(1 + cos(π T_cur / T_0)), with T_0 = `length`."""

    lr_min: NonNegativeFloat = 0.0

    def __call__(self, lr: float, t: float, length: int) -> float:
        return self.lr_min + (lr - self.lr_min) / 2 * (1 + math.cos(math.pi * t / length))


@component
class CosineRestarts(Cosine):
    """SGDR (Loshchilov & Hutter 2017; 1.2.3): (1.10) over and over, for `period` · `multiplier`^i epochs."""

    period: PositiveInt
    multiplier: PositiveInt = 1

    def __call__(self, lr: float, t: float, length: int) -> float:  # noqa: ARG002
        start, period = 0, self.period
        while t >= start + period:
            start, period = start + period, period * self.multiplier
        return super().__call__(lr, t - start, period)

"""Learning-rate schedules: the learning rate as a function of the time since the schedule's (re)start.

Time t is in epochs, and advances at each step by a fraction of an epoch. A phase may restart the schedule
(`restart_schedule`). `length` is the number of epochs from there to the next restart, or to the end of the run.
"""

import math

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from distancing.component import component


@component
class Schedule:
    """The base class of all schedules."""

    def __call__(self, lr: float, t: float, length: int) -> float:
        """Return the learning rate at time t, 0 ≤ t ≤ `length`, for the initial rate `lr`."""
        raise NotImplementedError


@component
class Constant(Schedule):
    """The initial learning rate throughout."""

    def __call__(self, lr: float, t: float, length: int) -> float:  # noqa: ARG002
        return lr


@component
class Step(Schedule):
    """(1.9) lr₀ · γ^⌊epoch / step_size⌋.

    step_size (epochs): the interval between two decreases.
    gamma: the factor γ of each decrease.
    """

    step_size: PositiveInt
    gamma: PositiveFloat

    def __call__(self, lr: float, t: float, length: int) -> float:  # noqa: ARG002
        try:
            return lr * self.gamma ** math.floor(t / self.step_size)
        except OverflowError:
            return math.inf


@component
class Cosine(Schedule):
    """(1.10) ε_min + ½ (ε_max − ε_min)(1 + cos(π T_cur / T_0)), with T_0 = `length`.

    lr_min: the learning rate ε_min at the end.
    """

    lr_min: NonNegativeFloat = 0.0

    def __call__(self, lr: float, t: float, length: int) -> float:
        return self.lr_min + (lr - self.lr_min) / 2 * (1 + math.cos(math.pi * t / length))


@component
class CosineRestarts(Cosine):
    """(1.10) with warm restarts: cycle i takes `period` · `multiplier`^i epochs (SGDR, Loshchilov & Hutter 2017).

    period (epochs): the length T_0 of the first cycle.
    multiplier: the length of each cycle relative to the one before.
    """

    period: PositiveInt
    multiplier: PositiveInt = 1

    def __call__(self, lr: float, t: float, length: int) -> float:  # noqa: ARG002
        start, period = 0, self.period
        while t >= start + period:
            start, period = start + period, period * self.multiplier
        return super().__call__(lr, t - start, period)

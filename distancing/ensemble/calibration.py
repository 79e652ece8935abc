"""Scores of a prediction at its optimal temperature, and the deep-ensemble equivalent (Ashukha et al. 2020).

q: a prediction [N, C], of a member or of the average of several; labels: the true classes [N]. See `ensemble.scores`.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from distancing.ensemble.scores import LOG_FLOOR, expected_calibration_error, negative_log_likelihood

LARGEST = 20.0  # the largest temperature; 1/20 is the smallest
DIVISIONS = 5  # of the test images into halves, as in Ashukha et al.

Labelled = tuple[Tensor, Tensor]  # a prediction, or those of several members, and the labels
HeldOut = Labelled | Literal["halves"]  # the images on which temperatures are found


def calibrated(q: Tensor, labels: Tensor, held_out: Labelled | None = None) -> dict[str, float]:
    """Return these fields:

    temperature: the temperature that minimises the negative log-likelihood.
    calibrated_nll (nats): the negative log-likelihood at this temperature.
    calibrated_ece: the expected calibration error at this temperature, from 0 to 1.

    held_out: the prediction for the validation images and their labels, on which the temperature is found. Without
    it, the test images are divided into random halves five times. Each half takes the temperature of the other half,
    and the fields are means over the divisions.
    """
    if held_out:
        return _at(temperature(*held_out), q, labels)
    if len(q) < 2 or q.isnan().any():
        return dict.fromkeys(("temperature", "calibrated_nll", "calibrated_ece"), math.nan)
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(len(q), generator=generator) for _ in range(DIVISIONS)]
    start = temperature(q, labels)  # close to the temperatures of the halves
    divisions = [_of_halves(q, labels, order.tensor_split(2), start) for order in orders]
    return {name: math.fsum(division[name] for division in divisions) / DIVISIONS for name in divisions[0]}


def temperature(q: Tensor, labels: Tensor, start: float = 1.0) -> float:
    """Return the T that minimises the negative log-likelihood of softmax(log q / T) (Guo et al. 2017).

    T is between 1/20 and 20. The problem is convex in 1/T: Newton's method, with a bisection where a step leaves the
    interval that has the minimum. start: where to start. Return NaN if q has a NaN.
    """
    if q.isnan().any():
        return math.nan
    log_q = q.log().clamp(min=LOG_FLOOR)
    margins = log_q - log_q.gather(1, labels[:, None])
    low, high, inverse = 1 / LARGEST, LARGEST, 1 / start
    for _ in range(100):
        weighted = torch.softmax(inverse * margins, 1).mul_(margins)
        means = weighted.sum(1)
        slope = float(means.mean())
        curvature = float(weighted.mul_(margins).sum(1).sub_(means.square_()).mean())
        low, high = (low, inverse) if slope > 0 else (inverse, high)
        step = inverse - slope / curvature if curvature > 0 else 0.0
        last, inverse = inverse, step if low < step < high else math.sqrt(low * high)
        if abs(inverse - last) <= 1e-5 * last:
            break
    return 1 / inverse


def at_temperature(q: Tensor, temperature: float) -> Tensor:
    """Return softmax(log q / T)."""
    return torch.softmax(q.log().clamp(min=LOG_FLOOR) / temperature, 1)


def _at(temperature: float, q: Tensor, labels: Tensor) -> dict[str, float]:
    return {"temperature": temperature, **_scores(at_temperature(q, temperature), labels)}


def _of_halves(q: Tensor, labels: Tensor, halves: Sequence[Tensor], start: float) -> dict[str, float]:
    """Return the scores of both halves together, each at the temperature of the other one, and the mean temperature."""
    temperatures = [temperature(q[half], labels[half], start) for half in halves]
    parts = [at_temperature(q[half], t) for half, t in zip(halves, reversed(temperatures), strict=True)]
    return {"temperature": math.fsum(temperatures) / 2, **_scores(torch.cat(parts), labels[torch.cat(tuple(halves))])}


def _scores(q: Tensor, labels: Tensor) -> dict[str, float]:
    return {
        "calibrated_nll": negative_log_likelihood(q, labels),
        "calibrated_ece": expected_calibration_error(q, labels),
    }


@dataclasses.dataclass(frozen=True)
class Equivalent:
    """The calibrated negative log-likelihood of independent networks by their number.

    sizes: the numbers of networks, increasing. nll: the mean for each. error: its standard error.
    """

    sizes: Sequence[int]
    nll: Sequence[float]
    error: Sequence[float]

    def of(self, nll: float) -> float:
        """Return the deep-ensemble equivalent: the smallest number of networks that reaches `nll`.

        The number is interpolated linearly between neighbouring sizes. It is −∞ if the fewest networks are better
        than `nll`, and ∞ if not even the most reach it.
        """
        if nll > self.nll[0]:
            return -math.inf
        for i in range(1, len(self.sizes)):
            if self.nll[i] <= nll:
                (a, b), (x, y) = self.sizes[i - 1 : i + 1], self.nll[i - 1 : i + 1]
                return a + (b - a) * (x - nll) / (x - y) if x > y else float(a)
        return float(self.sizes[0]) if nll == self.nll[0] else math.inf

    def interval(self, nll: float, error: float) -> tuple[float, float]:
        """Return the equivalents of `nll` plus and minus its standard error.

        The standard error of the independent networks, interpolated to the equivalent, is added in quadrature.
        """
        size = float(np.clip(self.of(nll), self.sizes[0], self.sizes[-1]))
        both = math.hypot(error, float(np.interp(size, self.sizes, self.error)))
        return self.of(nll + both), self.of(nll - both)

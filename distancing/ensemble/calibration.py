"""Scores at the optimal temperature: predictions that differ only in temperature get the same scores.

The temperature T divides the logarithms of a prediction q [N, C]: softmax(log q / T) (Guo et al. 2017). For an
ensemble, q is the average of its members' probabilities (Ashukha et al. 2020).
"""

import dataclasses
import math
import statistics
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from distancing.ensemble.scores import LOG_FLOOR, expected_calibration_error, negative_log_likelihood

BOUNDS = 1e-3, 1e3  # the smallest and the largest β
DIVISIONS = 5  # random divisions of the images into halves, as many as in Ashukha et al. 2020

Prediction = tuple[Tensor, Tensor]  # q [N, C] and the labels [N]


def tempered(q: Tensor, temperature: float) -> Tensor:
    """Return softmax(log q / T) [N, C]. A probability of 0 counts as the smallest positive float64."""
    return torch.softmax(q.log().clamp(min=LOG_FLOOR) / temperature, -1)


def optimal_temperature(q: Tensor, labels: Tensor) -> float:
    """Return the temperature T = 1/β that minimises N · NLL(β) + (β − 1)²/2 over the N images.

    NLL is the negative log-likelihood of `tempered`. The second term is a normal prior with mean 1 and standard
    deviation 1. It decides only where there are few images: without it, images that are all classified correctly have
    the optimal temperature 0, at which a single error costs hundreds of nats. The problem is convex, and is solved by
    Newton's method in a bracket, until a step changes β by less than a relative 1e-6. T is NaN if q has a NaN.
    """
    log_q, n = q.log().clamp(min=LOG_FLOOR), len(labels)
    true = log_q.gather(1, labels[:, None]).mean()
    (low, high), beta = BOUNDS, 1.0
    for _ in range(100):
        p = torch.softmax(beta * log_q, -1)
        mean = (p * log_q).sum(1)
        slope = float(mean.mean() - true) + (beta - 1) / n
        if math.isnan(slope):
            return math.nan
        curvature = float(((p * log_q.square()).sum(1) - mean.square()).mean()) + 1 / n
        low, high = (low, beta) if slope > 0 else (beta, high)
        last, beta = beta, beta - slope / curvature
        if not low < beta < high:
            beta = math.sqrt(low * high)
        if abs(beta - last) <= 1e-6 * last:
            break
    return 1 / beta


def calibrated(test: Prediction, validation: Prediction | None) -> dict[str, float]:
    """Return `temperature`, `calibrated_nll` and `calibrated_ece` of `Scores`, of a prediction on the test images.

    validation: as in `temperatures`.
    """
    return scores_at(temperatures(test, validation), *test)


def temperatures(test: Prediction, validation: Prediction | None) -> list[tuple[float, Tensor]]:
    """Return optimal temperatures, and for each of them the indices of the test images that it is for.

    validation: the same predictor's prediction on the images on which the temperature is found. Without it, the
    temperature is found on a random half of the test images for the other half, and the other way round, for DIVISIONS
    divisions (section 4 of Ashukha et al. 2020). The temperature of an image is thus never found on the image itself.
    Only a single test image counts as both halves.
    """
    q, labels = test
    if validation:
        return [(optimal_temperature(*validation), torch.arange(len(labels), device=labels.device))]
    return [(optimal_temperature(q[one], labels[one]), other) for one, other in _halves(labels)]


def scores_at(known: Sequence[tuple[float, Tensor]], q: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the scores of `calibrated`: means over known temperatures, as `temperatures` returns them."""
    rows = [_scores(temperature, q[images], labels[images]) for temperature, images in known]
    return {name: statistics.fmean(row[name] for row in rows) for name in rows[0]}


def _scores(temperature: float, q: Tensor, labels: Tensor) -> dict[str, float]:
    q = tempered(q, temperature)
    return {
        "temperature": temperature,
        "calibrated_nll": negative_log_likelihood(q, labels),
        "calibrated_ece": expected_calibration_error(q, labels),
    }


def _halves(labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the indices of both halves of each division of the images, in both orders."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(DIVISIONS):
        order = torch.randperm(len(labels), generator=generator).to(labels.device)
        middle = len(labels) // 2
        first, second = order[: middle or 1], order[middle:]
        yield first, second
        yield second, first


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
        than `nll`, ∞ if not even the most reach it, and NaN if `nll` or one of the means is.
        """
        if math.isnan(nll + sum(self.nll)):
            return math.nan
        if nll >= self.nll[0]:
            return float(self.sizes[0]) if nll == self.nll[0] else -math.inf
        for i in range(1, len(self.sizes)):
            if self.nll[i] <= nll:
                (a, b), (x, y) = self.sizes[i - 1 : i + 1], self.nll[i - 1 : i + 1]
                return a + (b - a) * (x - nll) / (x - y)
        return math.inf

    def bounded(self, number: float) -> float | str:
        """Return a deep-ensemble equivalent, or such as "< 1" for one beyond the measured numbers of networks."""
        return {-math.inf: f"< {self.sizes[0]}", math.inf: f"> {self.sizes[-1]}"}.get(number, number)

    def interval(self, nll: float, error: float) -> tuple[float, float]:
        """Return the equivalents of `nll` plus and minus its standard error.

        The standard error of the independent networks, interpolated to the equivalent, is added in quadrature.
        """
        size = float(np.clip(self.of(nll), self.sizes[0], self.sizes[-1]))
        both = math.hypot(error, float(np.interp(size, self.sizes, self.error)))
        return self.of(nll + both), self.of(nll - both)

"""Statistics of the two gradients that a step adds, the data's and the hills': their angle and their ratio."""

import torch
from torch import Tensor

from distancing.runs.metrics_file import GRADIENTS, PUSHED

PIECE = 2**20  # parameters at a time: in few pieces, two threads hardly wait for each other


def cosine_and_ratio(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cosine between two vectors [P], NaN if one of them is 0, and ‖b‖ / ‖a‖, at most the largest float.

    Both are scaled first: far from a hill, its gradient is as small as 1e-30, whose square is 0 in float32.
    """
    ranges = [x.aminmax() for x in (a, b)]
    a_unit, b_unit = (torch.maximum(-low, high).clamp_min(torch.finfo(a.dtype).tiny) for low, high in ranges)
    products = torch.zeros(3, dtype=a.dtype, device=a.device)
    piece = PIECE if a.device.type == "cpu" else len(a)
    for x, y in zip(a.split(piece), b.split(piece), strict=True):
        x, y = x / a_unit, y / b_unit
        products += torch.stack((x.dot(y), x.dot(x), y.dot(y)))
    lengths = products[1:].sqrt()
    cosine = products[0] / lengths.prod()
    ratio = b_unit / a_unit * lengths[1] / lengths[0]
    return cosine, ratio.clamp_max(torch.finfo(a.dtype).max)  # quantiles need finite numbers


def gradients(cosines: Tensor, ratios: Tensor, weights: Tensor) -> dict[str, float]:
    """Return PUSHED and, if the hills pushed in any step, GRADIENTS of an epoch.

    cosines, ratios: one for each step [S], in float64. weights: the share of the images in each step. A step whose
    cosine is NaN, because one of the two gradients is 0, counts as not pushed.
    """
    pushed = ~cosines.isnan()
    share = weights[pushed].sum()
    if not share:
        return {PUSHED: 0.0}
    cosines, ratios, weights = cosines[pushed], ratios[pushed], weights[pushed] / share
    # the angle between g and g + h, where h is `ratio` times as long as g, in degrees
    angles = torch.atan2(ratios * (1 - cosines.square()).clamp_min(0).sqrt(), 1 + ratios * cosines).rad2deg()
    deciles = torch.stack((cosines, ratios, angles)).quantile(cosines.new_tensor([0.1, 0.5, 0.9]), dim=1)
    low, center, high = deciles.tolist()
    center[0] = float(weights @ cosines)
    values = [value for triple in zip(center, low, high, strict=True) for value in triple]
    return {PUSHED: float(share), **dict(zip(GRADIENTS, values, strict=True))}

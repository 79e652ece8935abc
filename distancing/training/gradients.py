"""Statistics of the two gradients that a step adds: the data's and the hills'. Does a hill change size or direction?"""

import torch
from torch import Tensor

from distancing.hills.distances import PIECE

# the share of an epoch's images in whose steps the hills pushed; and of these steps the cosine between the data's
# gradient and the hills' (its mean), the ratio of their lengths and the angle by which the hills turn the gradient
# (their medians), each with its first and last decile
PUSHED = "gradient_pushed"
GRADIENTS = [f"gradient_{name}{part}" for name in ("cosine", "ratio", "angle") for part in ("", "_p10", "_p90")]


def cosine_and_ratio(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cosine between two vectors [P], NaN if one of them is 0, and ‖b‖ / ‖a‖, at most the largest float.

    The far side of a hill is as steep as 1e-30, whose square is no float32.
    """
    units = [x.aminmax() for x in (a, b)]
    a_unit, b_unit = (torch.maximum(-low, high).clamp_min(torch.finfo(a.dtype).tiny) for low, high in units)
    products = torch.zeros(3, dtype=a.dtype, device=a.device)
    for x, y in zip(a.split(PIECE), b.split(PIECE), strict=True):
        x, y = x / a_unit, y / b_unit
        products += torch.stack((x.dot(y), x.dot(x), y.dot(y)))
    lengths = products[1:].sqrt()
    cosine = products[0] / lengths.prod()
    ratio = b_unit / a_unit * lengths[1] / lengths[0]
    return cosine, ratio.clamp_max(torch.finfo(a.dtype).max)  # quantiles need finite numbers


def gradients(cosines: Tensor, ratios: Tensor, weights: Tensor) -> dict[str, float]:
    """Return PUSHED and, if any step was pushed, GRADIENTS of an epoch.

    cosines, ratios, weights: of each step [S], in float64; its weight is its share of the images. A step without a
    cosine, in which one of the two gradients is 0, counts as not pushed and is left out of GRADIENTS.
    """
    pushed = ~cosines.isnan()
    share = weights[pushed].sum()
    if not share:
        return {PUSHED: 0.0}
    cosines, ratios, weights = cosines[pushed], ratios[pushed], weights[pushed] / share
    # between g and g + h, where h is `ratio` times as long as g: degrees
    angles = torch.atan2(ratios * (1 - cosines.square()).clamp_min(0).sqrt(), 1 + ratios * cosines).rad2deg()
    deciles = torch.stack((cosines, ratios, angles)).quantile(cosines.new_tensor([0.1, 0.5, 0.9]), dim=1)
    low, middle, high = (each.tolist() for each in deciles)
    middle[0] = float(weights @ cosines)
    columns = [x for each in zip(middle, low, high, strict=True) for x in each]
    return {PUSHED: float(share), **dict(zip(GRADIENTS, columns, strict=True))}

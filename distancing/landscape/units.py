"""Steps measured in units of the network, so that two scalings of the same function make the same step.

A step ε from θ is ε_i = t_i u_i. The unit t_i is

filter    the norm of the filter (in a linear layer, of the row) that θ_i belongs to, or |θ_i| for biases and batch
          norms (Li et al. 2018; Kwon et al. 2021). The step does not change if a filter before a batch norm is scaled,
          nor if a layer with its bias is scaled before a ReLU and the next layer inversely (Dinh et al. 2017).
element   |θ_i|. The step does not change either if a single unit before a ReLU is scaled. But a parameter that is 0
          stays 0, and a large parameter among small ones moves most.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from distancing.hills.theta import Theta, filter_noise, filter_norms

Unit = Literal["filter", "element"]


def scale(theta: Theta, unit: Unit) -> Tensor:
    """Return the unit t_i of each parameter [P] at the current θ."""
    named = {}
    for name, value in theta.named(theta.vector).items():
        by_element = unit == "element" or value.dim() < 2
        named[name] = value.abs() if by_element else filter_norms(value).expand_as(value)
    return theta.flatten(named)


def random_step(theta: Theta, unit: Unit, generator: torch.Generator) -> Tensor:
    """Return Gaussian noise u [P], scaled so that ‖u‖² is the number of units.

    With `filter`, u has length 1 on each filter, and is 0 for biases and batch norms. generator: on the CPU, so that
    all devices get the same noise.
    """
    named = {}
    for name, value in theta.named(theta.vector).items():
        if unit == "filter" and value.dim() > 1:
            named[name] = filter_noise(value, generator)
            continue
        noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
        named[name] = noise if unit == "element" else 0 * noise  # drawn all the same, to keep the sequence
    u = theta.flatten(named)
    return u if unit == "filter" else F.normalize(u, dim=0) * len(theta) ** 0.5

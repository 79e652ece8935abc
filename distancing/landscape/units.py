"""Steps in units of the network, so that a network that only writes the same function otherwise makes the same step.

A step ε from θ is ε_i = t_i u_i, where t_i is

filter    the norm of the filter (the row, in a dense layer) that θ_i belongs to; |θ_i| for biases and batch norms
          (Li et al. 2018; Kwon et al. 2021). A filter before a batch norm may be scaled, and so may a whole layer
          before a ReLU, with its bias, and the next one inversely (Dinh et al. 2017): the step is the same function's.
element   |θ_i|, which undoes the scaling of a single unit before a ReLU, too; but what is 0 stays 0, and a large
          parameter among small ones moves most.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from distancing.hills.theta import Theta

Unit = Literal["filter", "element"]


def scale(theta: Theta, unit: Unit) -> Tensor:
    """t [P] of the parameters as they are."""
    named = {}
    for name, value in theta.named(theta.vector).items():
        if unit == "element" or value.dim() < 2:
            named[name] = value.abs()
        else:
            norms = torch.linalg.vector_norm(value, dim=tuple(range(1, value.dim())), keepdim=True)
            named[name] = norms.expand_as(value)
    return theta.flatten(named)


def random_step(theta: Theta, unit: Unit, generator: torch.Generator) -> Tensor:
    """u [P], Gaussian noise of root mean square 1 over the filters, or elements: ‖u‖² is their number.

    By filters each has the length 1, and biases and batch norms stay. generator: on the CPU, so that all devices get
    the same noise.
    """
    named = {}
    for name, value in theta.named(theta.vector).items():
        noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
        if unit == "filter":
            noise = F.normalize(noise.flatten(1), dim=1).view(value.shape) if value.dim() > 1 else 0 * noise
        named[name] = noise
    u = theta.flatten(named)
    return u if unit == "filter" else F.normalize(u, dim=0) * len(theta) ** 0.5

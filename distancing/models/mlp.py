"""A multilayer perceptron, the smallest network here, without batch norm."""

import itertools
import math
from typing import Annotated

from annotated_types import Le
from pydantic import PositiveInt
from torch import nn

from distancing.component import component
from distancing.models.base import Model


@component
class MLP(Model):
    """A multilayer perceptron with ReLU units.

    depth (layers): the number of hidden layers.
    width (units): the size of each hidden layer.
    """

    takes_all_images = True

    depth: Annotated[PositiveInt, Le(1000)] = 2
    width: Annotated[PositiveInt, Le(100_000)] = 128

    def network(self, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
        widths = [math.prod(image_shape), *[self.width] * self.depth]
        layers: list[nn.Module] = [nn.Flatten()]
        for fan_in, fan_out in itertools.pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(self.width, classes))

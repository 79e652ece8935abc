"""MobileNetV2 (Sandler et al. 2018; section 2.2.3 of the thesis) with strides for 32×32 images."""

from typing import Annotated

from annotated_types import Ge, Le, Lt
from pydantic import PositiveFloat
from torch import nn

from distancing.component import component
from distancing.models.base import Model


@component
class MobileNetV2(Model):
    """torchvision's network, whose stem and second stage have stride 1 here, so that 32×32 images end as 4×4.

    width: a factor on the number of channels (α in the paper).
    dropout: the dropout rate before the last layer. The thesis mentions none.
    """

    takes_all_images = True

    width: Annotated[PositiveFloat, Le(100)] = 1.0
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0

    def network(self, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
        import torchvision  # slow, and not needed to check a config

        expansion_channels_blocks_stride = [
            [1, 16, 1, 1], [6, 24, 2, 1], [6, 32, 3, 2], [6, 64, 4, 2], [6, 96, 3, 1], [6, 160, 3, 2], [6, 320, 1, 1],
        ]  # fmt: skip
        network = torchvision.models.MobileNetV2(
            num_classes=classes,
            width_mult=self.width,
            inverted_residual_setting=expansion_channels_blocks_stride,
            dropout=self.dropout,
        )
        stem = network.features[0]
        stem[0] = nn.Conv2d(image_shape[0], stem[0].out_channels, 3, padding=1, bias=False)
        return network

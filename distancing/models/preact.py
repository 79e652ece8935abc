"""Residual networks with pre-activation (He et al. 2016), and wide ones (Zagoruyko & Komodakis 2016)."""

from collections import OrderedDict
from typing import Annotated

from annotated_types import Ge, Le, Lt
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from distancing.component import component
from distancing.models.base import Model


@component
class PreActResNet(Model):
    """A 3×3 stem of `width` channels, and `stages` stages of `blocks` blocks of two convolutions each.

    The first stage has `width` · `widen` channels; each later one halves the image and doubles the channels. With three
    stages of width 16, WRN-d-k has (d − 4) / 6 blocks and widen = k.

    blocks: the number of blocks of each stage.
    width (channels): the number of channels of the stem.
    widen: the factor by which the first stage is wider than the stem.
    stages: the number of stages.
    dropout: the rate between the two convolutions of a block.
    """

    takes_all_images = True

    blocks: Annotated[PositiveInt, Le(2000)]
    width: Annotated[PositiveInt, Le(10_000)] = 16
    widen: Annotated[PositiveInt, Le(100)] = 1
    stages: Annotated[PositiveInt, Le(6)] = 3
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0

    def network(self, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv1=nn.Conv2d(image_shape[0], self.width, 3, padding=1, bias=False)
        )
        channels = self.width
        for stage in range(self.stages):
            out, blocks = self.width * self.widen * 2**stage, []
            for block in range(self.blocks):
                blocks.append(PreActBlock(channels, out, 2 if stage and not block else 1, self.dropout))
                channels = out
            layers[f"layer{stage + 1}"] = nn.Sequential(*blocks)
        layers.update(bn=nn.BatchNorm2d(channels), relu=nn.ReLU(inplace=True), pool=nn.AdaptiveAvgPool2d(1))
        layers.update(flatten=nn.Flatten(), fc=nn.Linear(channels, classes))
        return nn.Sequential(layers)


class PreActBlock(nn.Module):
    """Batch norm, ReLU and a 3×3 convolution, twice. The shortcut is a 1×1 convolution where the shape changes."""

    def __init__(self, channels: int, out: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        changes = channels != out or stride != 1
        self.shortcut = nn.Conv2d(channels, out, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        residual: Tensor = self.conv2(self.dropout(F.relu(self.bn2(self.conv1(active)))))
        return residual + (x if self.shortcut is None else self.shortcut(active))

"""Residual networks for small images (He et al. 2016, section 4.2; section 2.2.3 of the thesis)."""

from collections import OrderedDict
from typing import Annotated, Literal

import torch
from annotated_types import Le
from pydantic import PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from distancing.component import component
from distancing.models.base import Model


@component
class ResNet(Model):
    """A 3×3 stem and `stages` stages, each with the same number of blocks of two convolutions.

    Each stage after the first halves the image and doubles the channels, of which the first stage has `width`. Three
    stages make He's CIFAR networks of depth 6n + 2. Four stages of width 64 and depth 18 make ResNet-18 with a stem for
    32×32 images.

    depth (layers): 2 plus a multiple of twice the number of stages.
    width (channels): the number of channels of the first stage.
    stages: the number of stages.
    shortcut: where the shape changes. `conv`: a 1×1 convolution with batch norm (option B of He et al.); `pad`: every
        second pixel, and zeros for the new channels (option A).
    """

    takes_all_images = True

    depth: Annotated[PositiveInt, Le(10_000)]
    width: Annotated[PositiveInt, Le(10_000)] = 16
    stages: Annotated[PositiveInt, Le(6)] = 3
    shortcut: Literal["conv", "pad"] = "conv"

    @model_validator(mode="after")
    def _depth_is_whole(self) -> Self:
        if self.depth <= 2 or (self.depth - 2) % (2 * self.stages):
            raise ValueError(f"depth={self.depth} is not {2 * self.stages}n + 2, as {self.stages} stages need")
        return self

    def network(self, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv1=nn.Conv2d(image_shape[0], self.width, 3, padding=1, bias=False),
            bn1=nn.BatchNorm2d(self.width),
            relu=nn.ReLU(inplace=True),
        )
        channels = self.width
        for stage in range(self.stages):
            blocks = []
            for block in range((self.depth - 2) // (2 * self.stages)):
                out, stride = self.width * 2**stage, 2 if stage and not block else 1
                blocks.append(Block(channels, out, stride, self._shortcut(channels, out, stride)))
                channels = out
            layers[f"layer{stage + 1}"] = nn.Sequential(*blocks)
        layers.update(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(channels, classes))
        return nn.Sequential(layers)

    def _shortcut(self, channels: int, out: int, stride: int) -> nn.Module | None:
        if channels == out and stride == 1:
            return None
        if self.shortcut == "pad":
            return ZeroPad(out - channels, stride)
        convolution = nn.Conv2d(channels, out, 1, stride, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(out))


class Block(nn.Module):
    """Two 3×3 convolutions with batch norm, and a shortcut around them, with the names of torchvision's BasicBlock.

    torchvision's own block takes 1.5 s to import, which is half of a short run.
    """

    def __init__(self, channels: int, out: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        residual += x if self.downsample is None else self.downsample(x)
        return self.relu(residual)


class ZeroPad(nn.Module):
    """A shortcut without parameters: every `stride`-th pixel, followed by `channels` channels of zeros."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, self.channels)).contiguous(memory_format=_format(x))


def _format(x: Tensor) -> torch.memory_format:
    channels_last = x.stride(1) == 1 and x.shape[1] > 1
    return torch.channels_last if channels_last else torch.contiguous_format

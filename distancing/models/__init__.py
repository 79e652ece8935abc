"""Networks for small images, from torch's and torchvision's own blocks. They know no data sets."""

from distancing.models.base import Model
from distancing.models.mlp import MLP
from distancing.models.mobilenetv2 import MobileNetV2
from distancing.models.resnet import ResNet

__all__ = ["MLP", "MobileNetV2", "Model", "ResNet"]

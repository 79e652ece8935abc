"""Networks for small images, made of torch's and torchvision's blocks."""

from distancing.models.base import Model
from distancing.models.mlp import MLP
from distancing.models.mobilenetv2 import MobileNetV2
from distancing.models.preact import PreActResNet
from distancing.models.resnet import ResNet

__all__ = ["MLP", "MobileNetV2", "Model", "PreActResNet", "ResNet"]

"""The base class of all models, which are built for an image shape and a number of classes."""

from typing import Literal

import torch
from torch import nn

from distancing.component import component


@component
class Model:
    """A network architecture.

    init: `pytorch` (the layers' default), `he` (He et al. 2015, normal, fan-in) or `glorot` (1.8).
    """

    init: Literal["pytorch", "he", "glorot"] = "pytorch"

    def network(self, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
        """Return the module that maps images [B, C, H, W], of shape (C, H, W), to logits [B, classes]."""
        raise NotImplementedError

    def build(self, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
        """Return the initialised network, whose parameters are drawn from torch's global generator."""
        network = self.network(image_shape, classes)
        for module in network.modules():
            initialise(module, self.init)
        return network

    def operations(self, image_shape: tuple[int, int, int], classes: int) -> int:
        """Return the number of floating-point operations of one image's forward pass, without computing it."""
        from torch.utils.flop_counter import FlopCounterMode  # slow to import, and rarely needed

        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            self.network(image_shape, classes).eval()(torch.empty(1, *image_shape))
        return counter.get_total_flops()


def initialise(module: nn.Module, scheme: str) -> None:
    """Initialise one layer; layers without weights keep what they have."""
    if callable(reset := getattr(module, "reset_parameters", None)):
        reset()
    if scheme == "pytorch" or not isinstance(module, (nn.Linear, nn.Conv2d)):
        return
    if scheme == "he":
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    else:  # (1.8), where m and n are fan-in and fan-out, including the window of a convolution
        nn.init.xavier_uniform_(module.weight)
    if module.bias is not None:
        nn.init.zeros_(module.bias)

"""Networks of torchvision and timm by their names, with their own initialisation and without pretrained weights."""

from typing import Any, Literal

from torch import nn

Stem = Literal["original", "small"]


def torchvision(
    image_shape: tuple[int, int, int], classes: int, name: str, stem: Stem = "original", **settings: Any
) -> nn.Module:
    """Return torchvision's network of this name, for images with any number of channels.

    stem: see `adapt`. settings: the arguments of torchvision's function. Raise ValueError for an unknown name.
    """
    from torchvision.models import get_model

    return adapt(get_model(name, weights=None, num_classes=classes, **settings), image_shape[0], stem)


def timm(
    image_shape: tuple[int, int, int], classes: int, name: str, stem: Stem = "original", **settings: Any
) -> nn.Module:
    """Return timm's network of this name, for images with any number of channels.

    stem: see `adapt`. settings: the arguments of `timm.create_model`. Raise ImportError without timm, ValueError for
    an unknown name.
    """
    try:
        from timm import create_model
    except ModuleNotFoundError as error:
        raise ImportError("model=timm needs timm: pip install 'distancing[timm]'") from error
    try:
        network = create_model(name, pretrained=False, num_classes=classes, in_chans=image_shape[0], **settings)
    except RuntimeError as error:  # an unknown name
        raise ValueError(str(error)) from error
    return adapt(network, image_shape[0], stem)


def adapt(network: nn.Module, channels: int, stem: Stem) -> nn.Module:
    """Let the first convolution of a network take this number of channels; return the network.

    stem: `small` makes this convolution 3×3 with stride 1 and removes the pooling after it, which suits 32×32 images.
    Raise ValueError for a network without such a stem, which is `conv1` and `maxpool` of a ResNet.
    """
    name, first = next(((name, m) for name, m in network.named_modules() if isinstance(m, nn.Conv2d)), ("", None))
    if stem not in ("original", "small"):
        raise ValueError(f"stem={stem!r}: expected original or small")
    if stem == "small" and (name != "conv1" or not hasattr(network, "maxpool")):
        raise ValueError("stem=small needs a network with conv1 and maxpool, such as a ResNet")
    if first is None or (stem == "original" and first.in_channels == channels):
        return network
    size: dict[str, Any] = {"kernel_size": 3, "padding": 1}
    if stem == "original":
        names = ("kernel_size", "stride", "padding", "dilation", "groups")
        size = {name: getattr(first, name) for name in names}
    convolution = nn.Conv2d(channels, first.out_channels, bias=first.bias is not None, **size)
    network.set_submodule(name, convolution)
    if stem == "small":
        network.set_submodule("maxpool", nn.Identity())
    return network

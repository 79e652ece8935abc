"""The memory layouts in which a network's gradient can be trusted."""

from torch import nn

BLOCK = 16  # channels that oneDNN's AVX-512 kernels compute at once; its AVX2 kernels take 8


def unsafe_in_channels_last(network: nn.Module) -> list[str]:
    """Return the names of the convolutions that oneDNN computes wrongly in channels_last on a CPU.

    They are the 1×1 convolutions with a stride and fewer input channels than a block has. Their weights' gradient is
    off by up to 85 %, or memory beyond it is overwritten (uxlfoundation/oneDNN, issue 6035).
    """
    return [
        name
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (1, 1)
        and layer.stride != (1, 1)
        and layer.in_channels // layer.groups < BLOCK
    ]

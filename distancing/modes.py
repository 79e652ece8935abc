"""The mode, training or evaluation, of the modules of a network."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def modes_kept(network: nn.Module) -> Iterator[None]:
    """Restore the mode of every module afterwards."""
    modes = {module: module.training for module in network.modules()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode

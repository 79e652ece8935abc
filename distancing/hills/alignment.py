"""Let a network on a GPU compute with parameters that begin where cuDNN's kernels expect them.

The parameters of a network are views into one vector, and so a parameter begins wherever the one before it ends. Some
kernels of cuDNN read several numbers at a time. If a weight begins between two such groups, they fail with "misaligned
address", or there is no kernel for the weight at all.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn

ALIGNMENT = 32  # bytes; PyTorch asks cuDNN for kernels of at most this alignment


def align(module: nn.Module) -> None:
    """Let each forward pass of `module` compute with copies of those parameters that are not aligned.

    The parameters stay where they are, and their gradients flow through the copies.
    """
    if names := [name for name, p in module.named_parameters() if p.data_ptr() % ALIGNMENT]:
        module.register_forward_pre_hook(partial(_put_copies, names))
        module.register_forward_hook(partial(_remove_copies, names), always_call=True)


def _put_copies(names: Sequence[str], module: nn.Module, args: Any) -> None:  # noqa: ARG001
    for owner, name in _owners(names, module):
        owner.__dict__[name] = owner._parameters[name].clone()  # type: ignore[union-attr]  # found before the parameter


def _remove_copies(names: Sequence[str], module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG001
    for owner, name in _owners(names, module):
        owner.__dict__.pop(name, None)


def _owners(names: Sequence[str], module: nn.Module) -> list[tuple[nn.Module, str]]:
    """Return the module that has each parameter, and the parameter's own name."""
    paths = [name.rpartition(".") for name in names]
    return [(module.get_submodule(path), own) for path, _, own in paths]

"""The network's parameters θ as ONE flat vector; the module's own tensors are views into it.

A penalty, a distance, an optimiser step or a snapshot is then a handful of operations on one tensor,
however many layers the network has.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


class Theta:
    """The parameters of `module` (float32, P in all) and their gradient, each as one vector of shape [P].

    `vector` and `gradient` share their memory with the module: a backward pass adds to `gradient`, and
    whatever is written to `vector` is what the module computes with. Strides are kept, so that a module
    in channels_last stays so. The order within the vector is the module's own and means nothing outside:
    what leaves the process is named (`named`).
    """

    def __init__(self, module: nn.Module) -> None:
        parameters = dict(module.named_parameters())
        first = next(iter(parameters.values()))
        self.vector = first.new_empty(sum(p.numel() for p in parameters.values())).detach()
        self.gradient = torch.zeros_like(self.vector)
        self.vector.grad = self.gradient  # so that torch.optim steps the whole network as one tensor
        self._views: dict[str, tuple[torch.Size, tuple[int, ...], int]] = {}
        offset = 0
        for name, parameter in parameters.items():
            self._views[name] = (parameter.shape, parameter.stride(), offset)
            offset += parameter.numel()
        values, gradients = self.named(self.vector), self.named(self.gradient)
        for name, parameter in parameters.items():
            values[name].copy_(parameter.detach())
            parameter.data, parameter.grad = values[name], gradients[name]

    def __len__(self) -> int:
        return self.vector.numel()

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def named(self, vector: Tensor) -> dict[str, Tensor]:
        """Views into `vector` [P], under the parameters' names and in their shapes."""
        start = vector.storage_offset()  # of a row of a bank, say
        return {name: vector.as_strided(*where, start + offset) for name, (*where, offset) in self._views.items()}

    def flatten(self, named: Mapping[str, Tensor]) -> Tensor:
        """The vector [P] whose `named` views hold these tensors. Raises KeyError if one is missing."""
        vector = torch.empty_like(self.vector)
        for name, view in self.named(vector).items():
            view.copy_(named[name])
        return vector

"""The parameters θ of a network as one flat vector, into which the module's own tensors are views.

A penalty, a distance, an optimiser step or a copy then takes a few operations on one tensor, whatever the number of
layers.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Theta:
    """The parameters of `module` (float32, P in all) and their gradient, each as one vector of shape [P].

    vector: shares its memory with the module, which computes with whatever is written to it. Weights, the tensors of
        two or more dimensions, come first; biases and batch norms follow. Strides are kept, so that a module in
        channels_last stays so. The order depends on the module; what leaves the process is `named`.
    gradient: the module's gradients, after `collect_gradient`.
    weights: the number of weights. filters: the number of weights of each output filter.
    """

    def __init__(self, module: nn.Module) -> None:
        parameters = dict(sorted(module.named_parameters(), key=lambda named: named[1].dim() < 2))
        weights = [p for p in parameters.values() if p.dim() >= 2]
        self.weights = sum(p.numel() for p in weights)
        self.filters = [p[0].numel() for p in weights for _ in p]
        first = next(iter(parameters.values()))
        self.vector = first.new_empty(sum(p.numel() for p in parameters.values())).detach()
        self.gradient = torch.zeros_like(self.vector)
        self.vector.grad = self.gradient  # so that torch.optim steps the whole network as one tensor
        self._parameters = list(parameters.values())
        self._views = {name: (p.shape, p.stride()) for name, p in parameters.items()}
        for parameter, value in zip(self._parameters, self.named(self.vector).values(), strict=True):
            value.copy_(parameter.detach())
            parameter.data = value

    def collect_gradient(self) -> None:
        """Move the gradients of the last backward pass into `gradient`, and clear them.

        This is one operation. Views into `gradient` would need one for each parameter, and one to clear them.
        """
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self._parameters]
        torch.cat([g.as_strided((g.numel(),), (1,)) for g in gradients], out=self.gradient)  # in memory order
        for parameter in self._parameters:
            parameter.grad = None

    def __len__(self) -> int:
        return self.vector.numel()

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def named(self, vector: Tensor) -> dict[str, Tensor]:
        """Return views into `vector` [P] with the shapes of the parameters, by their names."""
        pieces = vector.split([shape.numel() for shape, _ in self._views.values()])  # autograd makes one gradient
        return {
            name: piece.as_strided(shape, stride, piece.storage_offset())
            for piece, (name, (shape, stride)) in zip(pieces, self._views.items(), strict=True)
        }

    def flatten(self, named: Mapping[str, Tensor]) -> Tensor:
        """Return the vector [P] whose `named` views hold these tensors. Raise KeyError if one is missing."""
        vector = torch.empty_like(self.vector)
        for name, view in self.named(vector).items():
            view.copy_(named[name])
        return vector


def filter_direction(theta: Theta, generator: torch.Generator) -> Tensor:
    """Return a random direction [P] of length 1 that moves each output filter in proportion to its norm.

    Gaussian noise is scaled to the norm of each filter (Li et al. 2018), so that filters of small weights are not
    drowned, and then to length 1 as a whole. Biases and batch norms do not move. generator: on the CPU, so that all
    devices get the same noise.
    """
    named = {}
    for name, value in theta.named(theta.vector).items():
        if value.dim() < 2:
            named[name] = torch.zeros_like(value)
        else:
            named[name] = filter_noise(value, generator).to(value.device) * filter_norms(value)
    return F.normalize(theta.flatten(named), dim=0)


def filter_noise(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Return Gaussian noise in the shape of `weight`, on the CPU, scaled to length 1 on each output filter."""
    noise = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    return F.normalize(noise.flatten(1), dim=1).view(weight.shape)


def filter_norms(weight: Tensor) -> Tensor:
    """Return the norm of each output filter [F, 1, …]."""
    return torch.linalg.vector_norm(weight, dim=tuple(range(1, weight.dim())), keepdim=True)

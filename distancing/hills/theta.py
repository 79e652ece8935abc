"""The parameters θ of a network as one flat vector.

A penalty, a distance, an optimiser step or a copy then takes a few operations on one tensor, whatever the number of
layers. The tensors of a module are views into `Theta`'s vector; `Parameters` leaves them where they are.
"""

import functools
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distancing.hills.alignment import align


class Layout:
    """The order of named parameters in one vector [P].

    Weights, the tensors of two or more dimensions, come first; biases and batch norms follow. The order depends on the
    module, so files hold the parameters by name.

    parameters: the parameters in this order. weights: the number of weights. filters: the number of weights of each
    output filter.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        ordered = dict(sorted(parameters.items(), key=lambda named: named[1].dim() < 2))
        weights = [p for p in ordered.values() if p.dim() >= 2]
        self.parameters = list(ordered.values())
        self.weights = sum(p.numel() for p in weights)
        self.filters = [p[0].numel() for p in weights for _ in p]
        self._views = {name: (p.shape, self.stride(p)) for name, p in ordered.items()}
        self._length = sum(p.numel() for p in self.parameters)

    @staticmethod
    def stride(parameter: Tensor) -> tuple[int, ...]:
        """Return the strides of a parameter's view into the vector, in which each output filter is one piece."""
        return torch.empty(parameter.shape, device="meta").stride()

    @property
    def vector(self) -> Tensor:
        """The parameters θ as one vector [P], detached."""
        raise NotImplementedError

    def check_unchanged(self) -> None:
        """Raise RuntimeError if these are no longer the module's parameters."""

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    @property
    def shapes(self) -> dict[str, list[int]]:
        """The shape of each parameter, in this order."""
        return {name: list(shape) for name, (shape, _) in self._views.items()}

    def named(self, vector: Tensor) -> dict[str, Tensor]:
        """Return views into `vector` [P] with the shapes of the parameters, by their names."""
        pieces = vector.split([shape.numel() for shape, _ in self._views.values()])  # autograd makes one gradient
        return {
            name: piece.as_strided(shape, stride, piece.storage_offset())
            for piece, (name, (shape, stride)) in zip(pieces, self._views.items(), strict=True)
        }

    def pieces(self, vector: Tensor) -> list[Tensor]:
        """Return the parts of `vector` [P], one for each parameter, in its shape and type."""
        views = self.named(vector).values()
        return [view.to(p.dtype) for view, p in zip(views, self.parameters, strict=True)]

    def flatten(self, named: Mapping[str, Tensor]) -> Tensor:
        """Return the vector [P] whose `named` views hold these tensors. Raise KeyError if one is missing."""
        vector = torch.empty_like(self.vector)
        for name, view in self.named(vector).items():
            view.copy_(named[name])
        return vector


class Theta(Layout):
    """The parameters of `module` (float32, P in all) and their gradient, each as one vector of shape [P].

    vector: shares its memory with the module, which computes with whatever is written to it. A module in channels_last
        stays so.
    gradient: the module's gradients, after `collect_gradient`.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__(dict(module.named_parameters()))
        self._vector = self.parameters[0].new_empty(len(self)).detach()
        self.gradient = torch.zeros_like(self._vector)
        self._vector.grad = self.gradient  # so that torch.optim steps the whole network as one tensor
        for parameter, value in zip(self.parameters, self.named(self._vector).values(), strict=True):
            value.copy_(parameter.detach())
            parameter.data = value
        if self._vector.is_cuda:
            align(module)

    @staticmethod
    def stride(parameter: Tensor) -> tuple[int, ...]:
        formats = {4: torch.channels_last, 5: torch.channels_last_3d}
        last = formats.get(parameter.dim())
        kept = last is not None and parameter.is_contiguous(memory_format=last)
        return parameter.stride() if kept else Layout.stride(parameter)

    @property
    def vector(self) -> Tensor:
        return self._vector

    def collect_gradient(self) -> None:
        """Move the gradients of the last backward pass into `gradient`, and clear them.

        This is one operation. Views into `gradient` would need one for each parameter, and one to clear them.
        """
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.parameters]
        torch.cat([g.as_strided((g.numel(),), (1,)) for g in gradients], out=self.gradient)  # in memory order
        self.clear_gradients()

    def clear_gradients(self) -> None:
        """Clear the module's gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def add_gradient(self, gradient: Tensor, scale: float = 1.0) -> None:
        """Add `scale` times this gradient [P] to `gradient`."""
        self.gradient.add_(gradient, alpha=scale)

    def multiply(self, factor: Tensor) -> None:
        """Multiply all parameters by a scalar."""
        self._vector.mul_(factor)


class Parameters(Layout):
    """The trainable parameters of a module that keeps its own tensors, gradients and optimiser.

    Tied parameters count once, and frozen ones do not count. The vector is float32, or float64 if a parameter is.
    Raise ValueError or TypeError for parameters that do not fit into one vector.
    """

    def __init__(self, module: nn.Module) -> None:
        named = dict(module.named_parameters())
        trainable = {name: p for name, p in named.items() if p.requires_grad}
        if not trainable:
            raise ValueError("the model has no trainable parameters: hills need some to push")
        for name, p in trainable.items():
            if isinstance(p, nn.parameter.UninitializedParameter):
                raise ValueError(f"{name} has no shape yet: run one forward pass of the model first")
            if hasattr(p, "device_mesh"):
                raise TypeError(f"{name} is divided among processes (FSDP): hills need whole parameters")
            if not p.is_floating_point():
                raise TypeError(f"{name} is {p.dtype}: hills need parameters of real floating-point numbers")
        if len(devices := {str(p.device) for p in trainable.values()}) > 1:
            raise ValueError(f"the parameters are on {', '.join(sorted(devices))}: hills need one device")
        super().__init__(trainable)
        self._module, self._known = module, frozenset(named)
        self._dtype = functools.reduce(torch.promote_types, (p.dtype for p in self.parameters), torch.float32)

    @property
    def vector(self) -> Tensor:
        return torch.cat([p.detach().flatten().to(self._dtype) for p in self.parameters])

    def check_unchanged(self) -> None:
        """Raise RuntimeError if the module has another parameter in the place of one of these, or a new one."""
        named = dict(self._module.named_parameters())
        replaced = [name for name, p in zip(self, self.parameters, strict=True) if named.get(name) is not p]
        new = [name for name, p in named.items() if name not in self._known and p.requires_grad]
        for name in (*replaced, *new):
            raise RuntimeError(
                f"{name} is another parameter since the model got its hills, for instance by a new layer or "
                "load_state_dict(assign=True): make new Hills, and load the state of these if the shapes are the same"
            )

    def add_gradient(self, gradient: Tensor, scale: float = 1.0) -> None:
        """Add `scale` times this gradient [P] to the parameters' gradients. One that is None counts as 0.

        Raise TypeError for a sparse gradient.
        """
        for name, p in zip(self, self.parameters, strict=True):
            if p.grad is not None and p.grad.is_sparse:
                raise TypeError(f"the gradient of {name} is sparse: add hills.energy() to the loss instead of a push")
        sums, pieces = [], []
        for p, piece in zip(self.parameters, self.pieces(gradient), strict=True):
            if p.requires_grad:  # the user may have frozen it since
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                sums.append(p.grad)
                pieces.append(piece)
        torch._foreach_add_(sums, pieces, alpha=scale)

    def multiply(self, factor: Tensor) -> None:
        """Multiply all parameters by a scalar."""
        torch._foreach_mul_([p.detach() for p in self.parameters], factor)


def filter_direction(theta: Theta, generator: torch.Generator) -> Tensor:
    """Return a random direction [P] of length 1 that moves each output filter in proportion to its norm.

    Gaussian noise is scaled to the norm of each filter (Li et al. 2018), so that it does not drown filters of small
    weights, and then to length 1 as a whole. Biases and batch norms do not move.

    generator: on the CPU, so that all devices get the same noise.
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

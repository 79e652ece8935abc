"""The hills of a model in a training loop, the runner's or a user's own."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.optim.optimizer import StateDict

from distancing.component.decorator import refusal
from distancing.hills.distances import Euclidean
from distancing.hills.features import Network
from distancing.hills.field import Field
from distancing.hills.kernels import Gaussian
from distancing.hills.penalty import NARROWEST, Penalty
from distancing.hills.theta import Parameters, Theta


class Hills(Field):
    """Hills on the loss at the checkpoints of `model`, for any training loop and any optimiser.

    Call `push` between the backward pass and the optimiser's step, or add `energy` to the loss; call `place` to put a
    hill at the present parameters.

    model: any module; one that is compiled or wrapped for several processes (DDP) is unwrapped. Its parameters,
        gradients and optimiser stay its own. Tied parameters count once, frozen ones do not count.
    penalty: the settings of the hills. Without it, `settings` are those of `Penalty`: `strength` and `sigma`, and if
        they are given `sigma_unit`, `distance`, `kernel`, `growth`, `temperature`, `half_life`, `newest`, `fixed_norm`.
    steps_per_epoch: the number of the optimiser's steps in an epoch, for hills that grow or decay.
    inputs: a batch of inputs, for a distance that compares predictions; or a function that returns the first n inputs.
    autocast: the context in which such a distance computes the predictions. None: full precision.
    theta: the parameters as one vector, if the model computes with one. None: read them from the model.

    Raise ValueError for a setting that is wrong, ValueError or TypeError for a model that cannot have hills.
    """

    def __init__(
        self,
        model: nn.Module,
        penalty: Penalty | None = None,
        *,
        steps_per_epoch: int | None = None,
        inputs: Tensor | Callable[[int], Tensor] | None = None,
        autocast: torch.autocast | None = None,
        theta: Theta | None = None,
        **settings: Any,
    ) -> None:
        if penalty is not None and settings:
            raise TypeError(f"{', '.join(settings)}: give either a penalty or its settings")
        try:
            penalty = penalty or Penalty(**{"distance": Euclidean(), "kernel": Gaussian(), **settings})
        except ValidationError as error:
            raise ValueError(refusal(error, Penalty)) from None
        counts = type(steps_per_epoch) is int and steps_per_epoch > 0
        if not counts and (penalty.changes or steps_per_epoch is not None):
            needed = "hills that grow or decay need the number of the optimiser's steps in an epoch, an integer from 1"
            raise ValueError(f"steps_per_epoch={steps_per_epoch}: {needed}")
        if not isinstance(model, nn.Module):
            raise TypeError(f"{type(model).__name__}: Hills need the torch.nn.Module itself")
        if not (inputs is None or callable(inputs) or isinstance(inputs, Tensor)):
            raise TypeError(f"inputs is a {type(inputs).__name__}: give one tensor, or a function that returns one")
        module = unwrapped(model)
        self.theta = theta or Parameters(module)
        self.steps_per_epoch = steps_per_epoch
        start = self.theta.vector.clone()
        autocast = autocast or torch.autocast(start.device.type, enabled=False)
        network = Network(self.theta, module, inputs if callable(inputs) else _first(inputs), autocast)
        super().__init__(penalty, start, network)
        self._heights: Tensor | None = None  # of the hills that act, at the last evaluation since one was placed
        self._norm_is_due = False

    # a step

    def push(self, inputs: Tensor | None = None, *, scale: float = 1.0) -> Tensor:
        """Add the hills' gradient (2.11) to the parameters' gradients, and let time pass; return the energy (2.9).

        Call it once for each step of the optimiser, after the backward passes.

        inputs: the step's batch, for a distance that compares predictions on it.
        scale: the factor on the loss, such as a GradScaler's. Leave it out after `scaler.unscale_(optimizer)`.

        Raise RuntimeError if `keep_norm` is due or the model has other parameters or another device than at its start,
        ValueError if the batch is missing.
        """
        if self._norm_is_due:
            raise RuntimeError("fixed_norm=True needs hills.keep_norm() after each step of the optimiser")
        energy, gradient = self.gradient(inputs)
        if len(self):
            self.theta.add_gradient(gradient, scale)
            self.pass_time()
            self._norm_is_due = self.penalty.fixed_norm
        return energy

    def energy(self, inputs: Tensor | None = None) -> Tensor:
        """Return the energy E (2.9), a scalar to add to the loss; its backward pass gives the hills' gradient.

        After each step of the optimiser, call `pass_time` if hills grow or decay, and `keep_norm` if the norm is fixed.
        A forgotten call is not noticed, because a closure may evaluate E at many parameters within one step.

        Raise RuntimeError and ValueError as `push` does.
        """
        energy: Tensor = _Energy.apply(self, inputs, *self.theta.parameters)
        return energy

    @torch.no_grad()
    def gradient(self, inputs: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return E (2.9) and ∂E/∂θ [P] at the model's parameters, in the order of `theta`."""
        self.theta.check_unchanged()
        theta = self.theta.vector
        if theta.device != self.start.device:
            raise RuntimeError(f"the model has moved from {self.start.device} to {theta.device} since it got its hills")
        if not len(self):
            return theta.new_zeros(()), torch.zeros_like(theta)
        if self.features.moving and inputs is None:
            raise ValueError("this distance compares predictions on the step's batch: pass its inputs")
        with torch.autocast(theta.device.type, enabled=False):
            energy, gradient, self._heights = self.evaluate(theta, inputs)
        if self.features.moving:  # each process has a batch of its own
            _average_over_processes(energy, gradient, self._heights)
        return energy, gradient

    def pass_time(self) -> None:
        """Let the hills grow and decay for one step of the optimiser. `push` does this itself.

        Raise RuntimeError if there was no `energy` since a hill was placed.
        """
        if self.penalty.changes and self.steps_per_epoch and len(self):
            if self._heights is None:
                raise RuntimeError("hills.pass_time(): call hills.energy() before it, and hills.place() after it")
            self.change(self._heights, 1 / self.steps_per_epoch)

    @torch.no_grad()
    def keep_norm(self) -> None:
        """Set ‖θ‖ to its value at the newest checkpoint, after a step of the optimiser, if fixed_norm says so.

        Raise RuntimeError if the model has other parameters than at its start.
        """
        if self.penalty.fixed_norm and len(self):
            self.theta.check_unchanged()
            self.theta.multiply(self.norm / self.theta.vector.square().sum().sqrt())
        self._norm_is_due = False

    # checkpoints

    @torch.no_grad()
    def place(self) -> None:
        """Store a checkpoint at the model's parameters, and put a hill there.

        Raise ValueError if the hill would have no width, or a parameter is not finite.
        """
        self.theta.check_unchanged()
        if not self.theta.vector.isfinite().all():
            raise ValueError("a parameter is infinite or NaN, and so would be the hill and all further gradients")
        checkpoint = self.theta.vector[None]
        if not self.penalty.width(self.features(checkpoint)[0], self.features(self.start)) >= NARROWEST:
            raise ValueError(
                f"sigma_unit={self.penalty.sigma_unit!r}: the hill would have no width here; train before you place "
                "the first one, or use another unit"
            )
        self.put(torch.cat((self.checkpoints, checkpoint)))
        self._heights = None

    @torch.no_grad()
    def heights(self, theta: Tensor | None = None) -> Tensor:
        """Return k(θ, θ_c) of each hill [K] at θ [P] or else at the model's parameters; see `Field.heights`.

        Raise RuntimeError if the model has other parameters than at its start.
        """
        if theta is None:
            self.theta.check_unchanged()
            theta = self.theta.vector
        return super().heights(theta) if len(self) else self.strengths

    def state_dict(self) -> StateDict:
        """Return the hills' checkpoints and strengths, for `torch.save`. The settings are not part of it."""
        return {
            "parameters": self.theta.shapes,
            "start": self.start,
            "checkpoints": self.checkpoints,
            "strengths": self.strengths,
        }

    @torch.no_grad()
    def load_state_dict(self, state: StateDict) -> None:
        """Load a state of `state_dict`. Raise ValueError if the model of its hills had other parameters."""
        if missing := {"parameters", "start", "checkpoints", "strengths"} - state.keys():
            raise ValueError(f"this is not a state of hills: it has no {', '.join(sorted(missing))}")
        shapes, own = state["parameters"], self.theta.shapes
        if list(shapes.items()) != list(own.items()):
            raise ValueError(f"these are the hills of another model: {_difference(shapes, own)}")
        self.start, checkpoints, strengths = (
            state[name].to(self.start, copy=True) for name in ("start", "checkpoints", "strengths")
        )
        self.strengths, self.checkpoints = strengths, checkpoints
        if len(checkpoints):
            self.put(checkpoints)
        self._heights, self._norm_is_due = None, False


class _Energy(torch.autograd.Function):
    """The energy of hills as a function of the model's parameters. The forward pass computes its gradient, too."""

    @staticmethod
    def forward(ctx: Any, hills: Hills, inputs: Tensor | None, *parameters: Tensor) -> Tensor:  # noqa: ARG004
        energy, gradient = hills.gradient(inputs)
        ctx.pieces = hills.theta.pieces(gradient)
        return energy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(factor * piece for piece in ctx.pieces)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the module inside `torch.compile`'s and DistributedDataParallel's wrappers."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def _difference(there: Mapping[str, list[int]], here: Mapping[str, list[int]]) -> str:
    """Return the first difference between the parameters of two models, in their shapes or else in their order."""
    for name in (*here, *there):
        if there.get(name) != here.get(name):
            return f"{name} is {there.get(name)} there and {here.get(name)} here"
    one, other = next(names for names in zip(there, here, strict=True) if names[0] != names[1])
    return f"{one} is there where {other} is here"


def _first(inputs: Tensor | None) -> Callable[[int], Tensor]:
    """Return a function that returns the first n of these inputs."""

    def first(n: int) -> Tensor:
        if inputs is None:
            raise ValueError("this distance compares predictions: give Hills a batch of inputs")
        return inputs[:n]

    return first


def _average_over_processes(*tensors: Tensor) -> None:
    """Replace each tensor by its mean over the processes that train together, if there are several."""
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        for tensor in tensors:
            distributed.all_reduce(tensor)
            tensor /= distributed.get_world_size()

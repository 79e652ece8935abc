"""Optimisers: torch.optim on the whole network as one tensor."""

import inspect
import math
from typing import Annotated, Literal, TypeVar

import torch
from annotated_types import Ge, Lt
from pydantic import NonNegativeFloat, PositiveFloat, model_validator
from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Self

from distancing.component import component
from distancing.hills.theta import Theta

T = TypeVar("T", bound=torch.optim.Optimizer)


def without_dynamo(optimizer: type[T]) -> type[T]:
    """Return torch's optimiser without the decorators of its methods, which import torch._dynamo in 1.4 s.

    They only matter inside of torch.compile, and no optimiser is compiled here.
    """
    names = ("add_param_group", "load_state_dict", "state_dict", "step", "zero_grad")
    methods = {name: inspect.unwrap(getattr(optimizer, name)) for name in names}
    return type(optimizer.__name__, (optimizer,), {**methods, "step": torch.no_grad()(methods["step"])})


@component
class Optimizer:
    """The base class of all optimisers.

    lr: the initial learning rate, before the schedule.
    l2: λ of (1.13), which adds λ‖θ‖² to the loss and 2λθ to the gradient.
    decay: the parameters to which `l2`, or a weight decay, applies: `all`, or only the `weights`, without biases and
        norms.
    """

    lr: PositiveFloat
    l2: NonNegativeFloat = 0.0
    decay: Literal["all", "weights"] = "all"

    def penalised(self, theta: Theta) -> Tensor:
        """Return the parameters to which `l2` applies, as a part of `theta.vector`."""
        return theta.vector if self.decay == "all" else theta.vector[: theta.weights]

    def groups(self, theta: Theta, weight_decay: float) -> ParamsT:
        """Return torch's parameter groups, in which this weight decay applies to the penalised parameters alone."""
        if self.decay == "all":
            return [{"params": [theta.vector], "weight_decay": weight_decay}]
        groups = []
        for part, decay in ((slice(theta.weights), weight_decay), (slice(theta.weights, None), 0.0)):
            parameters = theta.vector[part]
            parameters.grad = theta.gradient[part]
            groups.append({"params": [parameters], "weight_decay": decay})
        return groups

    def build(self, theta: Theta) -> torch.optim.Optimizer:
        """Return torch's optimiser of `theta.vector`."""
        raise NotImplementedError

    def noise(self, lr: float, temperature: float) -> float:  # noqa: ARG002
        """Return the standard deviation of the noise on the gradient of the loss that samples exp(−loss / temperature).

        lr: the current learning rate. Raise ValueError if steps of this optimiser cannot sample.
        """
        raise ValueError("only SGD without Nesterov momentum can sample: set optimizer=sgd or optimizer=momentum")


@component
class SGD(Optimizer):
    """SGD with momentum (Algorithms 1 and 2) in torch's form: v ← αv + g, θ ← θ − εv.

    The thesis's form (1.11), v ← αv − εg, θ ← θ + v, takes the same path while ε is constant, but not while it changes.

    momentum: α.
    nesterov: evaluate the gradient where the momentum leads. It needs momentum > 0.
    """

    momentum: Annotated[float, Ge(0), Lt(1)] = 0.0
    nesterov: bool = False

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Self:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov=true needs momentum > 0")
        return self

    def build(self, theta: Theta) -> torch.optim.Optimizer:
        return without_dynamo(torch.optim.SGD)(
            self.groups(theta, 2 * self.l2),  # the gradient of λθ² is 2λθ
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            fused=True,  # reads θ, velocity and gradient from memory once
        )

    def noise(self, lr: float, temperature: float) -> float:
        """Return √(2(1 − α)T / ε), with which a step adds noise of standard deviation √(2(1 − α)εT) to θ.

        This is Langevin dynamics without momentum (Welling & Teh 2011), and Hamiltonian dynamics with friction 1 − α
        with it (Chen et al. 2014).
        """
        if self.nesterov:
            return super().noise(lr, temperature)
        return math.sqrt(2 * (1 - self.momentum) * temperature / lr) if lr else 0.0


@component
class Adam(Optimizer):
    """Adam (Kingma & Ba 2015).

    beta1: the decay rate of the mean of the gradients.
    beta2: the decay rate of the mean of their squares.
    eps: added to the root of that mean, so that no step divides by 0.
    """

    beta1: Annotated[float, Ge(0), Lt(1)] = 0.9
    beta2: Annotated[float, Ge(0), Lt(1)] = 0.999
    eps: PositiveFloat = 1e-8

    def build(self, theta: Theta) -> torch.optim.Optimizer:
        return self._build(torch.optim.Adam, theta, 2 * self.l2)

    def _build(self, optimizer: type[torch.optim.Adam], theta: Theta, weight_decay: float) -> torch.optim.Optimizer:
        return without_dynamo(optimizer)(
            self.groups(theta, weight_decay),
            lr=self.lr,
            betas=(self.beta1, self.beta2),
            eps=self.eps,
            fused=True,
            capturable=theta.vector.is_cuda,  # without it, PyTorch refuses to capture the step in a CUDA graph
        )


@component
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019).

    weight_decay: each step multiplies θ by 1 − lr · weight_decay. This is not part of the loss, so `l2` must be 0.
    """

    weight_decay: NonNegativeFloat = 0.01

    @model_validator(mode="after")
    def _has_one_decay(self) -> Self:
        if self.l2:
            raise ValueError(f"l2={self.l2}: AdamW has weight_decay instead; optimizer=adam has l2")
        return self

    def build(self, theta: Theta) -> torch.optim.Optimizer:
        return self._build(torch.optim.AdamW, theta, self.weight_decay)

"""Check the machine: compare the gradient that a run is about to train with against float64.

A wrong kernel in a native library silently changes numbers. So one backward pass of the run's own network, with its own
layout, precision, threads and compilation, is compared with one that shares neither kernels nor layout with it.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distancing.data.batches import Data
from distancing.errors import ConfigError, GradientError, first_line
from distancing.models.evaluation import batch_norms, evaluating
from distancing.runs.result import GradientCheck
from distancing.training.settings import Config

IMAGES = 16
BATCHES = 3  # a wrong kernel is wrong for each of them
FLOOR = 1e-3  # relative to the norm of the whole gradient: smaller gradients of a parameter count as this large
TOLERANCES = {"fp32": 1e-4, "tf32": 1e-2, "bf16": 1e-1}  # relative, of a gradient
# Some networks, above all very deep ones, amplify rounding errors. So an error is accepted, too, if it is at most
# MARGIN times the effect of a random relative change of the parameters by this much: 32 roundings of fp32, 8 of the
# shorter formats. The effect of one such change is up to 2.1 times smaller than that of the roundings themselves.
PERTURBATIONS = {"fp32": 2.0**-19, "tf32": 2.0**-8, "bf16": 2.0**-6}
MARGIN = 4


def check_gradient(
    config: Config, data: Data, network: nn.Module, forward: Callable[[Tensor], Tensor]
) -> GradientCheck:
    """Compare the gradient of `network`, called through `forward`, with its gradient in float64 on training images.

    A ReLU whose input is 0 up to rounding can be on in one precision and off in the other, and then a correct gradient
    differs, too. The first images do so for 2 of 1,000 seeds of a ResNet-8 of width 4. So the next images are tried
    before the gradient is called wrong.

    Parameters, buffers, modes and random generators are left unchanged. Raise GradientError if the error is above the
    tolerance, or is not a number, for each of BATCHES batches; ConfigError if the exact gradient is not finite, or the
    network returns probabilities or draws random numbers in evaluation mode.
    """
    # a compiled network is compiled for one batch size
    size = min(config.batch_size if config.compile else min(config.batch_size, IMAGES), len(data.train))
    inputs = data.normalise(data.train.images[:size])
    logits = _logits(network, inputs)
    if bool((logits >= 0).all()) and torch.allclose(logits.sum(1), torch.ones_like(logits[:, 0])):
        raise ConfigError(f"model: {config.model} returns probabilities: let it return logits, without a softmax")
    if _draws(network, inputs, logits):  # first, because both gradients may draw the same numbers, and agree
        raise ConfigError(
            f"model: {config.model} gives other logits for the same images in evaluation mode: draw no random numbers "
            "there"
        )
    for i in range(BATCHES):
        batch = torch.arange(i * size, (i + 1) * size, device=data.train.labels.device) % len(data.train)
        check = _check_batch(config, data, network, forward, batch)
        if check.error <= check.tolerance:
            return check
    raise GradientError(
        f"this machine computes a wrong gradient: that of {check.parameter} is off by {check.error:.2%} from "
        f"float64's, where rounding explains {check.tolerance:.2g}; nothing was trained; "
        f"try {_remedy(config, check)}"
    )


def _check_batch(
    config: Config, data: Data, network: nn.Module, forward: Callable[[Tensor], Tensor], batch: Tensor
) -> GradientCheck:
    """Return the comparison on these training images, given by their indices."""
    inputs = data.normalise(data.train.images[batch])
    # wrong labels, because with the right ones the gradient of a trained network is mostly rounding errors
    labels = (data.train.labels[batch] + 1) % config.dataset.classes
    reference = copy.deepcopy(network).cpu().double().to(memory_format=torch.contiguous_format)
    with config.autocast(inputs.device):
        gradient = _gradient(network, forward, inputs, labels)
    inputs, labels = inputs.cpu().double().contiguous(), labels.cpu()
    try:
        exact = _gradient(reference, reference, inputs, labels)
    except (RuntimeError, TypeError) as failure:
        raise ConfigError(
            f"model: {config.model} can't compute in float64, with which its gradient is checked: "
            f"{first_line(failure)}; in forward, convert with x.to(self.weight.dtype), and register other tensors as "
            "buffers"
        ) from failure
    if not all(value.isfinite().all() for value in exact.values()):
        raise ConfigError(f"model: {config.model} has a gradient that is not finite, before any step and in float64")
    parameter, error = largest(relative_errors(gradient, exact))
    precision = _precision(config, data)
    tolerance = TOLERANCES[precision]
    if error > tolerance:
        _perturb(reference, PERTURBATIONS[precision])
        _, effect = largest(relative_errors(_gradient(reference, reference, inputs, labels), exact))
        tolerance = max(tolerance, MARGIN * effect)
    return GradientCheck(
        parameter=parameter,
        error=error,
        tolerance=tolerance,
        layout="channels_last" if data.memory_format == torch.channels_last else "contiguous",
        cpu=torch.backends.cpu.get_cpu_capability(),
    )


def relative_errors(gradient: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> dict[str, float]:
    """Return ‖g − g*‖ / ‖g*‖ for each parameter's gradient g and its exact value g*, in float64.

    ‖g*‖ is bounded below by FLOOR times the norm of the whole gradient, because it is 0 for a dead unit.
    """
    floor = FLOOR * math.sqrt(sum(float(value.square().sum()) for value in exact.values()))
    return {
        name: float((gradient[name].cpu().double() - value).norm()) / max(float(value.norm()), floor)
        for name, value in exact.items()
    }


def largest(errors: Mapping[str, float]) -> tuple[str, float]:
    """Return the parameter with the largest error, and this error. NaN is larger than any number."""
    return max(errors.items(), key=lambda item: math.inf if math.isnan(item[1]) else item[1])


def _perturb(network: nn.Module, size: float) -> None:
    """Multiply every parameter by 1 + ε, with ε normal and of standard deviation `size`."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in network.parameters():
            value.mul_(1 + size * torch.randn(value.shape, generator=generator, dtype=value.dtype))


def _precision(config: Config, data: Data) -> str:
    """Return the number format to which the network's products are rounded."""
    tf32 = data.train.images.is_cuda and torch.backends.cudnn.allow_tf32
    return "tf32" if tf32 and config.precision == "fp32" else config.precision


def _gradient(
    network: nn.Module, forward: Callable[[Tensor], Tensor], inputs: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """Return the gradient of the mean cross entropy by parameter, in training mode but without random numbers.

    Modules that are neither of this package nor of torch.nn may draw some in training mode. In a network with such
    modules, the batch norms alone are in training mode.
    """
    parameters = dict(network.named_parameters())
    with _unchanged(network, inputs.device):
        network.train()
        for module in network.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.eval()
        if not all(type(module).__module__.startswith(("torch.nn.", "distancing.")) for module in network.modules()):
            network.eval()
            for layer in batch_norms(network):
                layer.train()
        logits = forward(inputs)
        loss = F.cross_entropy(logits if logits.dtype == torch.float64 else logits.float(), labels)
        gradient = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
    return dict(zip(parameters, gradient, strict=True))


def _logits(network: nn.Module, inputs: Tensor) -> Tensor:
    """Return the logits in evaluation mode. Random numbers, if it draws any, differ from call to call."""
    with evaluating(network):
        return network(inputs).float()


def _draws(network: nn.Module, inputs: Tensor, logits: Tensor) -> bool:
    """Return whether the logits of a second call differ from those of the first by more than rounding."""
    scale = float(logits.abs().nan_to_num().max())
    return not torch.allclose(_logits(network, inputs), logits, rtol=1e-3, atol=1e-3 * scale, equal_nan=True)


@contextmanager
def _unchanged(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Restore the network's buffers, its mode and the random generators afterwards."""
    buffers, mode = {buffer: buffer.clone() for buffer in network.buffers()}, network.training
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            network.train(mode)
            for buffer, value in buffers.items():
                buffer.copy_(value)


def _remedy(config: Config, check: GradientCheck) -> str:
    """Return the setting to change first. The likeliest cause comes first, the last resort last."""
    if config.compile:
        return "compile=false"
    if check.layout == "channels_last":
        return "channels_last=false"
    if config.precision != "fp32":
        return "precision=fp32"
    if torch.get_num_threads() > 1:
        return "threads=1"
    return "ONEDNN_MAX_CPU_ISA=AVX in the environment, or another version of PyTorch"

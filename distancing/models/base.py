"""The base class of all models, which are built for an image shape and a number of classes."""

import functools
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import nn

from distancing.component import component
from distancing.component.trust import line_of
from distancing.models.evaluation import batch_norms


@component
class Model:
    """A network architecture.

    init: `pytorch` (the layers' default), `he` (He et al. 2015, normal, fan-in) or `glorot` (1.8).
    """

    takes_all_images: ClassVar[bool] = False  # True: it needs no `problem` check

    init: Literal["pytorch", "he", "glorot"] = "pytorch"

    def network(self, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
        """Return the module that maps images [B, C, H, W], of shape (C, H, W), to logits [B, classes]."""
        raise NotImplementedError

    def build(self, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
        """Return the initialised network, whose parameters are drawn from torch's global generator."""
        network = self.network(image_shape, classes)
        for module in network.modules():
            initialise(module, self.init)
        return network

    def problem(self, image_shape: tuple[int, int, int], classes: int) -> str | None:
        """Return one line that says why this is not a classifier of such images, or None. This takes no memory."""
        return None if self.takes_all_images else _problem(self, image_shape, classes)

    def operations(self, image_shape: tuple[int, int, int], classes: int) -> int:
        """Return the number of floating-point operations of one image's forward pass, which is computed on the CPU.

        Only convolutions and linear layers count. torch's own counter, and a pass on the meta device, would import
        torch._dynamo, in 1.4 s.
        """
        total = 0

        def count(layer: nn.Module, _: object, output: torch.Tensor) -> None:
            nonlocal total
            total += 2 * output.numel() * layer.weight[0].numel()  # type: ignore[index]  # a tensor

        with torch.random.fork_rng([]), torch.no_grad():
            network = self.network(image_shape, classes).eval()
            for layer in network.modules():
                if isinstance(layer, (nn.Conv2d, nn.Linear)):
                    layer.register_forward_hook(count)
            network(torch.zeros(2, *image_shape))  # not one, which a batch norm may be unable to normalise
        return total // 2


@functools.cache
def _problem(model: Model, image_shape: tuple[int, int, int], classes: int) -> str | None:
    try:
        try:
            return _trial(model, image_shape, classes, "meta")
        except Exception:  # a network may need real numbers, such as those of .item()
            return _trial(model, image_shape, classes, "cpu")
    except Exception as error:  # whatever the network's code raises
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        line = line_of(error, model)
        failure = f"raises {type(error).__name__}{line}," if line else "can't be built"
        return f"it {failure} for images of shape {image_shape} and {classes} classes: {reason}"


def _trial(model: Model, image_shape: tuple[int, int, int], classes: int, device: str) -> str | None:
    """Return what is wrong with the network's parameters, buffers or logits, for two images and for one, or None."""
    with torch.random.fork_rng([]), torch.device(device), torch.enable_grad():
        network = model.network(image_shape, classes)
        one, two = torch.zeros(1, *image_shape), torch.zeros(2, *image_shape)
        problem = _parameters_problem(network) or _logits_problem(network.eval(), two, classes)
        versions = {buffer: buffer._version for buffer in network.buffers()}  # counts of the changes in place
        problem = problem or _logits_problem(network.train(), two, classes) or _buffers_problem(network, versions)
        # a batch norm without running statistics can't normalise the single value of one image
        if problem or not all(norm.track_running_stats for norm in batch_norms(network)):
            return problem
        return _logits_problem(network.eval(), one, classes)


def _parameters_problem(network: nn.Module) -> str | None:
    """Return why the parameters can't be trained, or None."""
    parameters = dict(network.named_parameters())
    if not parameters:
        return "it has no parameters, and so there is nothing to train"
    for name, p in parameters.items():
        if torch.nn.parameter.is_lazy(p):
            return "it has lazy layers, whose sizes are not known before the first batch: give their input sizes"
        if p.dtype != torch.float32:
            return f"its parameter {name} is {p.dtype}, but a run trains torch.float32"
        if not p.requires_grad:
            return f"its parameter {name} is frozen, but a run trains all of them: make it a buffer"
    return None


def _logits_problem(network: nn.Module, images: torch.Tensor, classes: int) -> str | None:
    """Return what is wrong with the network's logits for these images in its current mode, or None."""
    version = images._version
    logits: object = network(images)
    mode = "training" if network.training else "evaluation"
    if not isinstance(logits, torch.Tensor) or logits.shape != (len(images), classes):
        returned = f"shape {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else type(logits).__name__
        number = "one image" if len(images) == 1 else "two images"
        wanted = f"instead of logits of shape ({len(images)}, {classes})"
        return f"for {number} and {classes} classes it returns {returned} {wanted} in {mode} mode"
    if not logits.requires_grad:
        return f"its logits have no gradient in {mode} mode: let forward use neither torch.no_grad() nor detach()"
    if images._version != version:
        used = "which the check of the gradient and the hills use again"
        return f"it changes its images in place, {used}: let forward change a copy, as x = x * 2 does"
    return None


def _buffers_problem(network: nn.Module, versions: Mapping[torch.Tensor, int]) -> str | None:
    """Return what is wrong with a buffer that a call has changed and that is not stored, or None.

    versions: how often each buffer had been changed in place before the call.
    """
    stored = network.state_dict()
    for name, buffer in network.named_buffers():
        if name not in stored and versions.get(buffer) != buffer._version:
            lost = "so that a resumed run would lose it"
            return (
                f"its buffer {name} changes in training mode, but is not persistent, {lost}: leave out persistent=False"
            )
    return None


def initialise(module: nn.Module, scheme: str) -> None:
    """Initialise one layer; layers without weights keep what they have."""
    if callable(reset := getattr(module, "reset_parameters", None)):
        reset()
    if scheme == "pytorch" or not isinstance(module, (nn.Linear, nn.Conv2d)):
        return
    if scheme == "he":
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    else:  # (1.8), where m and n are fan-in and fan-out, including the window of a convolution
        nn.init.xavier_uniform_(module.weight)
    if module.bias is not None:
        nn.init.zeros_(module.bias)

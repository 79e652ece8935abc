"""Measure whether one process trains N small networks faster with their parameters stacked than one after the other.

one by one   the forward and backward passes of N networks on one batch, in turn
stacked      the same gradients by `torch.func`: vmap over the stacked parameters, which makes grouped convolutions

The table has the CPU time of each network's step, as medians over the rounds. A ratio above 1 speaks for stacking.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional as F

from distancing.models import MLP, ResNet

CASES = {  # network, image, batch
    "MLP on digits": (MLP(depth=2, width=128), (1, 8, 8), 128),
    "ResNet-8, width 4, on digits": (ResNet(depth=8, width=4), (1, 8, 8), 128),
    "ResNet-8 on digits": (ResNet(depth=8), (1, 8, 8), 128),
    "ResNet-8, width 4, on CIFAR-10": (ResNet(depth=8, width=4), (3, 32, 32), 128),
}
Gradients = list[dict[str, Tensor]]


def one_by_one(networks: Sequence[nn.Module], images: Tensor, labels: Tensor) -> Gradients:
    gradients = []
    for network in networks:
        network.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        gradients.append({name: p.grad for name, p in network.named_parameters() if p.grad is not None})
    return gradients


def stacked(networks: Sequence[nn.Module]) -> Callable[[Tensor, Tensor], dict[str, Tensor]]:
    """Return a function that returns the gradients [N, …] of all networks."""
    parameters, buffers = stack_module_state(list(networks))
    skeleton = copy.deepcopy(networks[0])

    def loss(parameters: dict[str, Tensor], buffers: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(skeleton, (parameters, buffers), (images,)), labels)

    parameters = {name: p.detach() for name, p in parameters.items()}
    gradients = vmap(grad(loss), in_dims=(0, 0, None, None))
    return lambda images, labels: gradients(parameters, buffers, images, labels)


def processor_seconds(step: Callable[[], object]) -> float:
    begun = time.process_time()
    step()
    return time.process_time() - begun


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Many networks in one process; see this file's docstring.")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--networks", type=int, nargs="+", default=[4, 16])
    args = parser.parse_args(arguments)
    table = Table("", "networks", "one by one, ms", "stacked, ms", "ratio")
    for name, (model, image, batch) in CASES.items():
        for n in args.networks:
            networks: list[nn.Module] = []
            for seed in range(n):
                torch.manual_seed(seed)
                networks.append(model.build(image, 10).to(memory_format=torch.channels_last))
            images = torch.randn(batch, *image).to(memory_format=torch.channels_last)
            labels = torch.randint(10, (batch,))
            at_once = stacked(networks)
            alone, together = one_by_one(networks, images, labels), at_once(images, labels)
            for i, own in enumerate(alone):
                for key, gradient in own.items():
                    torch.testing.assert_close(together[key][i], gradient, rtol=1e-3, atol=1e-5)
            times = [
                (processor_seconds(lambda: one_by_one(networks, images, labels)),  # noqa: B023 (called at once)
                 processor_seconds(lambda: at_once(images, labels)))  # noqa: B023
                for _ in range(args.rounds)
            ]  # fmt: skip
            a, b = (1e3 * statistics.median(column) / n for column in zip(*times, strict=True))
            table.add_row(name, str(n), f"{a:.2f}", f"{b:.2f}", f"{a / b:.2f}")
    Console(highlight=False, width=110).print(table)


if __name__ == "__main__":
    main()

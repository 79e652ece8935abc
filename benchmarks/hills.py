"""Measure the cost of the hills of one step by their number K and the number of parameters P.

hills        `Field.evaluate`: the sum of the hills and its gradient, for K checkpoints of P parameters
far hills    the same where all hills but one have height 0: their distances are still needed
algorithm 5  the thesis's algorithm: a Python loop over lists of clones, and its gradient by autograd, for as many
             tensors as the network has
reading      the sum of all numbers of the K checkpoints, which is as fast as the memory is read

P is that of the project's networks. Each round times all of them in turn. The table has medians, the line a + b·K that
fits them (least squares), and its slope b relative to that of reading. `--picture FILE` draws them.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from distancing.colours import OKABE_ITO
from distancing.hills.distances import Euclidean
from distancing.hills.field import Field
from distancing.hills.kernels import Gaussian
from distancing.hills.penalty import Penalty
from distancing.models import MobileNetV2, ResNet

NETWORKS = {
    "ResNet-8, width 4": ResNet(depth=8, width=4), "ResNet-20": ResNet(depth=20), "MobileNetV2": MobileNetV2(),
    "ResNet-18": ResNet(depth=18, stages=4, width=64),
}  # fmt: skip
HILLS = (1, 2, 4, 8, 16)
KINDS = ("hills", "far hills", "algorithm 5", "reading")
Times = dict[str, dict[int, float]]  # kind → K → seconds


def pieces(network: nn.Module, k: int) -> dict[str, Callable[[], object]]:
    """Return the functions to time for k hills of the network's size."""
    parameters = [p.detach().requires_grad_() for p in network.parameters()]
    theta = torch.cat([p.detach().flatten() for p in parameters])
    checkpoints = theta + 0.01 * torch.randn(k, len(theta), generator=torch.Generator().manual_seed(0))
    lists = [[c.view_as(p) for c, p in zip(checkpoint.split([p.numel() for p in parameters]), parameters, strict=True)]
             for checkpoint in checkpoints]  # fmt: skip
    wide, narrow = (_hills(theta, checkpoints, sigma) for sigma in (1.0, 1e-5))
    narrow.widths[0] = 1.0

    def algorithm_5() -> None:
        penalty = torch.zeros(())
        for checkpoint in lists:
            d = torch.zeros(())
            for c, p in zip(checkpoint, parameters, strict=True):
                difference = torch.add(-p, c)
                d = d + torch.sum(torch.mul(difference, difference))
            penalty = penalty + torch.exp(-d / 2)
        penalty.backward()

    with torch.no_grad():
        assert float(narrow.evaluate(theta)[0]) <= 1
    return {
        "hills": torch.no_grad()(lambda: wide.evaluate(theta)),
        "far hills": torch.no_grad()(lambda: narrow.evaluate(theta)),
        "algorithm 5": algorithm_5,
        "reading": checkpoints.sum,
    }  # fmt: skip


def _hills(theta: Tensor, checkpoints: Tensor, sigma: float) -> Field:
    size = float((theta - checkpoints[0]).square().sum().sqrt())
    penalty = Penalty(distance=Euclidean(), kernel=Gaussian(), strength=1.0, sigma=sigma * size, sigma_unit="absolute")
    hills = Field(penalty, theta)
    hills.put(checkpoints)
    return hills


def measure(network: nn.Module, rounds: int) -> Times:
    medians: Times = {kind: {} for kind in KINDS}
    for k in HILLS:
        runs = pieces(network, k)
        for run in runs.values():
            run()
        times: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for _ in range(rounds):
            for kind, run in runs.items():
                begun = time.perf_counter()
                run()
                times[kind].append(time.perf_counter() - begun)
        for kind in KINDS:
            medians[kind][k] = statistics.median(times[kind])
    return medians


def line(times: dict[int, float]) -> tuple[float, float]:
    """Return a and b of the line a + b·K, in seconds."""
    b, a = np.polyfit(list(times), list(times.values()), 1)
    return float(a), float(b)


def picture(times_of: dict[str, Times], sizes: dict[str, int]) -> Figure:
    figure = Figure(figsize=(3 * len(times_of), 3.4), dpi=150, layout="constrained", facecolor="white")
    for axes, (name, times) in zip(figure.subplots(1, len(times_of)), times_of.items(), strict=True):
        for kind, colour, mark in zip(KINDS, OKABE_ITO, "os^D", strict=False):
            axes.plot(HILLS, [1e3 * t for t in times[kind].values()], color=colour, marker=mark, ms=4, lw=1, label=kind)
        axes.set(title=f"{name}\nP = {sizes[name]:,}", xlabel="hills K", xscale="log", yscale="log", xticks=HILLS)
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("ms a step")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description="What hills cost; see this file's docstring.")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--picture", type=Path, metavar="FILE")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    times_of, sizes = {}, {}
    shown = Table(
        "", "P", "", *(f"K = {k}" for k in HILLS), "a + b·K", "b / reading", title=f"ms, {args.threads} threads"
    )
    for name, model in NETWORKS.items():
        torch.manual_seed(0)
        network = model.build((3, 32, 32), 10)
        sizes[name] = sum(p.numel() for p in network.parameters())
        times_of[name] = measure(network, args.rounds)
        _, once = line(times_of[name]["reading"])
        for kind, times in times_of[name].items():
            a, b = line(times)
            cells = [f"{1e3 * t:.3g}" for t in times.values()]
            shown.add_row(name, f"{sizes[name]:,}", kind, *cells, f"{1e3 * a:.2g} + {1e3 * b:.2g} K", f"{b / once:.2f}",
                          end_section=kind == KINDS[-1])  # fmt: skip
    Console(highlight=False, width=130).print(shown)
    if args.picture:
        FigureCanvasAgg(picture(times_of, sizes)).print_png(args.picture)


if __name__ == "__main__":
    main()

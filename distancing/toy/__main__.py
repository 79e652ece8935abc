"""The README's opening picture, after the thesis's Figure 2.1: a hill on a one-dimensional loss.

`python -m distancing.analysis.toy [FILE]` draws it, with the penalty and the optimiser that train networks.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from torch import Tensor

from distancing.distances import Euclidean
from distancing.kernels import Gaussian
from distancing.penalty import Penalty

MINIMUM, BARRIER, DEEPER = 2 / 3, 4 / 3, 7 / 3  # where loss′ is 0
START = 0.25  # so high that the ball climbs towards the barrier, too low to cross it
# s/σ² is 20/3, the curvature of the loss at its minimum: less leaves it there, more a shallow one beside it
PENALTY = Penalty(distance=Euclidean(), kernel=Gaussian(), strength=0.6, sigma=0.3)
CHECKPOINT = torch.tensor([[MINIMUM]], dtype=torch.float64)
NOWHERE = CHECKPOINT[:0]
DPI, FONT, DIAMETER = 160, 13, 9
INK, GREY, PALE, HILL, BALL = "#222222", "#767676", "#D6E7F3", "#E69F00", "#0072B2"  # after Okabe and Ito


def loss(x: Tensor) -> Tensor:
    """A loss with loss′ = 6 (x − 2/3) (x − 4/3) (x − 7/3): a valley, a barrier and a deeper valley."""
    t = x - MINIMUM
    return 1 + t**2 * (10 - 14 * t + 4.5 * t**2) / 3


def total(x: Tensor, penalty: Penalty, checkpoints: Tensor) -> Tensor:
    """(2.9) The loss and the hills at the checkpoints [K, 1], for each of the places x [N]."""
    widths = checkpoints.new_full((len(checkpoints),), penalty.sigma)
    return loss(x) + torch.stack([penalty.energy(theta, checkpoints, widths)[0] for theta in x[:, None]])


def roll(start: float, penalty: Penalty, checkpoints: Tensor, steps: int, seed: int = 0) -> Tensor:
    """Where momentum SGD is, from rest at `start` and after each of the steps: [steps + 1].

    The loss's gradient is noisy, as a minibatch's is: at a minimum with a checkpoint, it and the push are 0,
    and the ball would stay for ever.
    """
    generator = torch.Generator().manual_seed(seed)
    widths = checkpoints.new_full((len(checkpoints),), penalty.sigma)
    theta = torch.tensor([start], dtype=checkpoints.dtype, requires_grad=True)
    optimizer = torch.optim.SGD([theta], lr=0.01, momentum=0.9)
    trajectory = [theta.detach().clone()]
    for _ in range(steps):
        (data,) = torch.autograd.grad(loss(theta).sum(), theta)
        push = penalty.energy(theta.detach(), checkpoints, widths)[1]
        noise = 0.2 * torch.randn(1, generator=generator, dtype=theta.dtype)
        theta.grad = data + noise + push  # (2.11)
        optimizer.step()
        trajectory.append(theta.detach().clone())
    return torch.cat(trajectory)


def draw(path: Path) -> None:
    """Write the picture: a ball on the loss alone, and on the loss with a hill at its first minimum."""
    figure = Figure(figsize=(10, 3.6), dpi=DPI, layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2, sharex=True, sharey=True, gridspec_kw={"wspace": 0.08})
    x = torch.linspace(0, 3, 600, dtype=torch.float64)
    plain, hilly = loss(x), total(x, PENALTY, CHECKPOINT)
    left.set_ylabel("loss", fontsize=FONT)
    left.plot(x, plain, color=INK, lw=2)
    right.fill_between(x, plain, hilly, color=HILL, alpha=0.4, lw=0)
    right.plot(x, plain, color=GREY, lw=2, ls=(0, (1, 1.5)))
    right.plot(x, hilly, color=INK, lw=2)
    left.text(START + 0.13, 1.97, "start", fontsize=FONT, color=BALL, va="center")
    left.text(MINIMUM + 0.06, 0.42, "checkpoint θ$_c$", fontsize=FONT, color=INK)
    left.text(1.75, 1.2, "loss", fontsize=FONT, color=INK)
    right.text(MINIMUM + 0.05, 1.25, "hill", fontsize=FONT, color=INK)
    right.text(MINIMUM + 0.06, 0.42, "θ$_c$", fontsize=FONT, color=INK)
    right.text(1.02, 0.93, "loss", fontsize=FONT, color=GREY)
    right.text(1.15, 1.85, "loss + hill", fontsize=FONT, color=INK)
    titles = "Momentum SGD stays in the first valley", "With a hill on the checkpoint, it leaves"
    for axes, title in zip((left, right), titles, strict=True):
        axes.set_title(title, fontsize=FONT + 1, pad=10)
        axes.axvline(MINIMUM, ymax=1 / 2.7, color=GREY, lw=1.2, ls="--", zorder=0)
        axes.set(xlim=(0.05, 2.95), ylim=(0, 2.7), yticks=[0, 1, 2])
        axes.set_xticks([MINIMUM, BARRIER, DEEPER], ["2/3", "4/3", "7/3"])
        axes.set_xlabel("θ", fontsize=FONT)
        axes.tick_params(labelsize=FONT - 1)
        axes.spines[["top", "right"]].set_visible(False)
    figure.draw_without_rendering()  # only now is it known where the axes are
    _ball(left, roll(START, PENALTY, NOWHERE, 80), NOWHERE)
    _ball(right, roll(MINIMUM, PENALTY, CHECKPOINT, 120), CHECKPOINT)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(path)


def _ball(axes: Axes, trajectory: Tensor, checkpoints: Tensor) -> None:
    """The ball after every step, the later the darker; empty at first."""
    near = torch.cat((trajectory, trajectory + 1e-4))
    pixels = axes.transData.transform(torch.stack((near, total(near, PENALTY, checkpoints)), 1).numpy())
    here, ahead = np.split(pixels, 2)
    along, up = (ahead - here).T
    normal = np.stack((-up, along), 1) / np.hypot(along, up)[:, None]
    x, y = (here + normal * (DIAMETER / 2 + 1.5) * DPI / 72).T  # the ball lies on the line, not in it
    shades = LinearSegmentedColormap.from_list("", [PALE, BALL])(np.linspace(0, 0.7, len(x) - 2))
    axes.scatter(x[1:-1], y[1:-1], DIAMETER**2, shades, edgecolors="white", lw=0.8, transform=None, zorder=3)
    x, y = x[[0, -1]], y[[0, -1]]
    axes.scatter(x, y, DIAMETER**2, ["white", BALL], edgecolors=BALL, lw=1.4, transform=None, zorder=3)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw a ball on a loss, without and with a hill.")
    parser.add_argument("file", nargs="?", type=Path, default=Path("docs/hill.png"), metavar="FILE")
    draw(parser.parse_args().file)


if __name__ == "__main__":
    main()

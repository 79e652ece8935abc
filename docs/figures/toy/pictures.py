"""The still pictures. Each function returns one; the trajectories are those of `scenes`."""

import math

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.patheffects import withStroke
from torch import Tensor

from distancing.colours import GREY, INK, VERMILION
from toy import scenes
from toy.ball import Scene, hills, roll
from toy.drawing import BALL, DIAMETER, DPI, FONT, HILL, SHADES, line, lying, there

HALO = [withStroke(linewidth=3, foreground="white")]


def hill() -> Figure:
    """Figure 2.1: a ball on the loss alone, and on the loss with a hill at its first minimum."""
    figure = _figure(3.6)
    left, right = figure.subplots(1, 2, sharex=True, sharey=True, gridspec_kw={"wspace": 0.08})
    x, (minimum, barrier, deeper) = line(0, 3), (2 / 3, 4 / 3, 7 / 3)
    left.set_ylabel("loss", fontsize=FONT)
    left.plot(x, scenes.STAYS.loss(x), color=INK, lw=2)
    _hilly(right, scenes.LEAVES, x, torch.tensor(scenes.LEAVES.at))
    left.text(scenes.STAYS.start[0] + 0.13, 1.97, "start", fontsize=FONT, color=BALL, va="center")
    left.text(minimum + 0.06, 0.42, "checkpoint θ$_c$", fontsize=FONT, color=INK)
    left.text(1.75, 1.2, "loss", fontsize=FONT, color=INK)
    right.text(minimum + 0.05, 1.25, "hill", fontsize=FONT, color=INK)
    right.text(minimum + 0.06, 0.42, "θ$_c$", fontsize=FONT, color=INK)
    right.text(1.02, 0.93, "loss", fontsize=FONT, color=GREY)
    right.text(1.15, 1.85, "loss + hill", fontsize=FONT, color=INK)
    titles = "Momentum SGD stays in the first valley", "With a hill on the checkpoint, it leaves"
    for axes, title in zip((left, right), titles, strict=True):
        axes.axvline(minimum, ymax=1 / 2.7, color=GREY, lw=1.2, ls="--", zorder=0)
        axes.set(xlim=(0.05, 2.95), ylim=(0, 2.7), yticks=[0, 1, 2])
        axes.set_xticks([minimum, barrier, deeper], ["2/3", "4/3", "7/3"])
        _label(axes, title)
    figure.draw_without_rendering()  # this computes the positions of the axes
    _ball(left, scenes.STAYS)
    _ball(right, scenes.LEAVES)
    return figure


def start() -> Figure:
    """Figure 1.1: a start from which the way down leads away from the minimum, and what hills do about it."""
    figure = _figure(3.8)
    panels = figure.subplots(1, 3, sharex=True, sharey=True, gridspec_kw={"wspace": 0.04})
    x = line(-9.5, 4)
    panels[0].set_ylabel("loss", fontsize=FONT)
    panels[0].plot(x, scenes.WRONG_WAY.loss(x), color=INK, lw=2)
    panels[0].text(-0.4, 2.8, "start", fontsize=FONT, color=BALL, ha="right")
    panels[0].text(0.4, 2.8, "start", fontsize=FONT, color=BALL)
    for axes, scene in zip(panels[1:], (scenes.FURTHER, scenes.BACK), strict=True):
        checkpoints = roll(scene)[1]
        _hilly(axes, scene, x, checkpoints)
        for number, (place, top) in enumerate(zip(checkpoints[:, 0], scene.loss(checkpoints), strict=True), 1):
            axes.plot([place, place], [0.55, top], color=GREY, lw=1.2, ls="--", zorder=0)
            axes.text(place, 0.45, str(number), fontsize=FONT, color=INK, ha="center", va="top")
    titles = (
        "Left of the top, the way\ndown is the wrong way",
        "Hills push the ball\nfurther the wrong way",
        "Where the loss rises again,\nthey push it over the top",
    )
    for axes, title in zip(panels, titles, strict=True):
        axes.set(xlim=(-9.4, 3.9), ylim=(0, 4.2), yticks=[0, 2, 4], xticks=[-8, -4, 0, 3])
        _label(axes, title)
    figure.draw_without_rendering()
    balls = scenes.RIGHT_WAY, scenes.WRONG_WAY, scenes.FURTHER, scenes.BACK
    for axes, scene in zip((panels[0], *panels), balls, strict=True):
        _ball(axes, scene, every=10, diameter=7)
    return figure


def kernels() -> Figure:
    """Figure 2.2: the height of a hill and its push, for several widths.

    The hill is exp(−x²/2σ²), as in (2.4). The thesis's caption has exp(−x²/σ²).
    """
    figure = _figure(3.8)
    left, right = figure.subplots(1, 2, sharex=True, gridspec_kw={"wspace": 0.08})
    x, checkpoint = line(-4, 4, 801), torch.zeros(1, 1, dtype=torch.float64)
    styles = {0.5: (BALL, (0, (1, 1))), 1.0: (INK, "-"), 2.0: (VERMILION, (0, (5, 1.5)))}
    for sigma, (color, style) in styles.items():
        height, gradient = hills(x, checkpoint, 1.0, sigma)
        left.plot(x, height, color=color, ls=style, lw=2, label=f"σ = {sigma:g}")
        right.plot(x, -gradient, color=color, ls=style, lw=2)
        strongest = x.new_tensor([[-sigma], [sigma]])
        height, gradient = hills(strongest, checkpoint, 1.0, sigma)
        left.plot(strongest, height, "o", color=color, ms=7)
        right.plot(strongest, -gradient, "o", color=color, ms=7)
    for (sigma, (color, _)), place in zip(styles.items(), ((0.7, 1.18), (1.2, 0.62), (2.1, 0.36)), strict=True):
        right.text(*place, f"σ = {sigma:g}", fontsize=FONT, color=color)
    titles = {left: "The hill k(θ, θ$_c$), for three widths σ", right: "Its push −∂k/∂θ: none at the checkpoint"}
    for axes, title in titles.items():
        axes.axhline(0, color=GREY, lw=0.8, zorder=0)
        axes.axvline(0, color=GREY, lw=1.2, ls="--", zorder=0)
        axes.set(xlim=(-4, 4), xticks=[-4, -2, 0, 2, 4])
        _label(axes, title)
        axes.set_xlabel("θ − θ$_c$", fontsize=FONT)
    left.axhline(math.exp(-0.5), color=GREY, lw=1.2, ls=":", zorder=0)
    left.text(-3.9, 0.64, "0.61 at\ndistance σ", fontsize=FONT, color=INK)
    left.legend(loc="upper right", frameon=False, fontsize=FONT, borderaxespad=0, handlelength=2.4)
    left.set(ylim=(-0.03, 1.1), yticks=[0, 0.5, 1])
    right.text(-3.9, 0.55, "strongest,\n0.61/σ, at\ndistance σ", fontsize=FONT, color=INK)
    right.set(ylim=(-1.4, 1.4), yticks=[-1, 0, 1])
    return figure


def valleys() -> Figure:
    """Losses of two parameters: one with four valleys, and one with a bent valley."""
    figure = _figure(4.0)
    panels = figure.subplots(1, 3, gridspec_kw={"wspace": 0.04})
    _map(panels[0], scenes.ONE_OF_FOUR, 5.2, np.linspace(0, 2.4, 9))
    _map(panels[1], scenes.ALL_FOUR, 5.2, np.linspace(0, 2.4, 9))
    _map(panels[2], scenes.ALONG, 2.7, np.linspace(0, 2.4, 9))
    panels[0].text(0.4, -0.15, "start", fontsize=FONT, color=BALL, ha="center", va="top")
    panels[2].text(0, -0.5, "deeper", fontsize=FONT, color=INK, ha="center", va="center", path_effects=HALO)
    titles = (
        "Without hills, it stays\nin the first valley",
        "Hill after hill, it comes\nto all four valleys",
        "In one bent valley, it goes\nall along before it leaves",
    )
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, fontsize=FONT + 1, pad=8)
        axes.set_xlabel("θ$_1$", fontsize=FONT)
    panels[0].set_ylabel("θ$_2$", fontsize=FONT)
    return figure


def _figure(height: float) -> Figure:
    return Figure(figsize=(10, height), dpi=DPI, layout="constrained", facecolor="white")


def _label(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=FONT + 1, pad=10)
    axes.set_xlabel("θ", fontsize=FONT)
    axes.tick_params(labelsize=FONT - 1)
    axes.spines[["top", "right"]].set_visible(False)


def _hilly(axes: Axes, scene: Scene, x: Tensor, checkpoints: Tensor) -> None:
    """Draw the loss, and the loss with one hill after the other."""
    plain, checkpoints = scene.loss(x), checkpoints.to(x)
    hilly = [scene.total(x, checkpoints[: k + 1]) for k in range(len(checkpoints))]
    axes.fill_between(x[:, 0], plain, hilly[-1], color=HILL, alpha=0.4, lw=0)
    axes.plot(x, plain, color=GREY, lw=2, ls=(0, (1, 1.5)))
    for before in hilly[:-1]:
        axes.plot(x, before, color=HILL, lw=1.2)
    axes.plot(x, hilly[-1], color=INK, lw=2)


def _ball(axes: Axes, scene: Scene, every: int = 1, diameter: float = DIAMETER) -> None:
    """Draw the ball at its height after each of the steps. Later positions are darker, and the first is empty."""
    trajectory, checkpoints = roll(scene)
    step = torch.arange(0, len(trajectory), every)
    x, y = lying(axes, scene, trajectory[step], checkpoints, there(scene, step), diameter).T
    shades = SHADES(np.linspace(0, 0.7, len(x) - 2))
    axes.scatter(x[1:-1], y[1:-1], diameter**2, shades, edgecolors="white", lw=0.8, transform=None, zorder=3)
    x, y = x[[0, -1]], y[[0, -1]]
    axes.scatter(x, y, diameter**2, ["white", BALL], edgecolors=BALL, lw=1.4, transform=None, zorder=3)


def _map(axes: Axes, scene: Scene, size: float, levels: np.ndarray) -> None:
    """Draw the loss from above, darker where it is higher, with the hills and the path of the ball."""
    grid = torch.meshgrid(*(torch.linspace(-size, size, 300, dtype=torch.float64),) * 2, indexing="xy")
    height = scene.loss(torch.stack(grid, -1))
    greys = [str(grey) for grey in np.linspace(1, 0.66, len(levels))]
    axes.contourf(*grid, height, levels, colors=greys, extend="max")
    trajectory, checkpoints = roll(scene)
    for number, (across, up) in enumerate(checkpoints.tolist(), 1):
        axes.add_patch(Circle((across, up), scene.sigma, facecolor=HILL, alpha=0.25))
        axes.add_patch(Circle((across, up), scene.sigma, fill=False, edgecolor=HILL, lw=1.5))
        axes.text(across, up, str(number), fontsize=FONT, ha="center", va="center", zorder=5, path_effects=HALO)
    shades = SHADES(np.linspace(0.2, 1, len(trajectory)))
    x, y = trajectory.T
    axes.scatter(x[1:-1], y[1:-1], 9, shades[1:-1], zorder=3)
    x, y = x[[0, -1]], y[[0, -1]]
    axes.scatter(x, y, DIAMETER**2, ["white", BALL], edgecolors=BALL, lw=1.4, zorder=4)
    axes.set(aspect="equal", xlim=(-size, size), ylim=(-size, size), xticks=[], yticks=[])
    axes.spines[:].set_color(GREY)

"""The animation: the same ball without and with hills, side by side."""

import math
from pathlib import Path

import numpy as np
import torch
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from distancing.colours import GREY, INK
from toy import scenes
from toy.ball import Scene, roll
from toy.drawing import BALL, DIAMETER, FONT, HILL, SHADES, line, lying

SIZE, DPI = (7.2, 3.2), 100
EVERY, TRAIL = 3, 6  # steps per frame; the number of frames that show the ball's last positions
GROWING = 14  # frames in which a hill grows and both balls wait, although in training it is there at once
FRAME, PAUSE, END = 40, 280, 2400  # milliseconds of a frame, of one in which a hill has grown, and of the last one


def timetable(steps: int, store: tuple[int, ...]) -> tuple[Tensor, Tensor, list[int]]:
    """Return the step [N] of each frame, the share of each hill that has grown [K, N], and milliseconds [N]."""
    step, grown, milliseconds = [], [], []
    for now in range(0, steps + 1, EVERY):
        for frame in range(1 + (now in store) * GROWING):
            share = (1 - math.cos(math.pi * frame / GROWING)) / 2
            step.append(now)
            grown.append([share if now == since else float(now > since) for since in store])
            milliseconds.append(END if now == steps else PAUSE if frame == GROWING else FRAME)
    return torch.tensor(step), torch.tensor(grown, dtype=torch.float64).T, milliseconds


def film(path: Path) -> None:
    """Write the animation."""
    scene, x = scenes.VALLEYS, line(-0.6, 4.6, 300)
    trajectory, checkpoints = roll(scene)
    step, there, milliseconds = timetable(scene.steps, scene.store)
    plain = scene.loss(x)
    hills = torch.stack([scene.total(x, checkpoint[None]) - plain for checkpoint in checkpoints])

    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained", facecolor="white")
    canvas = FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharex=True, sharey=True, gridspec_kw={"wspace": 0.06})
    for axes, title in ((left, "Momentum SGD"), (right, "The same, with hills")):
        axes.set_title(title, fontsize=FONT)
        axes.set_xlabel("θ", fontsize=FONT)
        axes.set(xlim=(-0.55, 4.5), ylim=(-0.5, 3.6), xticks=[], yticks=[])
        axes.spines[["top", "right"]].set_visible(False)
    left.set_ylabel("loss", fontsize=FONT)
    left.plot(x, plain, color=INK, lw=2)
    right.plot(x, plain, color=GREY, lw=1.5, ls=(0, (1, 1.5)))
    (hilly,) = right.plot(x, plain, color=INK, lw=2)
    filled = right.fill_between(x[:, 0], plain, plain, color=HILL, alpha=0.4, lw=0)
    captions = [
        axes.text(0.5, 0.97, "", fontsize=FONT - 1, color=INK, ha="center", va="top", transform=axes.transAxes)
        for axes in (left, right)
    ]
    marks: list[tuple[Artist, Artist]] = [
        (
            right.plot([place, place], [-0.08, height], color=GREY, lw=1.2, ls="--", zorder=0)[0],
            right.text(place, -0.16, str(number), fontsize=FONT, color=INK, ha="center", va="top"),
        )
        for number, (place, height) in enumerate(zip(checkpoints[:, 0], scene.loss(checkpoints), strict=True), 1)
    ]
    figure.draw_without_rendering()  # this computes the positions of the axes
    figure.set_layout_engine("none")  # keep them
    balls = [
        (
            axes.scatter([0], [0], DIAMETER**2, BALL, lw=0, transform=None, zorder=3),
            lying(axes, scene, places[step], checkpoints, list(shares)),
        )
        for axes, places, shares in ((left, roll(scenes.ONE_VALLEY)[0], 0 * there), (right, trajectory, there))
    ]

    moving = [now not in scene.store for now in step.tolist()]
    images = []
    for frame, shares in enumerate(there.T):
        height = plain + shares @ hills
        hilly.set_ydata(height)
        filled.remove()
        filled = right.fill_between(x[:, 0], plain, height, color=HILL, alpha=0.4, lw=0)
        for mark, share in zip(marks, shares, strict=True):
            for artist in mark:
                artist.set_visible(bool(share > 0))
        for caption, text in zip(captions, _say(int(step[frame]), scene), strict=True):
            caption.set_text(text)
        trail = [k for k in range(max(frame - TRAIL, 0), frame) if moving[k] and moving[frame]] + [frame]
        for ball, pixels in balls:
            ball.set_offsets(pixels[trail])
            ball.set_facecolor(SHADES([0.1 + 0.06 * k for k in range(len(trail) - 1)] + [1.0]))
        canvas.draw()
        images.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"))
    images[0].save(path, save_all=True, append_images=images[1:], duration=milliseconds, loop=0)


def _say(step: int, scene: Scene) -> tuple[str, str]:
    if step == scene.steps:
        return "still in the first valley", "in the deepest valley"
    train = "train" if step < scene.store[0] else "train on"
    return train, "a checkpoint, and a hill on it" if step in scene.store else train

"""The colours, the sizes and the ball that the pictures and the animation share."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from torch import Tensor

from distancing.colours import BLUE, ORANGE
from toy.ball import Scene

DPI, FONT, DIAMETER = 160, 13, 9
HILL, BALL = ORANGE, BLUE
SHADES = LinearSegmentedColormap.from_list("", ["#D6E7F3", BALL])  # of a ball: later positions are darker


def line(low: float, high: float, points: int = 600) -> Tensor:
    """Return points [points, 1] on a line."""
    return torch.linspace(low, high, points, dtype=torch.float64)[:, None]


def there(scene: Scene, step: Tensor) -> list[Tensor]:
    """Return for each checkpoint whether it is stored when the ball arrives at these steps [N]: 0 or 1."""
    return [(step > since).double() if since else torch.ones_like(step).double() for since in scene.since]


def lying(
    axes: Axes, scene: Scene, theta: Tensor, checkpoints: Tensor, there: Sequence[Tensor], diameter: float = DIAMETER
) -> np.ndarray:
    """Return the pixels [N, 2] of the centre of a ball that lies on top of the line at θ [N, 1]."""
    here, ahead = (
        axes.transData.transform(torch.stack((near[:, 0], scene.total(near, checkpoints, there)), 1).numpy())
        for near in (theta, theta + 1e-4)
    )
    along, up = (ahead - here).T
    normal = np.stack((-up, along), 1) / np.hypot(along, up)[:, None]
    return here + normal * (diameter / 2 + 1.5) * axes.figure.dpi / 72

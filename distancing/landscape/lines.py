"""The profiles of paths between pairs of checkpoints, as values, CSV rows and a figure."""

import math
import re
from collections.abc import Mapping

from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from distancing.landscape.marks import mark
from distancing.landscape.path import SPLITS, Profile

Profiles = Mapping[tuple[str, str], Mapping[str, Profile]]  # (from, to) → path → profile

PATHS = {  # a path's name: its label and line style
    "line": ("straight line", "-"),
    "matched": ("units matched", "--"),
    "curve": ("trained curve", "--"),
}
PAIRS_PER_ROW = 8
# what the values of `heights` hold, for the reference
VALUES = {
    "SPLIT_height/PAIR": ("nats", "how far the loss on the straight line rises above the chord between its ends"),
    "SPLIT_height_se/PAIR": ("nats", "its standard error over the images"),
    "SPLIT_height_PATH/PAIR, SPLIT_height_PATH_se/PAIR": ("nats", "the same on another path: `matched`, `curve`"),
    "SPLIT_height_max, SPLIT_height_max_se": ("nats", "the highest of all pairs, and its standard error"),
    "SPLIT_height_PATH_max, SPLIT_height_PATH_max_se": ("nats", "the same on another path"),
    "distance/PAIR": ("", "‖θ − θ′‖ between the two checkpoints"),
}
PANELS = {"train": "training loss, nats", "test": "test loss, nats", "accuracy": "test accuracy, %"}


def tag(first: str, second: str) -> str:
    """Return the pair's name for result.json and TensorBoard, whose tags allow letters, digits and _ - / . only."""
    return re.sub(r"[^\w/.-]", "_", f"{first}_to_{second}", flags=re.ASCII)


def heights(profiles: Profiles) -> dict[str, float]:
    """Return the heights of all barriers and their standard errors, in nats.

    Keys are SPLIT_height/PAIR and SPLIT_height_se/PAIR for straight lines, SPLIT_height_PATH/PAIR and
    SPLIT_height_PATH_se/PAIR for other paths. SPLIT_height_max and SPLIT_height_max_se of the highest pair come first;
    a height that is NaN counts as the highest.
    """
    highest: dict[str, tuple[float, float]] = {}
    values: dict[str, float] = {}
    for pair, paths in profiles.items():
        for path, profile in paths.items():
            for split in SPLITS:
                key = f"{split}_height" if path == "line" else f"{split}_height_{path}"
                height = profile.height(split)
                highest[key] = max(highest.get(key, height), height, key=_rank)
                values[f"{key}/{tag(*pair)}"], values[f"{key}_se/{tag(*pair)}"] = height
    maxima: dict[str, float] = {}
    for key, height in highest.items():
        maxima[f"{key}_max"], maxima[f"{key}_max_se"] = height
    return maxima | values


def _rank(height: tuple[float, float]) -> float:
    """Return a height's rank, which is the highest for NaN."""
    return math.inf if math.isnan(height[0]) else height[0]


def rows(profiles: Profiles) -> list[dict[str, float | str]]:
    """Return a CSV row for each point of each path."""
    return [
        {"from": first, "to": second, "path": path, **row}
        for (first, second), paths in profiles.items()
        for path, profile in paths.items()
        for row in profile.rows()
    ]


def picture(profiles: Profiles) -> Figure:
    """Draw losses and test accuracy along the paths, eight pairs in a row of panels."""
    pairs = list(profiles.items())
    chunks = [pairs[k : k + PAIRS_PER_ROW] for k in range(0, len(pairs), PAIRS_PER_ROW)]
    inches = [max(3.2, 0.9 + 0.45 * len(chunk)) for chunk in chunks]
    figure = Figure(figsize=(13, sum(inches)), dpi=110, layout="constrained", facecolor="white")
    subfigures = figure.subfigures(len(chunks), 1, squeeze=False, height_ratios=inches)[:, 0]
    for chunk, subfigure in zip(chunks, subfigures, strict=True):
        _draw_row(dict(chunk), subfigure)
    return figure


def _draw_row(profiles: Profiles, subfigure: SubFigure) -> None:
    panels = dict(zip(PANELS, subfigure.subplots(1, len(PANELS)), strict=True))
    handles, labels, ends = [], [], list[Line2D]()
    for k, (pair, paths) in enumerate(profiles.items()):
        for path, profile in _distinct(paths).items():
            curves = {split: profile.losses[split].mean(1) for split in SPLITS}
            curves["accuracy"] = 100 * profile.accuracy["test"]
            style = {**mark(k), "ls": PATHS[path][1], "markevery": (k % 4, 4), "ms": 4.5, "lw": 1.4}
            for panel, axes in panels.items():
                (line,) = axes.plot(profile.t, curves[panel], **style)
                if panel in profile.stored:
                    ends = axes.plot(
                        [0, 1], profile.stored[panel], "o", mfc="none", mec=line.get_color(), clip_on=False
                    )
            handles.append(line)
            labels.append(_label(pair, path, profile))
    for panel, axes in panels.items():
        axes.set(xlabel="position t on the path", ylabel=PANELS[panel], xlim=(0, 1))
        axes.spines[["top", "right"]].set_visible(False)
        if panel != "accuracy":
            axes.set_ylim(bottom=0)
    if ends:
        handles, labels = [*handles, *ends], [*labels, "with the batch-norm statistics of training"]
    legend = {"title": "test loss, rise above the chord", "title_fontsize": "small", "alignment": "left"}
    subfigure.legend(
        handles, labels, loc="outside right upper", frameon=False, fontsize="small", handlelength=3.4, **legend
    )


def _label(pair: tuple[str, str], path: str, profile: Profile) -> str:
    """Return the path's name and the height of its barrier."""
    first, second = (name if len(name) <= 24 else f"…{name[-23:]}" for name in pair)
    height, error = profile.height("test")
    text = f"{height:.3f} ± {error:.3f}" if height else "none"
    return f"{first} → {second}: {text}" if path == "line" else f"   {PATHS[path][0]}: {text}"


def _distinct(paths: Mapping[str, Profile]) -> dict[str, Profile]:
    """Return the paths without those that are the straight line under another name."""
    return {path: profile for path, profile in paths.items() if path == "line" or profile is not paths.get("line")}

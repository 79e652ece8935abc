"""What lies on the paths between pairs of places: as values, rows and a picture."""

import re
from collections.abc import Mapping

from matplotlib.figure import Figure, SubFigure

from distancing.landscape.marks import mark
from distancing.landscape.path import SPLITS, Profile

# of each pair of places, named (from, to), what lies on each kind of path between them
Profiles = Mapping[tuple[str, str], Mapping[str, Profile]]

KINDS = {  # of paths: how they are said and drawn
    "line": ("straight line", "-"),
    "matched": ("units matched", "--"),
    "curve": ("trained curve", "--"),
}
PAGE = 8  # pairs in a row of panels
PANELS = {"train": "training loss, nats", "test": "test loss, nats", "accuracy": "test accuracy, %"}


def tag(first: str, second: str) -> str:
    """The pair's name for result.json and TensorBoard, which wants letters, digits and _ - / . only."""
    return re.sub(r"[^\w/.-]", "_", f"{first}_to_{second}", flags=re.ASCII)


def heights(profiles: Profiles) -> dict[str, float]:
    """In nats: SPLIT_height/PAIR of straight lines, SPLIT_height_KIND/PAIR of other paths, each with its standard
    error, SPLIT_height_se/PAIR; before them the largest of all pairs, SPLIT_height_max, with its own error."""
    most: dict[str, tuple[float, float]] = {}
    values: dict[str, float] = {}
    for pair, paths in profiles.items():
        for kind, profile in paths.items():
            for split in SPLITS:
                key = f"{split}_height" if kind == "line" else f"{split}_height_{kind}"
                found = profile.height(split)
                most[key] = max(most.get(key, found), found, key=lambda each: each[0])
                values[f"{key}/{tag(*pair)}"], values[f"{key}_se/{tag(*pair)}"] = found
    return {name: value for key, (top, error) in most.items()
            for name, value in ((f"{key}_max", top), (f"{key}_max_se", error))} | values  # fmt: skip


def rows(profiles: Profiles) -> list[dict[str, float | str]]:
    return [
        {"from": first, "to": second, "path": kind, **row}
        for (first, second), paths in profiles.items()
        for kind, profile in paths.items()
        for row in profile.rows()
    ]


def picture(profiles: Profiles) -> Figure:
    """Losses and test accuracy along the paths, eight pairs in a row of panels."""
    pairs = list(profiles.items())
    pages = [pairs[k : k + PAGE] for k in range(0, len(pairs), PAGE)]
    tall = [max(3.2, 0.9 + 0.45 * len(page)) for page in pages]
    figure = Figure(figsize=(13, sum(tall)), dpi=110, layout="constrained", facecolor="white")
    parts = figure.subfigures(len(pages), 1, squeeze=False, height_ratios=tall)[:, 0]
    for page, part in zip(pages, parts, strict=True):
        _page(dict(page), part)
    return figure


def _page(profiles: Profiles, part: SubFigure) -> None:
    panels = dict(zip(PANELS, part.subplots(1, len(PANELS)), strict=True))
    handles, labels = [], []
    for k, (pair, paths) in enumerate(profiles.items()):
        for kind, profile in _different(paths).items():
            means = {split: profile.losses[split].mean(1) for split in SPLITS}
            means["accuracy"] = 100 * profile.accuracy["test"]
            for panel, axes in panels.items():
                (line,) = axes.plot(profile.t, means[panel], **mark(k), ls=KINDS[kind][1], markevery=(k % 4, 4),
                                    ms=4.5, lw=1.4)  # fmt: skip
            handles.append(line)
            labels.append(_label(pair, kind, profile))
    for panel, axes in panels.items():
        axes.set(xlabel="t, from one place (0) to the other (1)", ylabel=PANELS[panel], xlim=(0, 1))
        axes.spines[["top", "right"]].set_visible(False)
        if panel != "accuracy":
            axes.set_ylim(bottom=0)
    part.legend(handles, labels, loc="outside right upper", frameon=False, fontsize="small", handlelength=3.4,
                title="test loss, rise above the chord", title_fontsize="small", alignment="left")  # fmt: skip


def _label(pair: tuple[str, str], kind: str, profile: Profile) -> str:
    """Which path, and how high it rises."""
    first, second = (name if len(name) <= 24 else f"…{name[-23:]}" for name in pair)
    top, error = profile.height("test")
    said = f"{top:.3f} ± {error:.3f}" if top else "none"
    return f"{first} → {second}: {said}" if kind == "line" else f"   {KINDS[kind][0]}: {said}"


def _different(paths: Mapping[str, Profile]) -> dict[str, Profile]:
    """Without what is the straight line by another name."""
    return {kind: profile for kind, profile in paths.items() if kind == "line" or profile is not paths.get("line")}

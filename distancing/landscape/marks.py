"""Colours, markers and short names that tell checkpoints apart in a figure, also without colour."""

from collections.abc import Sequence
from typing import Any

from distancing.colours import INK, OKABE_ITO

COLOURS = (*OKABE_ITO, INK)
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*", "<", ">")  # 10 beside 7 colours: the pairs repeat after 70


def mark(i: int) -> dict[str, Any]:
    """Return colour and marker of the i-th checkpoint, as keyword arguments for matplotlib."""
    return {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}


def short(names: Sequence[str]) -> list[str]:
    """Return the names without their runs' names, or unchanged if two of them would then be the same."""
    last_parts = [name.rpartition("/")[2] for name in names]
    return last_parts if len({*last_parts}) == len(last_parts) else list(names)

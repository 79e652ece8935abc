"""How places are told apart in a picture, in colour and without."""

from collections.abc import Sequence
from typing import Any

from distancing.colours import INK, OKABE_ITO

COLOURS = (*OKABE_ITO, INK)
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*", "<", ">")  # another number of them: 70 pairs


def mark(i: int) -> dict[str, Any]:
    """Colour and marker of the i-th place."""
    return {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}


def short(names: Sequence[str]) -> list[str]:
    """Without their runs' names, where no two are then the same."""
    found = [name.rpartition("/")[2] for name in names]
    return found if len({*found}) == len(found) else list(names)

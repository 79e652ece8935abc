"""The method: hills on the loss at stored checkpoints (section 2.1 of the thesis)."""

from distancing.hills.hills import Hills
from distancing.hills.penalty import Penalty
from distancing.hills.theta import Theta

__all__ = ["Hills", "Penalty", "Theta"]

"""The README's picture shows what it says: the hill takes the minimum away."""

from pathlib import Path

import pytest
import torch

from distancing.analysis.toy import BARRIER, CHECKPOINT, DEEPER, MINIMUM, NOWHERE, PENALTY, START
from distancing.analysis.toy import draw, loss, roll, total


@pytest.mark.parametrize(("checkpoints", "sign"), [(NOWHERE, 1), (CHECKPOINT, -1)])
def test_the_hill_makes_a_top_of_the_minimum(checkpoints, sign):
    before, at, after = total(torch.tensor([2 / 3 - 0.01, 2 / 3, 2 / 3 + 0.01]).double(), PENALTY, checkpoints)
    assert sign * (before - at) > 0 or sign < 0

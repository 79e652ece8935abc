"""The README's picture shows what it says: the hill takes the minimum away, and the ball leaves."""

import pytest
import torch

from distancing.toy.__main__ import CHECKPOINT, MINIMUM, NOWHERE, PENALTY, START, draw, loss, roll, total


def test_the_hill_takes_the_local_minimum_away():
    x = torch.tensor([2 / 3 - 0.1, 2 / 3 - 0.01, 2 / 3, 2 / 3 + 0.01, 4 / 3, 7 / 3]).double()
    assert torch.func.grad(loss)(x[2]) == pytest.approx(0, abs=1e-6)
    assert total(x, PENALTY, NOWHERE).diff().sign().tolist() == [-1, -1, 1, 1, -1]
    assert total(x, PENALTY, CHECKPOINT).diff().sign().tolist() == [-1, -1, -1, -1, -1]


@pytest.mark.parametrize(
    ("start", "at", "end"), [(START, NOWHERE, 2 / 3), (MINIMUM, NOWHERE, 2 / 3), (MINIMUM, CHECKPOINT, 7 / 3)]
)
def test_the_ball_leaves_only_with_the_hill(start, at, end):
    assert roll(start, PENALTY, at, 120)[-10:].tolist() == pytest.approx([end] * 10, abs=0.1)


def test_the_picture_is_a_png(tmp_path):
    draw(tmp_path / "new" / "hill.png")
    assert (tmp_path / "new" / "hill.png").read_bytes().startswith(b"\x89PNG")

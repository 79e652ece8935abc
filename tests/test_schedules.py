"""Schedules and the plan of phases against the formulas, and against torch's own schedulers."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distancing.training.plan import Cycle, Phase, share, unroll
from distancing.training.schedules import Constant, Cosine, CosineRestarts, Schedule, Step

torch_schedulers = torch.optim.lr_scheduler


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Constant(), lambda o: torch_schedulers.ConstantLR(o, 1.0)),
        (Step(step_size=7, gamma=0.3), lambda o: torch_schedulers.StepLR(o, 7, 0.3)),
        (Cosine(lr_min=0.01), lambda o: torch_schedulers.CosineAnnealingLR(o, 60, 0.01)),
        (CosineRestarts(period=5, multiplier=2, lr_min=0.01),
         lambda o: torch_schedulers.CosineAnnealingWarmRestarts(o, 5, 2, 0.01)),
        (CosineRestarts(period=8), lambda o: torch_schedulers.CosineAnnealingWarmRestarts(o, 8)),
    ],
)  # fmt: skip
def test_as_torch_has_it(ours: Schedule, theirs: Any) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.4)
    scheduler = theirs(optimizer)
    for epoch in range(60):
        assert ours(0.4, epoch, 60) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-9, abs=1e-12)
        optimizer.step()
        scheduler.step()


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.001, 200))
def test_the_formulas_between_epochs(lr: float, lr_min: float, t: float) -> None:
    cosine = lr_min + 0.5 * (lr - lr_min) * (1 + math.cos(t / 200 * math.pi))  # (1.10)
    assert Cosine(lr_min=lr_min)(lr, t, 200) == pytest.approx(cosine, abs=1e-12)
    assert Step(step_size=3, gamma=0.5)(lr, t, 200) == pytest.approx(lr * 0.5 ** (t // 3))  # (1.9)
    assert CosineRestarts(period=10)(lr, t, 200) == pytest.approx(Cosine()(lr, t % 10, 10), abs=1e-9)


@given(st.lists(st.one_of(st.none(), st.integers(1, 20)), min_size=1, max_size=12), st.integers(1, 300))
def test_phases_share_the_epochs(epochs: list[int | None], left: int) -> None:
    phases = [Phase(epochs=n) for n in epochs]
    fixed, sharing = sum(n or 0 for n in epochs), epochs.count(None)
    if left < fixed + sharing:
        with pytest.raises(ValueError, match=rf"need at least {fixed + sharing} epochs, but there are {left}"):
            share(phases, left)
        return
    shares = share(phases, left)
    own = [n for n, given in zip(shares, epochs, strict=True) if given is None]
    assert [n for n, given in zip(shares, epochs, strict=True) if given] == [n for n in epochs if n]
    if own:
        assert sum(shares) == left
        assert max(own) - min(own) <= 1
        assert own == sorted(own, reverse=True)


def test_cycles_are_written_out() -> None:
    escape, settle = Phase(penalty=True), Phase(checkpoint=True)
    cycle = Cycle(times=2, phases={"escape": escape, "settle": settle})
    plan = unroll({"descend": Phase(), "cycle": cycle})
    assert list(plan) == ["descend", "escape-1", "settle-1", "escape-2", "settle-2"]
    assert plan["settle-2"] is settle
    with pytest.raises(ValueError, match="two phases are named escape-1"):
        unroll({"escape-1": Phase(), "cycle": cycle})

"""The rivals of the hills, fast geometric ensembles and the like, against the formulas of their papers in float64."""

from typing import Any

import pytest
from conftest import start
from test_training import build, drive

from distancing.training.trainer import Trainer


def rates(trainer: Trainer, folder: Any) -> list[float]:
    """Train the run; return the learning rate of each step."""
    seen: list[float] = []
    trainer.stepper.optimizer.register_step_pre_hook(lambda optimizer, *_: seen.append(optimizer.param_groups[0]["lr"]))
    drive(trainer, folder)
    return seen


def test_fast_geometric_ensembles_have_the_rates_of_their_paper(tmp_path: Any) -> None:
    """Garipov et al. 2018, section 5: t(i) = (mod(i − 1, c) + 1) / c, and α(i) falls from α1 to α2 and rises again. A
    network is stored in the middle of each cycle. The conventional start has its whole schedule."""
    high, low, epochs, networks = 0.03, 0.001, 2, 3
    overrides = [f"phases.first.lr=[{high},{low}]", f"phases.first.epochs={epochs}", f"phases.cycle.times={networks - 1}"]
    trainer = build("phases=fge", "penalty=none", "optimizer.lr=0.1", "scheduler=cosine", "epochs=14", *overrides)
    seen = rates(trainer, tmp_path)
    cycle, begin = 2 * epochs * trainer.steps, 4 * trainer.steps
    for i, rate in enumerate(seen[begin:], 1):
        t = ((i - 1) % cycle + 1) / cycle
        expected = (1 - 2 * t) * high + 2 * t * low if t <= 0.5 else (2 - 2 * t) * low + (2 * t - 1) * high
        assert rate == pytest.approx(expected, rel=1e-9)
    assert seen[:begin] == rates(build("phases=single", "optimizer.lr=0.1", "epochs=4"), tmp_path / "single")
    assert [info["epoch"] for info in trainer.checkpoints.infos] == [4 + epochs + 2 * epochs * k for k in range(networks)]
    assert [row["lr"] for row in trainer.rows] == seen[:: trainer.steps]


REFUSED = {
    "phases.train.lr=[0.1]": "phases.train.lr=[0.1]: list should have at least 2 items",
    "phases.train.lr=[0.1,-1]": "phases.train.lr.1=-1: input should be greater than or equal to 0",
    "phases.train.lr=[0.1,0] phases.train.restart_schedule=true": "phases.train: lr replaces the schedule, so restart_",
    "phases.train.lr=[0.1,0] +phases.last.epochs=1": "phases.last follows train, which has an lr of its own: set its lr",
}


@pytest.mark.parametrize("overrides", REFUSED)
def test_refused_in_one_line(overrides: str, tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert start(f"runs={tmp_path}/runs", "phases=single", *overrides.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {REFUSED[overrides]}")
    assert not list(tmp_path.iterdir())

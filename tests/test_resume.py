"""A run that is stopped, however often, ends with the bits of a run that was never stopped."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import crash
import pytest
import torch
from conftest import TINY, only_run, result, start
from crash import outcome

from distancing.process.signals import StopSignal
from distancing.runs import load

# all that has a state: early stopping with its best parameters, hills, jumps, restarts, dropout, augmentation
RUN = [*TINY, "model=mobilenetv2", "model.width=0.1", "model.dropout=0.3", "epochs=9", "save_every=2",
       "scheduler=cosine", "optimizer.lr=0.05", "phases.descend.patience=2", "label_smoothing=0.1",
       "penalty.sigma_unit=norm", "phases.cycle.phases.settle.jump=0.5"]  # fmt: skip


def begin(folder: Path, *overrides: str) -> ForkServerProcess:
    return crash.begin(folder, [*RUN, *overrides])


def stop(self: Any, *_: Any) -> None:
    """Stop a run after its next step, in the place of StopSignal.__enter__."""
    self.received = signal.SIGTERM


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the outcome of the undisturbed run."""
    return crash.undisturbed(tmp_path_factory.mktemp("undisturbed"), RUN)[0]


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path: Path) -> None:
    """This is a short form of `python tools/crash.py`."""
    expected, seconds = crash.undisturbed(tmp_path, crash.RUN)
    generator, kills = random.Random(0), 0
    while kills < 5:  # a run may end before its moment, since the machine may be less busy than when it was timed
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        kills += len(crash.killed(folder, crash.RUN, seconds, generator))
        assert outcome(only_run(folder / "runs")) == expected


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
def test_stopped_by_a_signal(number: signal.Signals, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    """The state after the current step is saved; the exit code says that the run hasn't ended."""
    expected = undisturbed
    process = begin(tmp_path)
    while not list(tmp_path.glob("runs/*/metrics.csv")):
        time.sleep(0.01)
    time.sleep(0.1)
    os.kill(process.pid or 0, number)
    process.join()
    assert process.exitcode == 128 + number
    newest = load(max(only_run(tmp_path / "runs").glob("state/*")))
    process = begin(tmp_path)
    process.join()
    assert process.exitcode == 0
    assert newest["progress"]["epoch"] < 9
    assert outcome(only_run(tmp_path / "runs")) == expected


class Late(StopSignal):
    """A signal that asks for a saved state arrives just after the first look at those that have arrived."""

    arrives, arrived = True, False

    @property
    def _save(self) -> bool:
        before, self.arrived, self.arrives = self.arrived, self.arrived or self.arrives, False
        return before

    @_save.setter
    def _save(self, value: bool) -> None:
        self.arrived = value


def test_no_request_for_a_saved_state_is_lost() -> None:
    stop_signal = Late()
    assert [stop_signal.request() for _ in range(3)] == [None, "save", None]


@pytest.mark.slow
def test_every_single_step_can_be_the_last(
    undisturbed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is stopped after each of 27 steps, and then with the newest state damaged, which costs one more step."""
    expected = undisturbed
    monkeypatch.chdir(tmp_path)
    stops, code = 0, None
    with monkeypatch.context() as patch:
        patch.setattr("distancing.experiment.main.StopSignal.__enter__", stop)
        while code is None:
            with contextlib.suppress(SystemExit):
                code = start(*RUN)
            stops += code is None
            if stops == 5:
                newest = max(only_run(tmp_path / "runs").glob("state/*"))
                newest.write_bytes(newest.read_bytes()[:-1000] + bytes(1000))
    assert stops == 9 * 3 - 1 + 1
    assert outcome(only_run(tmp_path / "runs")) == expected


@pytest.mark.slow
def test_resumed_on_another_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run goes on with the instructions of another processor, says so, and names both in its result."""
    with monkeypatch.context() as patch, contextlib.suppress(SystemExit):
        patch.setattr("distancing.experiment.main.StopSignal.__enter__", stop)
        start(*TINY, f"runs={tmp_path}")
    command = [sys.executable, "-m", "distancing", "train", *TINY, f"runs={tmp_path}"]
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "default"}
    again = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    devices = f"cpu {torch.backends.cpu.get_cpu_capability()}, then cpu DEFAULT"
    assert f"note: this run has trained on {devices}\n" in again.stdout
    assert result(only_run(tmp_path))["device"] == devices

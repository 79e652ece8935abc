"""However often a run is stopped, it ends bit for bit as the one that never was."""

import contextlib
import csv
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, only_run, start
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distancing.storage import load

# all that has a state: early stopping with its best parameters, hills, jumps, restarts, dropout, augmentation
RUN = [*TINY, "model=mobilenetv2", "model.width=0.1", "model.dropout=0.3", "epochs=9", "checkpoint_every=2",
       "scheduler=cosine", "optimizer.lr=0.05", "phases.descend.patience=2", "label_smoothing=0.1",
       "penalty.sigma_unit=norm", "phases.cycle.phases.settle.jump=0.5"]  # fmt: skip
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["distancing.experiment", "torch.utils.tensorboard", "sklearn.datasets"])


def outcome(run: Path) -> dict[str, Any]:
    """Everything that a run leaves, but for times and places."""
    result = json.loads((run / "result.json").read_text())
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    stored = {path.name: load(path) for path in sorted((run / "checkpoints").glob("*.pt"))}
    logits = {path.name: load(path)["logits"] for path in sorted((run / "checkpoints/logits").glob("*.pt"))}
    for each in (result, *rows):
        each.pop("seconds")
    del result["images_per_second"]
    tensors = {f"{name}/{key}": value for name, each in stored.items() for key, value in each.pop("network").items()}
    tensors |= {f"logits/{name}/{key}": value for name, each in logits.items() for key, value in each.items()}
    bits = {name: value.numpy().tobytes() for name, value in tensors.items()}
    events = EventAccumulator(str(run), {"scalars": 0}).Reload()
    scalars = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    del scalars["seconds"]
    return {"result": result, "rows": rows, "stored": stored, "bits": bits, "scalars": scalars}


def child(folder: str, overrides: list[str]) -> None:
    os.chdir(folder)
    torch.set_num_threads(1)
    raise SystemExit(start(*RUN, *overrides))


def begin(folder: Path, *overrides: str) -> ForkServerProcess:
    process = PROCESSES.Process(target=child, args=(str(folder), list(overrides)))
    process.start()
    return process


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], float]:
    """What the run ends with, and the seconds that it takes."""
    for _ in range(2):  # the first one also starts the server
        folder, begun = tmp_path_factory.mktemp("undisturbed"), time.monotonic()
        process = begin(folder)
        process.join()
        assert process.exitcode == 0
    return outcome(only_run(folder / "runs")), time.monotonic() - begun


def test_killed_at_random_moments(undisturbed: tuple[dict[str, Any], float], tmp_path: Path) -> None:
    expected, seconds = undisturbed
    generator = random.Random(0)
    kills = 0
    for trial in range(3):
        folder = tmp_path / str(trial)
        folder.mkdir()
        while True:
            process = begin(folder)
            process.join(timeout=generator.uniform(0.1, 1) * seconds)
            if process.exitcode is not None:
                break
            process.kill()
            process.join()
            kills += 1
        assert process.exitcode == 0
        assert outcome(only_run(folder / "runs")) == expected
    assert kills >= 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
def test_stopped_by_a_signal(number: signal.Signals, undisturbed: tuple[dict[str, Any], float], tmp_path: Path) -> None:
    """The state after the current step is saved; the exit code says that the run hasn't ended."""
    expected, _ = undisturbed
    process = begin(tmp_path)
    while not list(tmp_path.glob("runs/*/metrics.csv")):
        time.sleep(0.01)
    time.sleep(0.3)
    os.kill(process.pid or 0, number)
    process.join()
    assert process.exitcode == 128 + number
    newest = load(max(only_run(tmp_path / "runs").glob("state/*")))
    process = begin(tmp_path)
    process.join()
    assert process.exitcode == 0
    assert newest["progress"]["epoch"] < 9
    assert outcome(only_run(tmp_path / "runs")) == expected


def test_every_single_step_can_be_the_last(undisturbed: tuple[dict[str, Any], float], tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """Stopped after each step, 27 times over; then with the newest state damaged, which costs one more step."""
    expected, _ = undisturbed
    torch.set_num_threads(1)

    def stop(self: Any, *_: Any) -> None:
        self.received = signal.SIGTERM

    monkeypatch.chdir(tmp_path)
    stops, code = 0, None
    with monkeypatch.context() as patch:
        patch.setattr("distancing.experiment.StopSignal.__enter__", stop)
        while code is None:
            with contextlib.suppress(SystemExit):
                code = start(*RUN)
            stops += code is None
            if stops == 5:
                newest = max(only_run(tmp_path / "runs").glob("state/*"))
                newest.write_bytes(newest.read_bytes()[:-1000] + bytes(1000))
    assert stops == 9 * 3 - 1 + 1
    assert outcome(only_run(tmp_path / "runs")) == expected


def test_a_damaged_checkpoint_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                       monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert start(*RUN) == 0
    run = only_run(tmp_path / "runs")
    shutil.rmtree(run)
    process = begin(tmp_path)
    while not list(tmp_path.glob("runs/*/checkpoints/settle-1.pt")):
        time.sleep(0.01)
    process.kill()
    process.join()
    (run / "checkpoints/descend.pt").write_bytes(b"nonsense")
    assert start(*RUN) == 2
    assert f"{run.relative_to(tmp_path)}/checkpoints/descend.pt is damaged" in capsys.readouterr().err

"""Processes that work on one run or sweep at the same moment: the second one acts where it would do most harm."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import TINY, compose

from distancing.config.checks import check
from distancing.errors import InUseError
from distancing.runs import Listed, RunDirectory, SweepDirectory
from distancing.sweep.__main__ import main as cli
from distancing.sweep.cost import measured
from distancing.sweep.freeze import Frozen
from distancing.sweep.job import REQUEUE, note, resume
from distancing.sweep.launch import launch
from distancing.sweep.local import Local
from distancing.sweep.slurm import Slurm
from distancing.sweep.status import Status, status


def test_a_run_that_is_retried_while_its_status_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "error.txt").write_text("no such thing\n")
    read_text = Path.read_text

    def retried(path: Path, *args: Any, **kwargs: Any) -> str:
        if path.name == "error.txt":
            RunDirectory(tmp_path).forget_failures()
        return read_text(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", retried)
    assert status(Listed(tmp_path, (), 10), {}).state == "waiting"


def test_a_run_that_ends_while_its_status_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = RunDirectory(tmp_path)
    directory.write_json("starts.json", {"newest": "", "times": 1})

    def end(_: RunDirectory) -> bool:
        directory.write_result({"epochs": 9, "metrics": None, "diverged": None, "analysis": None})
        directory.write_json("job.json", {"launcher": "local", "exit": 0})
        return False

    monkeypatch.setattr(RunDirectory, "in_use", property(end))
    assert status(Listed(tmp_path, (), 10), {}).state == "finished"


def test_ctrl_c_while_jobs_are_submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm's jobs are noted before the launcher stops, so that nothing starts their runs twice."""
    runs, sweep = [tmp_path / "runs" / name for name in ("a", "b")], SweepDirectory(tmp_path / "runs/sweeps/it")

    def submit(*_: Any) -> list[str]:
        os.kill(os.getpid(), signal.SIGINT)
        return ["7"]

    monkeypatch.setattr("distancing.sweep.slurm._max_array_size", lambda: 1)
    monkeypatch.setattr(Slurm, "_submit", submit)
    with pytest.raises(SystemExit, match="130"):
        Slurm(timeout_min=1, setup=[], srun_args=[], additional_parameters={}).start(runs, sweep, None)
    assert [RunDirectory(run).read_json("job.json").get("job") for run in runs] == ["7", None]


def test_jobs_that_are_being_submitted_are_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher holds the sweep's lock until it has noted the numbers of its jobs."""
    monkeypatch.chdir(tmp_path)
    sweep, run, cancelled = SweepDirectory("runs/sweeps/it"), Path("runs/a"), list[str]()
    sweep.path.mkdir(parents=True)
    sweep.add([Listed(run, (), 3)])
    note(str(run), "6", sweep.jobs, several=False)  # an earlier job

    @contextmanager
    def lock(_: SweepDirectory) -> Iterator[None]:  # wait for the launcher
        note(str(run), "7", sweep.jobs, several=False)
        yield

    monkeypatch.setattr(SweepDirectory, "lock", lock)
    monkeypatch.setattr("distancing.sweep.slurm.queue", lambda _: {"7": "PENDING"})
    monkeypatch.setattr("distancing.sweep.slurm.cancel", cancelled.extend)
    assert cli(["cancel", "it"]) == 0
    assert cancelled == ["7"]
    assert RunDirectory(run).read_json("job.json")["cancelled"]


def test_a_run_that_begins_before_it_would_be_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cfg = compose(*TINY, "overwrite=true")
    frozen = Frozen(check(cfg), (), {})
    directory = RunDirectory(frozen.directory)
    directory.save_state({}, 1, 0)
    with ExitStack() as other:

        def begun(*arguments: Any) -> Status:
            found = status(*arguments)
            other.enter_context(RunDirectory(frozen.directory))
            return found

        monkeypatch.setattr("distancing.sweep.launch.status", begun)
        with pytest.raises(InUseError, match="is in use"):
            next(launch([frozen], SweepDirectory("runs/sweeps/it"), Local()))
    assert directory.states()


def test_a_job_is_queued_again_although_the_other_process_has_just_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = RunDirectory(tmp_path / "run-hash")
    other = ExitStack()
    other.enter_context(directory)

    def run(_: Any, directory: RunDirectory, **__: Any) -> None:
        with other, directory:  # at the refusal, `other` is left
            pass

    monkeypatch.setattr("distancing.sweep.job.WAIT", 0.0)
    monkeypatch.setattr("distancing.config.checks.read_config", lambda _: SimpleNamespace(hash="hash"))
    monkeypatch.setattr("distancing.experiment.main.run", run)
    assert resume(str(directory.path), in_slurm=True) == REQUEUE
    assert not directory.error.exists()


def test_the_cost_while_files_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that have ended are measured while another process stores an analysis in one of them."""
    for name in ("a", "b"):
        directory = RunDirectory(tmp_path / name)
        directory.freeze("model: {width: 2}", "[]")
        directory.write_result({"status": "finished", "epochs": 2, "seconds": 6.0, "device": "cpu"})
    temporary, is_file = tmp_path / "a/.plane.png.tmp", Path.is_file
    temporary.touch()

    def replaced(path: Path) -> bool:
        found = is_file(path)
        temporary.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(Path, "is_file", lambda path: replaced(path) if path == temporary else is_file(path))
    assert [cost.runs for cost in measured(tmp_path)["cpu"].values()] == [1]

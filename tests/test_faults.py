"""Faults: every write fails once, every file is cut or has a bit flipped, the clock jumps, the directory moves.

No fault leads to a stack trace, a silent start from zero, or another result.
"""

import builtins
import errno
import io
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, compose, only_run, result, start
from crash import outcome
from omegaconf import DictConfig

from distancing.ensemble.__main__ import main as ensemble_cli
from distancing.errors import StorageError
from distancing.experiment import main as experiment
from distancing.runs import Listed, RunDirectory, lock
from distancing.sweep.status import status
from distancing.training.trainer import Trainer

RUN = [*TINY[2:], "experiment=smoke", "model=mlp", "model.width=8", "phases=distancing", "epochs=4",
       "save_every=1", "analysis=[barrier]", "analysis.barrier.points=3"]  # fmt: skip
EVERY = int(os.environ.get("FAULTS_EVERY", "12"))  # 1: every single write, for some minutes
CODES = (errno.ENOSPC, errno.EIO, errno.EACCES)


@pytest.fixture(scope="module")
def cfg() -> DictConfig:
    return compose(*RUN)


@pytest.fixture(scope="module")
def expected(cfg: DictConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run(cfg, folder) == 0
    return outcome(only_run(folder))


def run(cfg: DictConfig, folder: Path) -> int:
    cfg.runs = str(folder)
    return experiment.main(cfg)[0]


class Faulty:
    """A file whose writes are counted."""

    def __init__(self, file: Any, count: Callable[[], None]) -> None:
        self._file, self._count = file, count

    def write(self, data: Any) -> Any:
        self._count()
        return self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "Faulty":
        self._file.__enter__()
        return self

    def __exit__(self, *details: Any) -> Any:
        return self._file.__exit__(*details)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._file)


@contextmanager
def faults(folder: Path, fail: int = 0) -> Iterator[list[str]]:
    """Count the operations that write below `folder`: open, write, flush, rename, make and remove.

    Operation number `fail`, counted from 1, fails."""
    done: list[str] = []
    names = {"open": builtins.open, "io.open": io.open, "fsync": os.fsync, "replace": os.replace, "mkdir": os.mkdir,
             "unlink": os.unlink}  # fmt: skip

    def count(what: str) -> None:
        done.append(what)
        if len(done) == fail:
            code = CODES[fail % len(CODES)]
            raise OSError(code, os.strerror(code))

    def opening(file: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
        if isinstance(file, int) or not str(file).startswith(str(folder)) or not set(mode) & set("wax+"):
            return names["open"](file, mode, *rest, **more)
        count(f"open {file}")
        return Faulty(names["open"](file, mode, *rest, **more), lambda: count(f"write {file}"))

    def counted(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            if isinstance(arguments[0], int) or str(arguments[0]).startswith(str(folder)):
                count(f"{name} {arguments[0]}")
            return names[name](*arguments, **more)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builtins, "open", opening)
        patch.setattr(io, "open", opening)
        for name in ("fsync", "replace", "mkdir", "unlink"):
            patch.setattr(os, name, counted(name))
        yield done


@pytest.mark.slow
def test_every_write_can_fail(
    cfg: DictConfig, expected: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After a failed write, the same command ends with the same bits. FAULTS_EVERY=1 tests all writes."""
    (tmp_path / "0").mkdir()
    with faults(tmp_path / "0") as done:
        assert run(cfg, tmp_path / "0") == 0
    assert len(done) > 100
    refused = 0
    for n in range(1 + len(done) % EVERY, len(done) + 1, EVERY):
        folder = tmp_path / str(n)
        folder.mkdir()
        capsys.readouterr()
        with faults(folder, fail=n) as until:
            code = run(cfg, folder)
        output = capsys.readouterr().err
        what = f"{n}: {until[n - 1]}: {output}"
        assert code in (0, 2), what
        if code == 2:
            refused += 1
            assert output.count("\n") == 1, what
            assert output.startswith("error: "), what
        assert not list(folder.rglob(".*.tmp")), what
        assert run(cfg, folder) == 0, what
        assert outcome(only_run(folder)) == expected, what
    assert refused > 0


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before TensorBoard", "before result.json"])
def test_an_analysis_is_recorded_once(
    when: str, cfg: DictConfig, expected: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is killed after the analysis has written its files, and before it is recorded elsewhere."""
    kept = RunDirectory.write_result

    def killed(self: RunDirectory, result: dict[str, Any]) -> None:
        if result["analysis"]:
            raise KeyboardInterrupt
        kept(self, result)

    def at_once(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if when == "before TensorBoard":
            patch.setattr(experiment, "record", at_once)
        else:
            patch.setattr(RunDirectory, "write_result", killed)
        with pytest.raises(KeyboardInterrupt):
            run(cfg, tmp_path)
    assert run(cfg, tmp_path) == 0
    assert outcome(only_run(tmp_path)) == expected


def test_a_full_disk_is_named(cfg: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                              capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", full)
    assert run(cfg, tmp_path) == 2
    assert f"No space left on device: '{only_run(tmp_path)}'" in capsys.readouterr().err


# what is damaged, moved or out of time


@pytest.fixture
def stopped(cfg: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a run that was stopped in its last epoch, with two states and a checkpoint."""
    kept, saves = RunDirectory.save_state, 0

    def save(self: RunDirectory, *arguments: Any) -> None:
        nonlocal saves
        saves += 1
        if saves == 4:
            raise KeyboardInterrupt
        kept(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "save_state", save)
        with pytest.raises(KeyboardInterrupt):
            run(cfg, tmp_path / "runs")
    path = only_run(tmp_path / "runs")
    assert len(list(path.glob("state/*"))) == 2
    assert (path / "checkpoints/descend.pt").exists()
    return path


def damaged(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "cut":
        content = content[: len(content) // 2]
    elif how == "empty":
        content = bytearray()
    else:
        content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["cut", "empty", "flipped"])
def test_damaged_files_of_an_unfinished_run(
    how: str, stopped: Path, cfg: DictConfig, expected: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """The newest state, the log, the logits and the frozen config are replaced; both states, or a checkpoint that is
    needed, are named, and nothing starts from zero."""
    older, newest = sorted(stopped.glob("state/*"))
    copy = stopped.parent.parent / "copy"
    shutil.copytree(stopped, copy)
    damaged(stopped / "checkpoints/descend.pt", how)
    assert run(cfg, stopped.parent) == 2
    assert "checkpoints/descend.pt is damaged" in capsys.readouterr().err
    shutil.copy(copy / "checkpoints/descend.pt", stopped / "checkpoints")
    for path in (
        newest,
        stopped / "metrics.csv",
        stopped / "checkpoints/logits/descend.pt",
        stopped / ".hydra/config.yaml",
    ):
        damaged(path, how)
    before = older.read_bytes()
    damaged(older, how)
    assert run(cfg, stopped.parent) == 2
    assert "holds no undamaged state" in capsys.readouterr().err
    older.write_bytes(before)
    assert run(cfg, stopped.parent) == 0
    assert f"{newest} is damaged" in capsys.readouterr().out
    assert outcome(stopped) == expected


@pytest.mark.slow
@pytest.mark.parametrize("how", ["cut", "empty", "flipped"])
def test_damaged_files_of_an_ended_run(
    how: str, cfg: DictConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(cfg, tmp_path) == 0
    ended = only_run(tmp_path)
    for name, output in (
        ("result.json", "result.json is damaged"),
        ("checkpoints/descend.pt", "checkpoints/descend.pt is damaged"),
        (".hydra/config.yaml", "config.yaml"),
    ):
        kept = (ended / name).read_bytes()
        damaged(ended / name, how)
        for path in ended.glob("checkpoints/logits/*"):
            path.unlink()
        capsys.readouterr()
        if name == "result.json":
            assert run(cfg, tmp_path) == 2
            assert status(Listed(ended, (), 4), {}).state == "failed"
        if name != ".hydra/config.yaml" or how != "flipped":  # a bit of a comment or of `runs` changes nothing
            assert ensemble_cli([str(ended)]) == 2
            (line,) = [line for line in capsys.readouterr().err.splitlines() if "ensemble" not in line][-1:]
            assert line.startswith("error: ")
            assert output in line
        (ended / name).write_bytes(kept)
    # another seed: the networks weren't trained with it
    config = ended / ".hydra/config.yaml"
    config.write_text(config.read_text().replace("seed: 0", "seed: 1"))
    assert ensemble_cli([str(ended)]) == 2
    assert "made with the config" in capsys.readouterr().err


def test_the_state_of_another_run_is_refused(
    stopped: Path, cfg: DictConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg.seed += 1
    try:
        other = stopped.with_name(f"{stopped.name[:-8]}{experiment.check(cfg).hash}")
        shutil.copytree(stopped, other)
        assert run(cfg, stopped.parent) == 2
    finally:
        cfg.seed -= 1
    assert f"{other} holds the state of another run, {stopped.name[-8:]}" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("jump", [-1e9, 1e9])
def test_a_clock_that_jumps(
    jump: float, stopped: Path, cfg: DictConfig, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only durations depend on a clock."""
    begun = time.time()
    for name in ("time", "perf_counter", "monotonic"):
        kept, calls = getattr(time, name), []

        def clock(kept: Callable[[], float] = kept, calls: list[int] = calls) -> float:
            calls.append(1)
            return kept() + jump * (len(calls) % 3)

        monkeypatch.setattr(time, name, clock)
    assert run(cfg, stopped.parent) == 0
    monkeypatch.undo()
    assert time.time() >= begun
    assert outcome(stopped) == expected


@pytest.mark.slow
@pytest.mark.parametrize("how", [shutil.move, shutil.copytree])
def test_a_directory_that_moves(
    how: Callable[[Path, Path], Any], stopped: Path, cfg: DictConfig, expected: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    how(stopped, tmp_path / "elsewhere" / stopped.name)
    assert run(cfg, tmp_path / "elsewhere") == 0
    assert outcome(only_run(tmp_path / "elsewhere")) == expected


# one process


def test_another_machine_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where flock holds on each machine alone, a process waits until two minutes have passed without a heartbeat."""
    monkeypatch.setattr(lock, "HEARTBEAT", 0.05)
    directory = RunDirectory(tmp_path, wait=0)
    with directory:
        first = (tmp_path / ".owner").stat().st_mtime_ns
        while (tmp_path / ".owner").stat().st_mtime_ns == first:
            time.sleep(0.01)  # a sign of life
    assert not (tmp_path / ".owner").exists()

    (tmp_path / ".owner").write_text(json.dumps({"host": "node7", "pid": 123}))
    with pytest.raises(StorageError, match="is in use: process 123 on node7 is training this run"), directory:
        pass
    assert directory.in_use
    long_ago = time.time() - lock.EXPIRY - 1
    os.utime(tmp_path / ".owner", (long_ago, long_ago))
    assert not directory.in_use
    with directory:
        assert json.loads((tmp_path / ".owner").read_text())["pid"] == os.getpid()
    for torn in ("", "3", "[]", '{"host": 3}', "\0"):
        (tmp_path / ".owner").write_text(torn)
        with directory:
            pass


def test_a_file_system_that_does_not_lock_is_refused(
    cfg: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import fcntl

    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    assert run(cfg, tmp_path) == 2
    assert "is on a file system that doesn't lock files" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.pt"))


# the same, a second time


@pytest.mark.slow
def test_verify(
    cfg: DictConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second training gives the same bits, and a difference of one bit is reported."""
    cfg.verify = True
    try:
        assert run(cfg, tmp_path / "a") == 0
        assert "verified: the same a second time, bit for bit" in capsys.readouterr().out
        assert json.loads((only_run(tmp_path / "a") / "result.json").read_text())["verified"] is True
        step, trainers = Trainer.step, []

        def other(self: Any, *arguments: Any) -> None:
            step(self, *arguments)
            if self not in trainers:
                trainers.append(self)
                if len(trainers) == 2:
                    self.theta.vector[0] += 1e-6

        monkeypatch.setattr(Trainer, "step", other)
        assert run(cfg, tmp_path / "b") == experiment.NOT_THE_SAME
        assert "verified: not the same a second time: checkpoint descend: " in capsys.readouterr().out
        assert json.loads((only_run(tmp_path / "b") / "result.json").read_text())["verified"] is False
        assert run(cfg, tmp_path / "b") == experiment.NOT_THE_SAME  # read, not trained again
        assert len(trainers) == 2
    finally:
        cfg.verify = False


@pytest.mark.slow
@pytest.mark.usefixtures("two_cores")
def test_threads_change_last_digits_only(tmp_path: Path) -> None:
    """For one epoch of a small network on digits, docs/guarantees.md states a tolerance of 1e-5 of ‖θ‖."""
    networks = []
    for threads in (1, 2):
        folder = tmp_path / str(threads)
        one = ["dataset.train_images=600", "model.width=4", "phases=single", "epochs=1", "optimizer.lr=0.01"]
        assert start(*one, f"threads={threads}", f"runs={folder}") == 0
        assert result(only_run(folder))["threads"] == threads
        network = torch.load(only_run(folder) / "checkpoints/final.pt", weights_only=True)["network"]
        networks.append(torch.cat([value.double().flatten() for name, value in network.items() if "num_" not in name]))
    distance = float((networks[0] - networks[1]).norm() / networks[0].norm())
    assert distance < 1e-5, distance
    print(f"relative distance {distance:.1e}")

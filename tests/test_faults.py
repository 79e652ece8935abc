"""Faults: every write fails once, every file is cut or has a bit flipped, the clock jumps, the directory moves. Never a
stack trace, never a silent start from zero, never another result."""

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
from conftest import TINY, compose, only_run, start
from crash import outcome
from omegaconf import DictConfig

from distancing import experiment
from distancing.ensemble.__main__ import main as ensemble_cli
from distancing.storage import RunDirectory, StorageError, lock
from distancing.sweep.status import status
from distancing.storage import Listed

RUN = [*TINY[2:], "experiment=smoke", "model=mlp", "model.width=8", "phases=distancing", "epochs=4", "checkpoint_every=1",
       "analysis=[barrier]", "analysis.barrier.points=3"]  # fmt: skip
EVERY = int(os.environ.get("FAULTS_EVERY", "8"))  # 1: every single write, for ten minutes
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
    """Everything that is written below `folder`: opening, writing, flushing to disk, renaming, new folders, removing;
    the operation number `fail`, from 1, fails."""
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


def test_every_write_can_fail(cfg: DictConfig, expected: dict[str, Any], tmp_path: Path,
                              capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    """FAULTS_EVERY=1 for all of them. The same command then ends with the same bits."""
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
        said = capsys.readouterr().err
        what = f"{n}: {until[n - 1]}: {said}"
        assert code in (0, 2), what
        if code == 2:
            refused += 1
            assert said.count("\n") == 1, what
            assert said.startswith("error: "), what
        assert not list(folder.rglob(".*.tmp")), what
        assert run(cfg, folder) == 0, what
        assert outcome(only_run(folder)) == expected, what
    assert refused > 0

"""Files: whole or not at all, and a damaged one is named."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distancing import runs as storage
from distancing.errors import StorageError
from distancing.runs import RunDirectory, load, save
from distancing.runs.files import sealed


@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_bit_is_never_read_as_data(position: float, bit: int, tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    save(path, {"x": torch.arange(100.0), "n": 3, "s": ["a", None]})
    assert torch.load(path, weights_only=True)["n"] == 3  # by anyone
    data = bytearray(path.read_bytes())
    data[int(position * len(data))] ^= 1 << bit
    path.write_bytes(data)
    with pytest.raises(StorageError, match=r"file\.pt is damaged"):
        load(path)


@pytest.mark.parametrize("keep", [0, 1, 500, -1])
def test_a_cut_file_is_named(keep: int, tmp_path: Path) -> None:
    save(tmp_path / "file.pt", {"x": torch.arange(100.0)})
    (tmp_path / "file.pt").write_bytes((tmp_path / "file.pt").read_bytes()[:keep])
    with pytest.raises(StorageError, match=r"file\.pt is damaged"):
        load(tmp_path / "file.pt")


def test_a_pickle_is_not_executed(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save({"x": Hostile()}, tmp_path / "file.pt")
    (tmp_path / "file.pt").write_bytes(sealed((tmp_path / "file.pt").read_bytes()))
    with pytest.raises(StorageError, match=r"is damaged: UnpicklingError.*Weights only"):
        load(tmp_path / "file.pt")
    assert not (tmp_path / "executed").exists()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    storage.write(path, b"old")
    (tmp_path / ".file.tmp").write_bytes(b"left over by a killed process")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            storage.write(path, b"new")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"
    storage.write(path, b"new")
    assert path.read_bytes() == b"new"


def test_two_states_are_kept_and_the_older_one_used(tmp_path: Path) -> None:
    warnings: list[str] = []
    with RunDirectory(tmp_path) as directory:
        for epoch in range(4):
            directory.save_state({"epoch": epoch}, epoch, 0)
        assert directory.load_state(torch.device("cpu"), warnings.append) == {"epoch": 3}
        newest, older = sorted((tmp_path / "state").iterdir(), reverse=True)
        newest.write_bytes(newest.read_bytes()[:50])
        assert directory.load_state(torch.device("cpu"), warnings.append) == {"epoch": 2}
        assert len(warnings) == 1
        assert newest.name in warnings[0]
        older.write_bytes(b"")
        with pytest.raises(StorageError, match="holds no good state; overwrite=true starts over"):
            directory.load_state(torch.device("cpu"), warnings.append)


def test_a_directory_has_one_process(tmp_path: Path) -> None:
    with RunDirectory(tmp_path), pytest.raises(StorageError, match="is in use"), RunDirectory(tmp_path):
        pass
    with RunDirectory(tmp_path):
        pass

"""Files are written whole or not at all, and a damaged one is named."""

import csv
import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distancing.errors import StorageError
from distancing.runs import RunDirectory, load, metrics_file, save, write


@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_bit_is_never_read_as_data(position: float, bit: int, tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    save(path, {"x": torch.arange(100.0), "n": 3, "s": ["a", None]})
    assert torch.load(path, weights_only=True)["n"] == 3  # torch reads the sealed file, too
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


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
            write(path, b"new")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"
    write(path, b"new")
    assert path.read_bytes() == b"new"
    rows = metrics_file.MetricsWriter(path, ["epoch"])
    with monkeypatch.context() as patch:
        patch.setattr(rows._file, "flush", lambda: full(0))
        with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
            rows.add({"epoch": 1})
    rows.close()


@pytest.mark.parametrize("flush", [True, False])
def test_two_writers_of_a_file(flush: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`distancing ensemble` may store the logits of a checkpoint while its run does, and an orphan on a lost node may
    note how a run has ended while the job that follows it does."""
    path, replace = tmp_path / "file", os.replace

    def both(*names: Path) -> None:
        monkeypatch.setattr(os, "replace", replace)
        write(path, b"second", flush)
        replace(*names)

    monkeypatch.setattr(os, "replace", both)
    write(path, b"first", flush)
    assert path.read_bytes() == b"first"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_states_that_were_left_half_written_are_removed(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.save_state({"epoch": 1}, 1, 0)
    (tmp_path / "state/.000002-000000.pt.0a1b2c3d.tmp").write_bytes(b"by a killed process")
    for epoch in (2, 3):
        directory.save_state({"epoch": epoch}, epoch, 0)
    assert sorted(file.name for file in (tmp_path / "state").iterdir()) == ["000002-000000.pt", "000003-000000.pt"]


def test_metrics_are_read_as_they_were_written(tmp_path: Path) -> None:
    path, columns = tmp_path / "metrics.csv", ["epoch", "phase", "distance/θ, old"]
    rows = [{"epoch": i, "phase": "é", "distance/θ, old": i / 3 if i > 2 else None} for i in range(1, 8)]
    writer = metrics_file.MetricsWriter(path, columns)
    for row in rows:
        writer.add(row)
    writer.close()
    with open(path, encoding="utf-8", newline="") as file:
        expected = list(csv.DictReader(file))
    assert metrics_file.read(path) == metrics_file.MetricsTable(columns, expected, None)
    assert path.read_text(encoding="utf-8") == metrics_file.to_text(columns, rows)

    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    for n in range(8):
        size = sum(map(len, lines[8 - n :]))  # of the last n rows
        for tail, count in ((size, n), (size + 1, n), (size - 1, n - 1)):
            if 0 <= tail < len(content) - len(lines[0]):
                assert metrics_file.read(path, tail).rows == expected[7 - count :]
    assert metrics_file.read(path, 10**6).rows == expected

    path.write_bytes(content[:-1])  # its last number may be cut
    assert metrics_file.read(path) == metrics_file.MetricsTable(columns, expected[:-1], "the last row is half-written")
    path.write_bytes(b"".join([*lines[:3], b"3,\n", *lines[4:]]))
    table = metrics_file.read(path)
    assert (table.rows, table.damage) == (expected[:2], "a row has 2 values instead of 3")
    for damaged, reason in ((b"", "it is empty"), (content[:5], "header"), (content.replace(b"4,", b"\xff,"), "utf-8")):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=reason):
            metrics_file.read(path)


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
        with pytest.raises(StorageError, match="holds no undamaged state; overwrite=true starts over"):
            directory.load_state(torch.device("cpu"), warnings.append)


@pytest.mark.parametrize("damage", [b"\xff", b"[" * 100_000])
def test_damaged_files_that_no_result_needs(damage: bytes, tmp_path: Path) -> None:
    """They are replaced, or count as missing."""
    directory = RunDirectory(tmp_path)
    directory.freeze("seed: 0\n", "[]\n")
    for file in (directory.config, directory.overrides, tmp_path / "job.json", tmp_path / ".owner"):
        file.write_bytes(damage)
    directory.freeze("seed: 0\n", "[]\n")
    assert (directory.config.read_text(), directory.overrides.read_text()) == ("seed: 0\n", "[]\n")
    assert directory.read_json("job.json") == {}
    assert not directory.in_use


def test_a_directory_has_one_process(tmp_path: Path) -> None:
    with RunDirectory(tmp_path), pytest.raises(StorageError, match="is in use"), RunDirectory(tmp_path):
        pass
    with RunDirectory(tmp_path):
        pass


def test_a_directory_that_another_process_made_again(tmp_path: Path) -> None:
    """The process whose directory was moved away stops, and leaves the new one alone."""
    path = tmp_path / "run"
    first, second = RunDirectory(path), RunDirectory(path)
    with first:
        path.rename(tmp_path / "moved")
        second.__enter__()
        with pytest.raises(StorageError, match="was moved or deleted while the run trained"):
            first.check_there()
    assert (path / ".owner").exists()
    second.check_there()
    second.__exit__()

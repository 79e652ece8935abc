"""Directories from strangers: nothing in them is executed, and no name in them leads out of them."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, only_run, start

from distancing.ensemble.__main__ import main as ensemble_cli
from distancing.errors import StorageError, SweepError
from distancing.landscape.__main__ import main as landscape_cli
from distancing.runs import Listed, RunDirectory, SweepDirectory
from distancing.runs.files import sealed
from distancing.sweep.__main__ import main as sweep_cli
from distancing.sweep.job import resume

RUN = [*TINY, "phases=distancing", "epochs=2"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a finished run, trained from that folder."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert start(*RUN) == 0
    return folder / "runs"


@pytest.fixture
def ended(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the finished run in `tmp_path`, which is the current folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, tmp_path / "runs")
    return only_run(tmp_path / "runs")


@pytest.fixture
def bomb(tmp_path: Path) -> Any:
    """Return an object that makes a directory when it is unpickled."""

    class Bomb:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "executed"),)

    return Bomb()


def archive(path: Path, content: Any) -> None:
    """Write a file as `save` does, with a correct checksum."""
    torch.save(content, path)
    path.write_bytes(sealed(path.read_bytes()))


def test_tensors_are_read_without_executing(
    ended: Path, bomb: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A state, a checkpoint and logits hold an archive with a hostile pickle, or a bare pickle."""
    for write in (archive, lambda path, content: path.write_bytes(sealed(pickle.dumps(content)))):
        for path in (*ended.glob("checkpoints/logits/*.pt"), ended / "checkpoints/descend.pt"):
            write(path, {"network": bomb, "logits": bomb, "epoch": 1, "checkpoint": "x"})
        for tool in (ensemble_cli, landscape_cli):
            assert tool([str(ended)]) == 2
            assert "checkpoints/descend.pt is damaged" in capsys.readouterr().err
        (ended / "state").mkdir(exist_ok=True)
        write(ended / "state/000001-000000.pt", {"progress": bomb})
        (ended / "result.json").rename(ended / "kept")
        assert start(*RUN) == 2
        assert "holds no undamaged state" in capsys.readouterr().err
        (ended / "kept").rename(ended / "result.json")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ("_target_: distancing.models.ResNet", "_target_: os.system\n  command: touch executed"),
        ("_target_: distancing.models.ResNet", "_target_: stranger.Model"),  # which is executed when it is imported
        ("_target_: distancing.hills.kernels.Gaussian", "_target_: distancing.runs.directory.shutil.rmtree"),
        ("seed: 0\nepochs", "seed: !!python/object/apply:os.system ['touch executed']\nepochs"),
        ("name: ", "name: ../../../elsewhere/"),
        ("runs: runs", "runs: ${oc.env:HOME}\nhydra: {run: {dir: /tmp}}"),
        ("descend:", "../../descend:"),
    ],
)
def test_a_config_constructs_nothing_of_others(
    was: str, now: str, ended: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "stranger.py").write_text("open('executed', 'w')")
    config = ended / ".hydra/config.yaml"
    text = config.read_text()
    assert was in text
    config.write_text(text.replace(was, now, 1))
    (ended / "result.json").unlink()
    before = sorted(path for path in tmp_path.rglob("*") if path.parent != ended)
    assert ensemble_cli([str(ended)]) == 2
    assert resume(str(ended)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("error: ") and "config.yaml" in line for line in lines)
    assert sorted(path for path in tmp_path.rglob("*") if path.parent != ended) == before


@pytest.mark.parametrize("name", ["../../../secret", "/etc/passwd", "a/b", "", "..", "descend\0", 3, None, "x" * 300])
def test_names_do_not_lead_out(name: Any, ended: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A result and a state give a wrong name or file of a checkpoint."""
    shutil.copy(ended / "checkpoints/descend.pt", tmp_path / "secret.pt")
    result = json.loads((ended / "result.json").read_text())
    for wrong in ({"file": f"{name}"}, {"name": name}, {"name": name, "file": f"checkpoints/{name}.pt"}):
        changed = {**result, "checkpoints": [{**result["checkpoints"][0], **wrong}]}
        del changed["checksum"]
        RunDirectory(ended).write_result(changed)
        for tool in (ensemble_cli, landscape_cli):
            assert tool([str(ended)]) == 2
            assert "result.json is damaged" in capsys.readouterr().err
        assert start(*RUN) == 2
        assert "result.json is damaged" in capsys.readouterr().err
    with pytest.raises(StorageError, match="names a checkpoint"):
        RunDirectory(ended).checkpoint(name)


def test_a_sweep_of_a_stranger(
    ended: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its list leads nowhere else. Its shell lines and pickles are executed only if nobody else could write them."""
    sweep = SweepDirectory("runs/sweeps/it")
    sweep.add([Listed(ended.relative_to(tmp_path), (), 2)])
    sweep.write_launcher("local", {"processes": 1, "threads": 1})  # as an older version did
    assert sweep_cli(["retry", "it"]) == 0
    assert sweep.make_jobs().stat().st_mode & 0o777 == 0o700
    for path, mode in ((sweep.path, 0o757), (sweep.path / "launcher.json", 0o646), (sweep.jobs, 0o770)):
        before = path.stat().st_mode
        path.chmod(mode)
        capsys.readouterr()
        assert sweep_cli(["retry", "it"]) == 2
        assert f"error: {path} can be written by others, who could run" in capsys.readouterr().err
        with pytest.raises(SweepError, match="can be written by others"):
            sweep.make_jobs()
        path.chmod(before)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert sweep_cli(["retry", "it"]) == 2
    assert f"error: {sweep.path} belongs to another user" in capsys.readouterr().err


def test_what_a_stranger_names_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A link out of the runs' folder is not followed either."""
    (tmp_path / "home").mkdir()
    (tmp_path / "secret").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    sweep = SweepDirectory("runs/sweeps/it")
    sweep.add([])
    (tmp_path / "home/runs/link").symlink_to(tmp_path / "secret")
    for run in ("../../link", "../../../../secret", str(tmp_path / "secret")):
        (sweep.path / "runs.jsonl").write_text(json.dumps({"run": run, "overrides": [], "epochs": 2}))
        for tool, arguments in ((sweep_cli, ["status", "it"]), (ensemble_cli, [str(sweep.path)])):
            main: Callable[[list[str]], int] = tool
            assert main(arguments) == 2
            assert "runs.jsonl, line 1, can't be read: " in capsys.readouterr().err
    assert not list((tmp_path / "secret").iterdir())

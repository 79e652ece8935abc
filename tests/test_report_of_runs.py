"""The report on real runs: their logs, packed sweeps, and the page and TensorBoard in a browser."""

import csv
import io
import os
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from browser import Page, browser
from conftest import TINY, compose, launched, result
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_report import Folder, data, pictures, table

from distancing.config.checks import check
from distancing.experiment.main import main as train
from distancing.landscape.__main__ import main as landscape
from distancing.report.__main__ import main as cli
from distancing.report.commands import command, tags
from distancing.report.overview import summarise
from distancing.report.pack import KEPT, unpacked
from distancing.report.runs import collect


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a sweep of three runs in a folder of its own. Return that folder."""
    folder, before = tmp_path_factory.mktemp("sweep"), Path.cwd()
    os.chdir(folder)
    try:
        cases = "+hydra.sweeper.cases={hill:{penalty:gaussian,penalty.sigma:0.5,seed:[0,1]},none:{penalty:none,seed:0}}"
        launched(*TINY, cases, task=lambda cfg: float(train(cfg, _overrides())[0]))
    finally:
        os.chdir(before)
    return folder


def _overrides() -> list[str]:
    from hydra.core.hydra_config import HydraConfig

    return list(HydraConfig.get().overrides.task)


@pytest.mark.slow
def test_tags_that_tensorboard_has(sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each metric is declared under a tag of the runs' events with the same value, or not at all."""
    monkeypatch.chdir(sweep)
    (run,) = Path("runs").glob("digits*none*")
    assert landscape([str(run), "--only=barrier", "--set=barrier.points=3"]) == 0
    absent = ["distance", "seconds", "members.test.accuracy", "checkpoints.descend.test.loss"]
    present = ["test.loss", "ensemble.test.nll", "parameter_norm", "train/loss", "barrier.test_height_max"]
    overview = summarise([str(run)], [*present, *absent])
    events, (of_run,) = EventAccumulator(str(run)).Reload(), overview.runs
    assert list(tags(overview)) == present
    for metric, tag in tags(overview).items():
        assert events.Scalars(tag)[-1].value == pytest.approx(overview.numbers[of_run][metric], rel=1e-6)
    (tmp_path / "it.zip").touch()
    assert cli([str(tmp_path / "it.zip"), "--tensorboard", str(tmp_path / "board")]) == 2
    shutil.rmtree(run / "landscape")


@pytest.mark.slow
def test_a_real_sweep(sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(sweep)
    wanted = (
        "ensemble.test.nll",
        "members.test.accuracy",
        "distance",
        "parameter_norm",
        "checkpoints.descend.test.loss",
    )
    rows = table("it", *(part for name in wanted for part in ("--metric", name)), tmp=sweep)
    assert [(row["penalty"], row["finished"]) for row in rows] == [("gaussian", "2"), ("none", "1")]
    (run,) = (path for path in Path("runs").glob("*none*"))
    run_result, last = result(run), list(csv.DictReader(io.StringIO((run / "metrics.csv").read_text())))[-1]
    split = run_result["ensemble"]["splits"]["test"]
    for name, value in zip(wanted, (
        split["ensemble"]["nll"], 100 * np.mean([scores["accuracy"] for scores in split["members"]]),
        run_result["final"]["distances"]["descend"], float(last["parameter_norm"]),
        run_result["checkpoints"][0]["metrics"]["test"]["loss"],
    ), strict=True):  # fmt: skip
        (head,) = (key for key in rows[1] if key.startswith(f"{name} mean"))
        assert float(rows[1][head]) == pytest.approx(value)
    drawn = pictures(summarise(["it"]))
    assert set(drawn) >= {"learning_curves", "distances", "cost", "members_and_ensemble"}
    points = data(drawn["members_and_ensemble"])
    assert points["their ensemble"][1][0] == pytest.approx(100 * split["ensemble"]["accuracy"])

    capsys.readouterr()
    for path in Path("runs").glob("digits*"):
        assert cli([str(path), "--command"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[1] == f"# git checkout {result(path)['git_commit']}"
        python, script, *overrides = shlex.split(lines[2])
        assert (python, script) == ("python", "train.py")
        assert check(compose(*overrides)).hash == result(path)["config_hash"]


@pytest.mark.slow
def test_a_packed_sweep_gives_the_same_report(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(sweep)
    packed, metrics = str(tmp_path / "results/it.zip"), ("--metric", "test.loss", "--metric", "parameter_norm")
    rows = table("it", *metrics, "--pack", packed, tmp=tmp_path)
    pictures_then = {name: data(figure) for name, figure in pictures(summarise(["it"])).items() if name != "cost"}
    with ZipFile(packed) as archive:
        assert {name.partition("/")[2] for name in archive.namelist()} == {*KEPT} - {"error.txt"}  # no weights
    content = Path(packed).read_bytes()
    assert table("it", "--pack", packed, tmp=tmp_path)
    assert Path(packed).read_bytes() == content
    monkeypatch.chdir(tmp_path)
    assert table(packed, *metrics, "--html", "it.html", tmp=tmp_path) == rows
    assert f"# {packed}/digits-" in (tmp_path / "it.html").read_text()
    part, copy = str(tmp_path / "part.zip"), shutil.copy(packed, tmp_path / "copy.zip")
    assert table(packed, str(copy), "--where", "seed=0", "--pack", part, tmp=tmp_path)  # every run is in both sources
    with ZipFile(packed) as archive, ZipFile(part) as selection:
        assert selection.namelist() == [name for name in archive.namelist() if "-seed0-" in name]
    with unpacked([packed]) as sources:
        assert {name: data(figure) for name, figure in pictures(summarise(sources)).items() if name in pictures_then} \
            == pictures_then  # fmt: skip
    assert not Path(sources[packed]).exists()

    with ZipFile(tmp_path / "hostile.zip", "w") as archive:
        for name in ("../result.json", "/result.json", "a/../../../result.json", "..//result.json", "a/state.pt"):
            archive.writestr(name, "{}")
    with unpacked([str(tmp_path / "hostile.zip")]) as sources:
        folder = Path(*sources.values())
        assert [str(path.relative_to(folder)) for path in folder.rglob("*")] == ["result.json"]
        assert not (folder / "../result.json").exists()
    (tmp_path / "broken.zip").write_bytes(content[:1000])
    for name, why in (("broken.zip", "can't be read as a packed sweep"), ("gone.zip", "No such file")):
        assert cli([name]) == 2
        err = capsys.readouterr().err
        assert f"error: {name} can't be read as a packed sweep (" in err
        assert why in err
        assert err.count("\n") == 1


def test_the_command_leaves_out_the_sweep(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "runs")
    folder.add("run", "seed=0", "+sweep=it", "hydra.verbose=1", "+phases.settle.checkpoint=true", accuracy=0.5)
    (run,) = collect([str(folder.path / "run")])[0]
    assert command(run) == "python train.py seed=0 +phases.settle.checkpoint=true"


@pytest.mark.slow
@pytest.mark.skipif(not browser(), reason="needs a Chromium")
def test_tensorboard_in_a_browser(sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A browser shows the scalars, custom scalars and hyperparameters of a finished sweep."""
    monkeypatch.chdir(sweep)
    assert cli(["it", "--tensorboard", str(tmp_path / "links")]) == 0
    assert cli(["it", "--tensorboard", str(tmp_path / "links")]) == 0  # replaces the links
    names = [
        "penalty=gaussian,seed=0",
        "penalty=gaussian,seed=1",
        "penalty=none,seed=0",
    ]
    assert sorted(path.name for path in (tmp_path / "links").iterdir() if path.is_symlink()) == names
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    board = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", "--logdir", tmp_path / "links", "--port", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        with Page(tmp_path / "profile") as window:
            wanted = ["distance /descend", "ensemble", "final", *names]  # tags are shown in two parts
            for _ in range(12):  # until TensorBoard has started and has read the runs
                window.open(f"http://localhost:{port}/#timeseries")
                shown = window.text(*wanted, seconds=5)
                if all(words in shown for words in wanted):
                    break
            assert [words for words in wanted if words not in shown] == []
            window.open("about:blank")
            window.open(f"http://localhost:{port}/#custom_scalars")
            wanted = ["its parts in training", "to the checkpoints", "heights", "gradients"]
            shown = window.text(*wanted)
            assert [words for words in wanted if words not in shown] == []
            window.open("about:blank")
            window.open(f"http://localhost:{port}/#hparams")
            accuracy = [result(path)["metrics"]["test"]["accuracy"] for path in Path("runs").glob("digits*")]
            wanted = ["Trial ID", "gaussian", "none", "test.accuracy", *(f"{a:#.5g}" for a in accuracy)]
            shown = window.text(*wanted)
            assert [words for words in wanted if words not in shown] == []
            assert "Number of matching session groups: 3" in shown  # and no group that TensorBoard added
    finally:
        board.terminate()
        board.wait()
    (tmp_path / "links/mine.txt").write_text("kept")
    assert cli(["it", "--tensorboard", str(tmp_path / "links")]) == 2
    assert len(list((tmp_path / "links").iterdir())) == 5


@pytest.mark.slow
@pytest.mark.skipif(not browser(), reason="needs a Chromium")
def test_the_page_in_a_browser(sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sweep)
    assert cli(["it", "--html", str(tmp_path / "it.html")]) == 0
    with Page(tmp_path / "profile") as window:
        window.open(f"file://{tmp_path}/it.html")
        assert "3 runs in 2 groups: 3 finished" in window.text("3 runs in 2 groups")
        widths = window.evaluate("[...document.images].map(image => image.naturalWidth)")
        assert len(widths) >= 4
        assert min(widths) > 500
        assert window.evaluate("document.querySelector('a[href=\"#runs\"]') !== null")

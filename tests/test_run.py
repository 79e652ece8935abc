"""Whole runs on real digits: their files, and the same command once more."""

import csv
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, TINY, compose, only_run, result, start
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distancing.config.checks import check
from distancing.errors import StorageError
from distancing.landscape.__main__ import main as landscape
from distancing.runs import RunDirectory
from distancing.runs.metrics_file import Row
from distancing.runs.result import read_result
from distancing.runs.tracking import ProgressBar
from distancing.sweep.job import resume

Runs = Callable[..., int]
BARE = """import json, sys, torch
print(json.dumps({name: list(value.shape) for name, value in torch.load(sys.argv[1])["network"].items()}))"""


def test_what_a_run_leaves_behind(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runs(*TINY, "epochs=9") == 0
    run, output = only_run(tmp_path), capsys.readouterr().out
    run_result = result(run)
    assert {"status": "finished", "seed": 0, "epochs": 9, "diverged": None}.items() <= run_result.items()
    assert run.name == f"{run_result['name']}-{run_result['config_hash']}"
    assert run_result["seconds"] > 0 < run_result["images_per_second"]
    assert run_result["versions"]["torch"] == torch.__version__
    assert set(run_result["metrics"]) == {"train", "validation", "test"}
    assert [c["name"] for c in run_result["checkpoints"]] == ["descend", "settle-1", "settle-2", "settle-3"]
    for name in ("descend", "settle-1", "settle-2", "settle-3", "final", str(run), f"tensorboard --logdir {run}"):
        assert name in output

    # distances and metrics follow from the stored networks alone, read without the code that wrote them
    config = check(compose(*TINY, "epochs=9"))
    network = config.model.build((1, 8, 8), 10)
    names = [name for name, _ in network.named_parameters()]
    data = config.dataset.load(torch.device("cpu"))
    stored = {
        c["name"]: torch.load(run / c["file"], weights_only=True)
        for c in [*run_result["checkpoints"], run_result["final"]]
    }
    for a in [*run_result["checkpoints"], run_result["final"]]:
        for b, distance in a["distances"].items():
            squares = [
                (stored[a["name"]]["network"][n].double() - stored[b]["network"][n]).square().sum() for n in names
            ]
            assert distance == pytest.approx(torch.stack(squares).sum().sqrt().item(), rel=1e-5)
        network.load_state_dict(stored[a["name"]]["network"])
        with torch.no_grad():
            logits = network.eval()(data.normalise(data.test.images))
        correct = (logits.argmax(1) == data.test.labels).double().mean().item()
        assert a["metrics"]["test"]["accuracy"] == pytest.approx(correct)
        loss = torch.nn.functional.cross_entropy(logits, data.test.labels).item()
        assert a["metrics"]["test"]["loss"] == pytest.approx(loss, rel=1e-4)
    assert run_result["metrics"] == run_result["final"]["metrics"]
    bare = subprocess.run([sys.executable, "-c", BARE, run / "checkpoints/final.pt"], capture_output=True, cwd="/")
    assert json.loads(bare.stdout) == {k: list(v.shape) for k, v in network.state_dict().items()}

    # TensorBoard has the numbers of metrics.csv and result.json
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert [int(row["epoch"]) for row in rows] == list(range(1, 10))
    events = EventAccumulator(str(run), {"scalars": 0}).Reload()
    for column in set(rows[0]) - {"epoch", "phase"}:
        logged = {event.step: event.value for event in events.Scalars(column)}
        assert logged == {int(r["epoch"]): pytest.approx(float(r[column]), rel=1e-6) for r in rows if r[column]}
    for split, scores in run_result["metrics"].items():
        for name, value in scores.items():
            (event,) = events.Scalars(f"final/{split}/{name}")
            assert event.value == pytest.approx(value, rel=1e-6)
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/reference/files.md").read_text(), re.DOTALL)
    found: dict[str, Any] = {}
    exec(program.replace("runs/NAME-HASH", str(run)), found)
    assert float(found["accuracy"]) == pytest.approx(run_result["metrics"]["test"]["accuracy"])
    assert OmegaConf.load(run / ".hydra/config.yaml") == compose(*TINY, "epochs=9", f"runs={tmp_path}")
    assert "epochs=9" in OmegaConf.load(run / ".hydra/overrides.yaml")


@pytest.mark.slow
def test_the_same_command_again(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runs(*TINY) == 0
    first = result(only_run(tmp_path))
    table = capsys.readouterr().out.split("finished")[1]
    monkeypatch.setattr("distancing.training.setup.Trainer", None)  # nothing is built
    assert runs(*TINY) == 0
    output = capsys.readouterr().out
    assert "already ended; overwrite=true starts over" in output
    assert output.endswith(table)
    assert "has changed since" not in output
    changed = {"source": "other", "git_commit": "newer", "versions": {"torch": "3.0"}}
    monkeypatch.setattr("distancing.experiment.train_run.provenance", lambda _: changed)
    assert runs(*TINY) == 0
    output = capsys.readouterr().out
    assert f"the source code has changed since: {first['source']} then, other now" in output
    assert f"the commit has changed since: {first['git_commit']} then, newer now" in output
    assert f"PyTorch has changed since: {first['versions']['torch']} then, 3.0 now" in output
    monkeypatch.undo()

    assert runs(*TINY, "overwrite=true") == 0
    again = result(only_run(tmp_path))
    assert again["seconds"] != first["seconds"]
    for name in ("metrics", "checkpoints", "final"):
        assert again[name] == first[name]  # bit for bit


@pytest.mark.slow
def test_a_run_of_an_earlier_version(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run from before analyses and verification is shown, analysed and trained as any other."""
    assert runs(*TINY) == 0
    run, table = only_run(tmp_path), capsys.readouterr().out.split("finished")[1]
    config, ended = OmegaConf.load(run / ".hydra/config.yaml"), result(run)
    for unknown in ("analysis", "threads", "verify"):
        del config[unknown]
    for unknown in ("analysis", "threads", "verified", "checksum"):
        del ended[unknown]
    ended["field_of_a_newer_version"] = 1
    OmegaConf.save(config, run / ".hydra/config.yaml")
    RunDirectory(run).write_result(ended)
    assert {*result(run)} == {*ended, "checksum"}

    assert resume(str(run)) == 0
    output = capsys.readouterr().out
    assert "already ended" in output
    assert output.endswith(table)
    assert landscape([str(run), "--only", "barrier", "--set", "barrier.points=3"]) == 0
    assert result(run)["analysis"]["barrier"]
    assert result(run)["field_of_a_newer_version"] == 1
    (run / "result.json").unlink()
    assert resume(str(run)) == 0
    assert result(run)["final"] == ended["final"]


def test_a_result_without_its_fields_is_damaged(tmp_path: Path) -> None:
    for content, reason in (({"status": "finished"}, "name: Field required"), ({"status": 3}, "status: Input should")):
        RunDirectory(tmp_path).write_result(content)
        with pytest.raises(StorageError, match=rf"result.json is damaged \({reason}"):
            read_result(RunDirectory(tmp_path))


@pytest.mark.slow
def test_a_run_in_use_is_refused(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = check(compose(*TINY, f"runs={tmp_path}"))
    with RunDirectory(config.directory):
        assert runs(*TINY) == runs(*TINY, "overwrite=true") == 2
    assert capsys.readouterr().err.count(f"error: {config.directory} is in use: another process") == 2
    assert [file.name for file in Path(config.directory).iterdir()] == [".lock"]


def test_batches_of_one_image_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If the network has batch norms that see one pixel; the last feature maps of a ResNet-18 are that small here."""
    one = [*TINY, "batch_size=1", "phases=single", f"runs={tmp_path}"]
    assert start(*one, "model=resnet18") == 2
    assert capsys.readouterr().err.startswith("error: batch_size=1: batch norm can't normalise the single value that a")
    assert start(*one, "model=mlp", "epochs=1", "evaluate_every=1") == 0


def test_a_loss_that_is_not_reached(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    losses = ["phases.descend.until_loss=0.001", "phases.escape.until_loss=99"]
    for _ in range(2):  # also when the run has ended already
        assert runs(*TINY, "phases=distancing", "epochs=4", *losses) == 0
        (note,) = (line for line in capsys.readouterr().out.splitlines() if "until_loss" in line)
    _, last, _ = csv.DictReader((only_run(tmp_path) / "metrics.csv").read_text().splitlines())
    end = f"after 2 epochs at a training cross entropy of {float(last['train/cross_entropy']):.4g}"
    assert note == f"note: descend ended {end}, above its until_loss=0.001"
    assert result(only_run(tmp_path))["notes"] == [note.removeprefix("note: ")]


def test_divergence(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The loss explodes after some epochs: the result says where, and the state from before is kept."""
    blow_up = ["phases=distancing", "epochs=20", "save_every=1", "penalty.strength=1e30", "penalty.sigma=10",
               "penalty.sigma_unit=absolute", "phases.descend.epochs=4"]  # fmt: skip
    assert runs(*TINY, *blow_up) == 3
    run = only_run(tmp_path)
    run_result, output = result(run), capsys.readouterr().out
    assert run_result["status"] == "diverged"
    assert run_result["diverged"]["phase"] == "escape"
    assert run_result["metrics"] is None
    assert run_result["diverged"]["epoch"] == run_result["epochs"] + 1
    assert f"phase escape, epoch {run_result['diverged']['epoch']}, step {run_result['diverged']['step']};" in output
    newest = max((run / "state").iterdir())
    assert newest.name == f"{run_result['epochs']:06d}-000000.pt"
    state = torch.load(newest, weights_only=True)
    assert all(value.isfinite().all() for value in state["network"].values())
    assert [c["name"] for c in run_result["checkpoints"]] == ["descend"]
    assert runs(*TINY, *blow_up) == 3  # the same again, without training


def test_a_last_step_into_nowhere(runs: Runs, tmp_path: Path) -> None:
    """The loss of the only step is finite; the parameters after it are not."""
    assert runs(*TINY, "phases=single", "epochs=1", "batch_size=100", "optimizer.lr=1e38", "optimizer.l2=100") == 3
    assert result(only_run(tmp_path))["diverged"] == {"phase": "train", "epoch": 1, "step": 1}
    assert runs(*TINY, "phases=single", "epochs=1", "batch_size=100", "optimizer.lr=1e30", "name=finite") == 3
    assert result(next(tmp_path.glob("finite-*")))["diverged"]["epoch"] == 1  # they are, but what they compute is not


@pytest.mark.slow
def test_a_full_disk(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No file may grow past 20 kB: one line names it, no file is torn, and with more room the run ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        assert runs(*TINY, "model.width=8") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (line,) = capsys.readouterr().err.splitlines()
    assert "File too large: " in line
    assert str(only_run(tmp_path) / "state") in line
    assert not list(only_run(tmp_path).rglob("*.pt")) + list(only_run(tmp_path).rglob("*.tmp"))
    assert runs(*TINY, "model.width=8") == 0


def test_what_is_said_about_a_saved_state(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failed write ends a run: at its start, within it, and after its result."""

    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    kept = "; the saved state is kept: run the same command to resume"
    for write, hint in (("save_state", ""), ("write_result", kept), ("drop_states", "")):
        with monkeypatch.context() as patch:
            patch.setattr(RunDirectory, write, fail)
            assert runs(*TINY, "phases=single", "epochs=1") == 2
        assert capsys.readouterr().err == f"error: the disk is full{hint}\n"


def test_a_directory_that_is_moved_or_deleted(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run stops at the end of the epoch, or at a failed write during or after it, and makes no new directory."""
    run = [*TINY, "phases=single", "epochs=9", "save_every=3", "name=it"]

    def move(_: ProgressBar, row: Row) -> None:
        if row["epoch"] == 4:
            only_run(tmp_path).rename(tmp_path / "moved")

    def delete(*_: object) -> None:
        path = next(tmp_path.glob("it-*"))
        shutil.rmtree(path.rename(tmp_path / "deleted"))  # at once, because TensorBoard's thread makes files in it
        raise FileNotFoundError("the file of TensorBoard")

    module = "distancing.experiment.train_run"
    for place, take_away in (("ProgressBar.epoch", move), ("Metrics.flush", delete), ("judge_run", delete)):
        with monkeypatch.context() as patch:
            patch.setattr(f"{module}.{place}", take_away)
            assert runs(*run) == 2
        (line,) = capsys.readouterr().err.splitlines()
        path, reason = line.removeprefix("error: ").split(" ", 1)
        assert reason.startswith("was moved or deleted while the run trained: move it back to resume the run, or run")
        assert not Path(path).exists()
    (tmp_path / "moved").rename(path)
    assert runs(*run) == 0
    assert "resumes after epoch 3" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("override", ["speed=plain", "speed=fast", "evaluate_every=3"])
def test_the_fast_paths_learn_the_same(
    override: str, runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["epochs=12", "model.width=4", "phases=single", "dataset.train_images=512", "batch_size=64"]
    assert runs(*small, "name=plain") == runs(*small, override, "name=other") == 0
    assert ("s: the network was compiled" in capsys.readouterr().out) == (override == "speed=fast")
    plain, other = (result(next(tmp_path.glob(f"{name}-*"))) for name in ("plain", "other"))
    assert plain["metrics"]["train"]["accuracy"] > 0.9
    assert abs(plain["metrics"]["train"]["accuracy"] - other["metrics"]["train"]["accuracy"]) < 0.05
    rows = [list(csv.DictReader((next(tmp_path.glob(f"{n}-*")) / "metrics.csv").open())) for n in ("plain", "other")]
    if override == "evaluate_every=3":
        assert [bool(row["test/loss"]) for row in rows[1]] == [epoch % 3 == 0 for epoch in range(1, 13)]
        assert plain["metrics"] == other["metrics"]


@pytest.mark.slow
def test_real_images(real_data: Path, runs: Runs, tmp_path: Path) -> None:
    """Train on a thousand images of MNIST and CIFAR-10 in a folder that is read-only."""
    for dataset in ("mnist", "cifar10"):
        assert runs(*TINY, f"dataset={dataset}", f"dataset.root={real_data}", "dataset.download=false",
                    "dataset.train_images=1000", "dataset.augment=false", "model.width=4", f"name={dataset}",
                    "evaluate_every=8", "phases=distancing") == 0  # fmt: skip
        run_result = result(next(tmp_path.glob(f"{dataset}-*")))
        assert run_result["metrics"]["test"]["accuracy"] > {"mnist": 0.5, "cifar10": 0.15}[dataset]


@pytest.mark.slow
def test_a_sweep_goes_on_after_a_failed_run(tmp_path: Path) -> None:
    """With `-m`, every run has its own directory and the numbers of a run by itself, in one process."""
    sweep = [*TINY, "epochs=8", "seed=0,1", "optimizer.lr=1e30,0.1"]
    command = [sys.executable, str(ROOT / "train.py"), "-m", *sweep]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 3, ran.stderr
    results = [result(run) for run in (tmp_path / "runs").glob("digits-*")]
    assert sorted((f["seed"], f["status"]) for f in results) == [
        (0, "diverged"), (0, "finished"), (1, "diverged"), (1, "finished"),
    ]  # fmt: skip
    alone = subprocess.run([sys.executable, ROOT / "train.py", *TINY, "epochs=8", "seed=1", "runs=alone"], cwd=tmp_path)
    assert alone.returncode == 0
    in_sweep = next(f for f in results if f["seed"] == 1 and f["status"] == "finished")
    assert result(only_run(tmp_path / "alone"))["final"] == in_sweep["final"]
    assert start(*TINY, "epochs=8", "seed=0", f"runs={tmp_path}/runs") == 0  # already there


def test_nothing_is_imported_that_a_run_does_not_need() -> None:
    """Plotting and statistics libraries are imported when they are needed."""
    code = "import sys, distancing.experiment.main; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "torch" in loaded
    assert {"matplotlib", "scipy", "sklearn", "torchvision.datasets", "tensorboard", "submitit"} & {*loaded} == set()


MODULES = """
import atexit, runpy, sys
from distancing.runs.tracking import Metrics, ProgressBar
ProgressBar.step = lambda *_: sys.exit()
atexit.register(lambda: print(*sys.modules))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def imported(*arguments: str) -> set[str]:
    """Return the modules that `train.py ARGUMENTS` imports until it ends, or until its first step."""
    command = [sys.executable, "-c", MODULES, str(ROOT / "train.py"), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}  # threads=auto takes one of them for so small a network
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return {*ran.stdout.splitlines()[-1].split()}


def test_what_is_imported_before_the_first_step(tmp_path: Path) -> None:
    """Some libraries take longer to import than an epoch takes. `--help` needs no torch."""
    modules = imported(*TINY, "epochs=8", f"runs={tmp_path}")
    heavy = {"matplotlib", "scipy", "sklearn", "submitit", "sympy", "torch._dynamo", "torch._inductor", "torchvision"}
    assert "torch" in modules
    assert modules & heavy == set()
    assert len(modules) < 2000  # torch alone has 1,200
    assert "torch" not in imported("--help")

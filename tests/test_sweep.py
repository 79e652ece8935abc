"""Sweeps without a cluster: which runs there are, all checked first, started once each, looked after."""

import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
from conftest import ROOT, TINY, compose, launched, multirun, result
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict

from distancing.component import trust
from distancing.config.checks import check, construct
from distancing.errors import NOT_THE_SAME, ConfigError, SweepError
from distancing.experiment.main import main
from distancing.process.identity import started
from distancing.runs import Listed, RunDirectory, SweepDirectory
from distancing.sweep import __main__ as sweep_main
from distancing.sweep.__main__ import main as cli
from distancing.sweep.cost import Devices, estimate
from distancing.sweep.freeze import Composer, freeze
from distancing.sweep.grid import Grid
from distancing.sweep.job import REQUEUE, STARTS, Job, note, resume
from distancing.sweep.launch import LAUNCHERS
from distancing.sweep.local import Local, _devices
from distancing.sweep.server import Server
from distancing.sweep.slurm import _query
from distancing.sweep.status import TAIL, status
from distancing.training import provenance

SWEEPS = sorted(path.stem for path in (ROOT / "conf/sweep").glob("*.yaml") if path.stem != "optimise")
SMALL = {"schedulers", "thesis"}  # these compose in a few seconds
Sweep = Callable[..., SweepDirectory]


def loader() -> ConfigLoader:
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return GlobalHydra.instance().config_loader()


def expand(grid: dict[str, Any], *typed: str) -> list[list[str]]:
    empty: dict[str, Any] = {"params": {}, "cases": {}, "exclude": {}}
    return Grid(**(empty | grid)).expand(typed, OverridesParser.create(config_loader=loader()).parse_overrides)


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """Sweep in tmp_path."""
    monkeypatch.chdir(tmp_path)
    return multirun


# which runs


def test_products_cases_and_exclusions() -> None:
    grid = {
        "params": {"seed": [0, 1], "penalty.sigma": 9},
        "cases": {"hill": {"penalty.sigma": "1,2", "penalty.strength": [3, 4]}, "control": {"penalty": "none"}},
        "exclude": {"too much": {"penalty.sigma": 2, "penalty.strength": [4, 5]}},
    }
    runs = expand(grid)
    assert runs == [
        *([f"seed={seed}", f"penalty.sigma={sigma}", f"penalty.strength={s}"]
          for seed in (0, 1) for sigma, s in ((1, 3), (1, 4), (2, 3))),
        *([f"seed={seed}", "penalty.sigma=9", "penalty=none"] for seed in (0, 1)),
    ]  # fmt: skip
    # what is typed replaces a value wherever it is named, and is for all runs where it is not
    typed = expand(grid, "penalty.strength=7", "seed=range(3)", "epochs=5")
    assert len(typed) == 3 * (2 + 1)
    assert all("epochs=5" in run for run in typed)
    assert {o for run in typed for o in run if o.startswith("penalty.strength")} == {"penalty.strength=7"}
    assert sum("penalty=none" in run for run in typed) == 3
    assert expand({}) == [[]]
    assert expand({"cases": {"a": {"seed": 1}, "b": {"seed": "1,2"}}}) == [["seed=1"], ["seed=2"]]  # each once
    quoted = {"params": {"name": ["'a b'", "'c d'"], "seed": [0, 1]}, "exclude": {"x": {"name": "'a b'", "seed": 1}}}
    assert len(expand(quoted)) == 3


@pytest.mark.parametrize(
    ("grid", "typed", "said"),
    [
        ({"exclude": {"x": {"sead": 1}}}, "seed=1,2", "hydra.sweeper.exclude.x: sead is not a setting of this sweep"),
        ({"exclude": {"x": {"seed": [1, 2]}}}, "seed=1,2", "leaves no run"),
        ({}, "optimizer.lr=interval(0,1)", "only an optimising sweeper can choose from an interval"),
    ],
)
def test_grids_that_make_no_sense(grid: dict[str, Any], typed: str, said: str) -> None:
    with pytest.raises(SweepError, match=said.replace("(", r"\(")):
        expand(grid, typed)


def test_no_run_inherits_from_another() -> None:
    """A value that is merged into a config must not reach the next run's, which may share a copy with it."""
    load = loader()
    composer = Composer(load, load.load_configuration("config", [], run_mode=RunMode.MULTIRUN))
    for values, rank in (("{rank:7}", 7), ("{samples:3}", 20), ("{rank:9}", 9)):
        assert composer.compose(["phases=swag", f"phases.swag={values}"]).phases.swag.rank == rank
    for epochs in (3, 9):
        assert composer.compose(["phases=swag", f"epochs={epochs}"]).epochs == epochs


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in SMALL else pytest.mark.slow) for name in SWEEPS]
)
def test_every_sweep_composes_as_hydra_does(name: str) -> None:
    """All its runs are accepted, and named by the very configs that Hydra makes of their overrides."""
    load = loader()
    master = load.load_configuration("config", [f"+sweep={name}"], run_mode=RunMode.MULTIRUN)
    assert master.hydra.mode == RunMode.MULTIRUN  # -m may be forgotten
    settings = OmegaConf.to_container(master.hydra.sweeper)
    assert isinstance(settings, dict)
    jobs = expand({str(k): v for k, v in settings.items() if k != "_target_"}, f"+sweep={name}")
    runs = freeze(load, master, jobs)
    assert len(runs) == len(jobs) == len({run.directory for run in runs}) > 1
    for run in runs[:: max(1, len(runs) // 3)]:
        cfg = load.load_sweep_config(master, list(run.overrides))
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            del cfg["hydra"]
        assert OmegaConf.to_yaml(cfg, resolve=True) == run.texts[0]
        assert check(OmegaConf.create(run.texts[0])).directory == str(run.directory)  # type: ignore[arg-type]  # a dict


def test_each_job_has_its_run(capsys: pytest.CaptureFixture[str]) -> None:
    """Optuna's sweeper needs this, also if two are equal. A line names the setting that makes no run of its own."""
    load = loader()
    master = load.load_configuration("config", [], run_mode=RunMode.MULTIRUN)
    jobs = ["penalty=gaussian", "penalty=none", "penalty=gaussian", "penalty=none threads=1", "penalty=laplace"]
    runs = freeze(load, master, [job.split() for job in jobs])
    assert runs[0] is runs[2] is not runs[1] is runs[3]
    assert [run.config.penalty is None for run in runs] == [False, True, False, True, False]
    assert capsys.readouterr().out == (
        "threads makes no run of its own: runs that differ in it alone are one, with the first value\n"
    )


def test_the_list_of_a_sweep_behind_a_symlink(tmp_path: Path) -> None:
    """Its paths count from where the folder really is, so that it can be copied."""
    (tmp_path / "far/away/runs/y").mkdir(parents=True)
    (tmp_path / "runs").symlink_to(tmp_path / "far/away/runs")
    made = SweepDirectory(tmp_path / "runs/sweeps/it")
    made.path.mkdir(parents=True)
    made.add([Listed(tmp_path / "runs/y", (), 3)])
    assert json.loads((made.path / "runs.jsonl").read_text())["run"] == "../../y"
    for path in (made.path, tmp_path / "far/away/runs/sweeps/it"):
        assert [run.path.resolve() for run in SweepDirectory(path).runs()] == [tmp_path / "far/away/runs/y"]


# all checked first


@pytest.mark.parametrize("launcher", ["basic", "local"])
def test_one_bad_value_among_many_starts_nothing(launcher: str, sweep: Sweep, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        sweep(*TINY, "seed=range(30)", "penalty.sigma=0.1,0.3,0", f"hydra/launcher={launcher}")
    assert "penalty.sigma=0: input should be greater than 0; in the run experiment=smoke" in str(error.value)
    assert not list(tmp_path.rglob("*.*"))
    with pytest.raises(ConfigError, match="sigmaa"):
        sweep(*TINY, "penalty.sigmaa=1,2", f"hydra/launcher={launcher}")


COMMAND_LINES = {
    "+sweep=strength_sigmaa": "sweep=strength_sigmaa is not a choice; the choices are checkpoints, eight",
    "-m seed=0,1 hydra/launcher=local hydra.launcher.processes=0": "hydra.launcher.processes=0: input should be",
    "-m seed=0,1 hydra/launcher=slurm hydra.launcher.mem_gb=lots": "hydra.launcher.mem_gb='lots': input should",
    "-m seed=0,1 hydra/launcher=slurm hydra.launcher.runs_in_a_row=0": "hydra.launcher.runs_in_a_row=0: input should",
    "-m seed=0,1 hydra/launcher=slurm": "hydra/launcher=slurm needs the command sbatch, which",
    "-m seed=0,1 hydra/launcher=local dataset=mnist dataset.root=/nowhere dataset.download=false": "can't read MNIST",
    "-m seed=0,1 hydra/launcher=local evaluate.ood=[mnist]": "evaluate.ood=mnist has images of 1×28×28",
    "-m seed=0,1 runs=/elsewhere hydra.sweep.dir=sweeps/it": "can't name runs in /elsewhere: take /elsewhere/sweeps/it",
    "-m seed=0,1 runs=/elsewhere hydra.sweep.dir=sweeps/it hydra/launcher=local": "hydra.sweep.dir=sweeps/it: the list",
    "-m +hydra.sweeper.exclude.x.sead=1 seed=0,1": "hydra.sweeper.exclude.x: sead is not a setting of this sweep",
}


@pytest.mark.parametrize("arguments", COMMAND_LINES)
def test_what_is_wrong_is_said_in_one_line(
    arguments: str, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    assert COMMAND_LINES[arguments] in refused(*arguments.split())


# started once each


@pytest.mark.slow
def test_a_local_sweep_is_its_runs(sweep: Sweep, runs: Callable[..., int], tmp_path: Path,
                                   capfd: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    """Each run as by itself, bit for bit; once more only what is new; a failure is told, and what it was."""
    started = [*TINY, "epochs=8", "hydra/launcher=local", "seed=0,1"]
    listed = sweep(*started).runs()
    assert "2 runs, 2 to start" in capfd.readouterr().out
    assert runs(*TINY, "epochs=8", "seed=1", "name=alone") == 0
    alone = result(next(tmp_path.glob("alone-*")))
    assert result(listed[1].path)["final"] == alone["final"]
    assert (listed[1].path / ".hydra/overrides.yaml").read_text().endswith("- seed=1\n")

    before = (listed[0].path / "result.json").stat().st_mtime_ns
    made = sweep(*started, "optimizer.lr=0.1,1e30")
    assert "4 runs, 2 to start, 2 already finished" in capfd.readouterr().out
    assert (listed[0].path / "result.json").stat().st_mtime_ns == before
    assert cli(["status", "it", "--watch"]) == 0  # until all have ended
    said = capfd.readouterr().out
    assert "4 runs: 2 finished, 2 diverged" in said
    assert f"{result(listed[1].path)['metrics']['test']['accuracy']:.2%}" in said
    assert len(made.runs()) == 4

    sweep(*started[:-1], "seed=0", "overwrite=true")
    assert "1 runs, 1 to start" in capfd.readouterr().out
    assert (listed[0].path / "result.json").stat().st_mtime_ns != before
    assert "overwrite: false" in (listed[0].path / ".hydra/config.yaml").read_text()
    assert cli(["logs", str(listed[0].path)]) == cli(["logs", listed[0].path.name[-8:]]) == 0
    assert capfd.readouterr().out.count("run directory") >= 2


@pytest.mark.slow
def test_failed_runs_are_told_and_retried(sweep: Sweep, capfd: pytest.CaptureFixture[str]) -> None:
    """A run that can't write its checkpoints fails, the other one doesn't; retry, and both have ended."""
    started = [*TINY, "epochs=8", "hydra/launcher=local", "seed=0,1"]
    made = sweep(*started)
    good, bad = (run.path for run in made.runs())
    shutil.rmtree(bad / "checkpoints")
    (bad / "checkpoints").write_text("in the way")
    (bad / "result.json").unlink()
    with pytest.raises(SweepError, match=f"{bad} has not ended"):
        sweep(*started)
    assert "2 runs, 1 to start, 1 already finished" in capfd.readouterr().out
    assert cli(["status", "it"]) == 0
    said = capfd.readouterr().out
    assert "1 finished, 1 failed" in said
    assert "checkpoints" in said
    (bad / "checkpoints").unlink()
    assert cli(["retry", "runs/sweeps/it"]) == 0
    assert "1 to start" in capfd.readouterr().out
    assert result(bad)["status"] == result(good)["status"] == "finished"
    assert not (bad / "error.txt").exists()


@pytest.mark.slow
def test_finished_runs_are_completed(
    sweep: Sweep, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A launcher adds what a finished run lacks, once. It names what failed, and the other analyses are kept."""
    started = [*TINY, "epochs=8", "hydra/launcher=local", "seed=0,1"]
    sweep(*started)
    barrier = ["analysis=[barrier]", "analysis.barrier.points=3"]
    images, labels = np.zeros((20, 8, 8), np.uint8), np.arange(20) % 10
    np.savez("other.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    sweep(*started, "evaluate.ood=[other.npz]")
    assert "2 runs, 0 to start, 2 to complete" in capfd.readouterr().out
    listed = sweep(*started, *barrier, "verify=true").runs()
    assert "2 runs, 0 to start, 2 to complete" in capfd.readouterr().out
    assert all(result(run.path)["ensemble"]["ood"]["other.npz"]["images"] == 20 for run in listed)
    for run in listed:
        assert result(run.path)["verified"] is True
        assert set(result(run.path)["analysis"]) == {"barrier"}
    sweep(*started, *barrier, "verify=true")
    assert "2 runs, 0 to start, 2 already finished" in capfd.readouterr().out

    fails = ["seed=0", "analysis=[valley,barrier,sharpness]", "analysis.valley.lr=1e30", "analysis.barrier.points=5"]
    with pytest.raises(SweepError, match=r"has finished, but valley.lr=1e\+30: training the curve diverged"):
        sweep(*started[:-1], *fails)
    assert set(result(listed[0].path)["analysis"]) == {"barrier", "sharpness"}
    assert len((listed[0].path / "landscape/barrier.csv").read_text().splitlines()) == 1 + 3 * 2 * 5
    assert cli(["status", "it"]) == 0
    assert "but valley.lr=1e+30: training the curve diverged" in capfd.readouterr().out
    assert cli(["retry", "it"]) == 0
    assert "1/1" in capfd.readouterr().out

    directory = RunDirectory(listed[1].path)
    directory.write_result({**(directory.read_result() or {}), "verified": None})
    monkeypatch.setattr("distancing.experiment.main.difference", lambda *_: "checkpoint descend")
    assert resume(str(listed[1].path)) == NOT_THE_SAME
    assert cli(["status", "it"]) == 0
    assert "but its second training differed from the first" in capfd.readouterr().out


@pytest.mark.slow
def test_a_copy_of_the_code_runs(sweep: Sweep, tmp_path: Path) -> None:
    """…even where the current folder is a checkout, which `python -m` looks into first."""
    (tmp_path / "distancing").mkdir()
    (tmp_path / "distancing/__init__.py").write_text("raise SystemExit(9)")
    made = sweep(*TINY, "epochs=8", "hydra/launcher=local", "hydra.launcher.snapshot=true", "seed=0,1")
    (copy,) = made.code.iterdir()
    assert copy.name == provenance.source()
    found = result(made.runs()[0].path)
    assert (found["source"], found["git_commit"]) == (provenance.source(), provenance.git_commit())
    # what is edited there is what a job would run
    (copy / "distancing/sweep/job.py").write_text("raise SystemExit(7)")
    with pytest.raises(SweepError, match="the process that starts the runs ended with exit code 7"):
        sweep(*TINY, "epochs=8", "hydra/launcher=local", "hydra.launcher.snapshot=true", "seed=2,3")


SERVED = """
import os, signal, sys, torch
from distancing.sweep.forks import import_everything
import_everything()
assert not torch.cuda.is_initialized()
if not (child := os.fork()):
    signal.alarm(60)
    torch.set_num_threads(2)
    torch.ones(999, 999) @ torch.ones(999, 999)
    sys.exit(torch.get_num_threads() != 2)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.slow
def test_a_server_computes_nothing_before_its_forks() -> None:
    """Otherwise its threads or its context on a GPU would be missing in the runs."""
    assert subprocess.run([sys.executable, "-c", SERVED], env={**os.environ, "OMP_NUM_THREADS": "2"}).returncode == 0


@pytest.mark.slow
def test_a_server_that_is_killed(tmp_path: Path) -> None:
    """It is stopped first, so that it leaves a message unread, which resets the connection."""
    with Server(os.environ) as server:
        assert server.ready(300)
        os.kill(server._process.pid, signal.SIGSTOP)
        server.start(tmp_path, tmp_path / "log", {})
        os.kill(server._process.pid, signal.SIGKILL)
        with pytest.raises(SweepError, match="starts the runs was killed by SIGKILL; the same command starts the rest"):
            list(server.ended())


LEAVES_A_PROCESS = """
import os, time
if not os.fork():
    time.sleep(60)
    os._exit(0)
time.sleep(float(os.environ["DELAY"]))
"""


@pytest.mark.slow
def test_a_server_waits_for_its_runs_only(tmp_path: Path) -> None:
    """A run has ended even if it left a process behind. A server without a launcher ends before its runs."""
    module = tmp_path / "leaves.py"
    module.write_text(LEAVES_A_PROCESS)
    run = tmp_path / "run"
    RunDirectory(run).freeze("optimizer: {_target_: leaves.Anything}", "[]")
    with Server({**os.environ, trust.VARIABLE: str(module)}) as server:
        assert server.ready(300)
        server.start(run, tmp_path / "log", {"DELAY": "0"})
        assert list(server.ended(30)) == [(run, 2)]
    assert server._process.returncode == -signal.SIGKILL  # which no process can ignore
    with Server({**os.environ, trust.VARIABLE: str(module)}) as server:
        assert server.ready(300)
        server.start(run, tmp_path / "log", {"DELAY": "60"})
        server._connection.close()
        assert server._process.wait(30) == 0


# looked after


def test_states(tmp_path: Path) -> None:
    """From a run's own files, however torn, and what Slurm says of its job."""

    def of(queue: dict[str, str] | None = None, ended: dict[str, str] | None = None) -> tuple[str, int, str]:
        found = status(Listed(tmp_path, (), 10), queue or {}, ended or {})
        return found.state, found.epoch, found.note

    assert of() == ("waiting", 0, "never started")
    (tmp_path / "job.json").write_text('{"launcher": "slurm", "job": "7_1"}')
    assert of({"7_1": "PENDING"}) == ("queued", 0, "")
    assert of({"7_1": "RUNNING", "7_2": "PENDING"}) == ("running", 0, "starting")
    rows = ["epoch,phase,seconds", *(f"{i},escape,{2.0 if i > 2 else 60}" for i in range(1, 7)), "7,esc"]
    (tmp_path / "metrics.csv").write_text("\n".join(rows))
    assert of({"7_1": "RUNNING"}) == ("running", 6, "")
    assert status(Listed(tmp_path, (), 10), {"7_1": "RUNNING"}).seconds_left == 4 * 2
    (tmp_path / "metrics.csv").write_text("\n".join([*rows[:-1], f"7,{'x' * TAIL},2.0", ""]))
    assert of({"7_1": "RUNNING"}) == ("running", 7, "")  # one row can be longer than the part that is read at first
    (tmp_path / "metrics.csv").write_text("\n".join(rows))
    assert of({"7_1": "PENDING"}) == ("queued", 6, "resumes after epoch 6")
    assert of() == ("failed", 6, "its process is gone")
    assert of({}, {"7_1": "OUT_OF_MEMORY"}) == ("failed", 6, "its process is gone: out of memory")
    several = {"launcher": "slurm", "job": "7_1", "begun": True}  # runs in the job
    for content, in_queue, gone in (
        ({**several, "begun": False}, "queued", "waiting"),
        (several, "running", "failed"),
        ({**several, "exit": -signal.SIGKILL}, "queued", "killed"),
        ({**several, "exit": 2}, "failed", "failed"),
    ):
        (tmp_path / "job.json").write_text(json.dumps(content))
        assert (of({"7_1": "RUNNING"})[0], of()[0]) == (in_queue, gone)
    (tmp_path / "error.txt").write_text("Traceback:\n  here\nValueError: no [such] thing\n")
    assert of() == ("failed", 6, "ValueError: no [such] thing")
    (tmp_path / "error.txt").unlink()
    (tmp_path / "job.json").write_text('{"launcher": "slurm", "job": "7_1", "cancelled": true}')
    assert of() == ("cancelled", 6, "")
    (tmp_path / "job.json").write_text('{"torn')
    (tmp_path / "state").mkdir()
    (tmp_path / "state/000006-000000.pt").touch()
    assert of() == ("stopped", 6, "")
    (tmp_path / "result.json").write_text("{")
    assert of()[0] == "failed"
    assert "result.json is damaged" in of()[2]
    end = {"epochs": 9, "metrics": {"test": {"accuracy": 0.5}}, "diverged": None}
    (tmp_path / "result.json").write_text(json.dumps(end))
    assert of() == ("finished", 9, "")
    end |= {"metrics": None, "diverged": {"phase": "escape", "epoch": 9, "step": 3}}
    (tmp_path / "result.json").write_text(json.dumps(end))
    assert of() == ("diverged", 9, "in phase escape, epoch 9, step 3")


def test_cancel_says_how_to_stop_local_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("runs/it", "runs/sweeps/local"):
        Path(folder).mkdir(parents=True)
    Path("runs/sweeps/local/runs.jsonl").write_text('{"run": "../../it", "overrides": [], "epochs": 1}\n')
    Path("runs/it/job.json").write_text(
        json.dumps({"launcher": "local", "host": socket.gethostname(), "pid": os.getpid()})
    )
    assert cli(["cancel", "local"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "0 cancelled", "1 without Slurm go on: press Ctrl-C in the command that started them",
    ]  # fmt: skip


def test_how_a_local_run_ended(tmp_path: Path) -> None:
    """From its process's exit status, and without one from what the process left."""

    def of(**job: Any) -> str:
        (tmp_path / "job.json").write_text(json.dumps({"launcher": "local", "host": "elsewhere", "pid": 1, **job}))
        return str(status(Listed(tmp_path, (), 10), {}))

    assert of() == "waiting: never started"
    assert of(exit=-signal.SIGINT) == of(exit=128 + signal.SIGTERM) == "stopped"
    assert of(exit=-signal.SIGBUS) == of(exit=128 + signal.SIGBUS) == "killed by SIGBUS"
    assert of(exit=-signal.SIGKILL) == of(exit=137) == "killed by SIGKILL; out of memory?"
    assert of(exit=127) == "failed: exit code 127"
    assert of(exit="torn", log="\0") == "waiting: never started"
    here = {"host": socket.gethostname(), "pid": os.getpid()}
    assert of(**here) == of(**here, started=started(os.getpid())) == "queued"
    assert of(**here, started="a process before this one") == "waiting: never started"
    (tmp_path / "starts.json").write_text('{"newest": "", "times": 1}')
    assert of() == "failed: its process is gone"
    (tmp_path / ".owner").write_text(json.dumps({"host": socket.gethostname(), "pid": 1}))
    assert of() == "killed without a trace, as by SIGKILL; out of memory?"
    crash = tmp_path / "crash.txt"
    crash.write_text("Fatal Python error: Illegal instruction\n\nCurrent thread 0x1 (most recent call first):\n")
    assert of(exit=1) == "killed by SIGILL"  # train.py was the last one here
    result = {"epochs": 9, "metrics": {"test": {"accuracy": 0.5}}, "diverged": None}
    (tmp_path / "result.json").write_text(json.dumps(result))
    os.utime(crash, (time.time() + 9, time.time() + 9))
    assert of() == "finished but its process was then killed by SIGILL"
    crash.unlink()
    os.utime(tmp_path / "result.json", (time.time() + 9, time.time() + 9))
    assert of(exit=-signal.SIGBUS) == "finished"  # another process has ended it since


def ctrl_c(log: Path, delay: float) -> None:
    """Send SIGINT to this process, some seconds after the start of the run with this log."""
    while not log.exists():
        time.sleep(0.001)
    time.sleep(delay)
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.slow
def test_ctrl_c_at_once_starts_no_other_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                            capfd: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    """The first run's process is stopped, whatever it has come to; the others were never started; watching ends."""
    monkeypatch.chdir(tmp_path)
    configs = [compose(*TINY, "epochs=900", f"seed={seed}") for seed in range(3)]
    runs = [Path(check(cfg).directory) for cfg in configs]
    made = SweepDirectory("runs/sweeps/it")
    with made.lock():
        made.add(Listed(run, (), 3) for run in runs)
    for delay in (0, 0.03, 0.1, 0.5):
        for run, cfg in zip(runs, configs, strict=True):
            shutil.rmtree(run, ignore_errors=True)
            RunDirectory(run).freeze(OmegaConf.to_yaml(cfg, resolve=True), "[]\n")
        shutil.rmtree(made.jobs, ignore_errors=True)
        made.jobs.mkdir()
        threading.Thread(target=ctrl_c, args=(made.jobs / f"{runs[0].name}.log", delay), daemon=True).start()
        with pytest.raises(SystemExit, match="130"):
            list(Local(processes=1).start(runs, made, None))
        assert [str(status(run, {})) for run in made.runs()] == ["stopped", *["waiting: never started"] * 2]
    assert cli(["status", "it", "--watch", "0.01"]) == 0
    assert "2 waiting, 1 stopped" in capfd.readouterr().out


def test_watching_ends_once_nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra's own launcher leaves no trace of the runs that it is going to start: some patience is due."""
    monkeypatch.chdir(tmp_path)
    made = SweepDirectory("runs/sweeps/it")
    with made.lock():
        made.add([Listed(Path("runs/a"), (), 3)])
    monkeypatch.setattr(sweep_main, "IDLE", 0.2)
    begin = time.monotonic()
    assert cli(["status", "it", "--watch", "0.05"]) == 0
    assert time.monotonic() > begin + 0.2


@pytest.mark.slow
def test_a_run_that_never_gets_further_is_given_up(sweep: Sweep, capfd: pytest.CaptureFixture[str]) -> None:
    made = sweep(*TINY, "epochs=8", "hydra/launcher=local", "seed=0,1")
    run = made.runs()[0].path
    (run / "result.json").unlink()
    (run / "starts.json").write_text(json.dumps({"newest": "", "times": STARTS}))
    assert resume(str(run)) == 2
    assert f"was started {STARTS} times without progress after its start" in (run / "error.txt").read_text()
    (run / "starts.json").write_text(json.dumps({"newest": "000001-000000.pt", "times": STARTS}))
    assert resume(str(run)) == 0
    config = run / ".hydra/config.yaml"
    config.write_text(config.read_text().replace("seed: 0", "seed: 5"))
    (run / "result.json").unlink()
    assert resume(str(run)) == 2
    assert f"{config} is not the config that" in capfd.readouterr().err


def test_what_the_tools_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                               capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    SweepDirectory("runs/sweeps/there").lock()
    SweepDirectory("runs/sweeps/there").add([Listed(Path("runs/a"), (), 3)])
    for arguments, said in (
        (["status", "nowhere"], "nowhere is not the directory of a sweep; runs/sweeps has there"),
        (["retry", "there"], "runs/sweeps/there/launcher.json, which names the launcher, can't be read"),
        (["status", "there", "--watch", "-1"], "--watch=-1 is not above 0 and at most a day, 86400 seconds"),
        (["status", "there", "--watch", "nan"], "--watch=nan is not above 0"),
        (["logs", "abc"], "abc is neither the directory of a run nor the hash of one in runs/"),
    ):
        assert cli(arguments) == 2
        assert capsys.readouterr().err.startswith(f"error: {said}")
    assert cli(["status", "there"]) == 0
    assert "1 runs: 1 waiting" in capsys.readouterr().out


@pytest.mark.parametrize("file", sorted((ROOT / "conf/hydra/launcher").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_launcher_is_built(file: Path) -> None:
    cfg = loader().load_configuration("config", [f"hydra/launcher={file.stem}"], run_mode=RunMode.MULTIRUN)
    settings = OmegaConf.to_container(cfg.hydra.launcher)
    assert isinstance(settings, dict)
    kind = str(settings.pop("_target_")).rpartition(".")[2].removesuffix("Launcher").lower()
    place = construct({**LAUNCHERS, "cost": Devices}[kind], settings, "hydra.launcher")
    assert file.stem != "tcml" or (place.gres, place.partition, place.gpus_per_node) == ("gpu:1", "day", None)


def test_a_job_that_starts_before_its_launcher_knows_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It begins its runs, although their files are still those of an earlier job, and the launcher leaves its notes."""
    runs = [RunDirectory(tmp_path / name) for name in ("a", "b")]
    for run in runs:
        run.path.mkdir()
        run.write_json("job.json", {"launcher": "slurm", "job": "6_0", "log": "old", "exit": 1})
    variables = {"SUBMITIT_EXECUTOR": "slurm", "SUBMITIT_FOLDER": str(tmp_path / "jobs"), "SLURM_JOB_ID": "9",
                 "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2", "OMP_NUM_THREADS": "1"}  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("distancing.sweep.job._time_is_up", lambda: True)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    try:
        assert Job([str(run.path) for run in runs])._resume_all() == REQUEUE
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    noted = {"launcher": "slurm", "job": "7_2", "log": "../jobs/7_2_a.out", "begun": False}
    assert runs[0].read_json("job.json") == noted
    runs[0].write_json("job.json", {**noted, "begun": True})
    note(str(runs[0].path), "7_2", tmp_path / "jobs", several=True)
    assert runs[0].read_json("job.json")["begun"] is True


@pytest.mark.parametrize(("said", "reason"), [("a\\nslurm: b\\n", "slurm: b"), ("\\n", "Command .* exit status 3")])
def test_a_command_of_slurm_that_fails(said: str, reason: str) -> None:
    """Its last line is shown, if it says anything."""
    with pytest.raises(SweepError, match=f"^bash: {reason}"):
        _query("bash", "-c", f"printf '{said}' >&2; exit 3")


@pytest.mark.parametrize(("visible", "devices"), [("0,2", ["0", "2"]), ("-1", []), ("1,-1,0", ["1"])])
def test_the_gpus_of_a_local_sweep(visible: str, devices: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert _devices() == devices


# what it will cost


def test_runs_of_unknown_cost_are_named(tmp_path: Path) -> None:
    """By the settings in which they differ, as these are typed; a class by its name."""
    penalty = {"penalty._target_": "a.Penalty", "penalty.distance._target_": "a.Euclidean"}
    runs = [{"epochs": 9, "model.width": width, **own} for width in (4, 8) for own in (penalty, {})]
    for planned, names in (
        (runs[:2], " (Penalty Euclidean; penalty=none)"),
        (runs[1:3], " (model.width=4 penalty=none; model.width=8 Penalty Euclidean)"),
        (runs[1::2], " (model.width=4; model.width=8)"),
        (runs[:1], ""),
    ):
        assert f"the cost of {len(planned)} runs{names} is unknown" in estimate(planned, tmp_path)


@pytest.mark.slow
def test_the_cost_of_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From real runs of one of its two networks: hours, disk and memory by hand; and nothing is started."""
    monkeypatch.chdir(tmp_path)
    launched(*TINY, "epochs=7", "seed=0,1", task=lambda cfg: float(main(cfg)[0]))
    runs = sorted(Path("runs").glob("digits-*"))
    results = [result(run) for run in runs]
    seconds = sum(each["seconds"] for each in results) / 14
    disk = sum(file.stat().st_size for file in Path("runs").glob("digits-*/**/*") if file.is_file()) / 2
    peak_memory = statistics.median(each["peak_memory"] for each in results)
    assert peak_memory > 1e7
    capsys.readouterr()

    sweep = [*TINY, "epochs=90000", "seed=range(10)", "penalty=gaussian,filter_direction", "hydra/launcher=cost"]
    launched(*sweep, "hydra.launcher.at_a_time=4")
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"cost on {results[0]['device']}"
    rows = {line.split()[0]: line.split() for line in said[2:]}
    assert rows["FilterDirection"][1:] == ["10", "900000", "?", "no", "run"]
    assert rows["Euclidean"][1:6] == ["10", "900000", f"{seconds:.3g}", "2", "runs"]
    hours, gigabytes, memory = map(float, rows["Euclidean"][6:])
    assert hours == pytest.approx(seconds * 900000 / 3600, abs=0.01)
    assert (gigabytes, memory) == (round(10 * disk / 1e9, 2), round(peak_memory / 1e9, 2))
    assert "all but 10, 4 at a time" in said[-1]
    assert float(said[-1].split()[-2]) == pytest.approx(hours / 4, abs=0.01)
    assert sorted(Path("runs").glob("digits-*")) == runs
    assert len(SweepDirectory("runs/sweeps/it").runs()) == 2  # those that were trained

    assert cli(["cost", "it"]) == 0
    assert capsys.readouterr().out == "runs/sweeps/it: all of its runs have ended\n"
    half_done = SweepDirectory("runs/sweeps/it").runs()[0].path
    (half_done / "result.json").rename("result.json")
    rows = (half_done / "metrics.csv").read_text().splitlines(keepends=True)
    (half_done / "metrics.csv").write_text("".join(rows[:3]))  # the head and two epochs
    seconds = result(SweepDirectory("runs/sweeps/it").runs()[1].path)["seconds"] / 7
    assert cli(["cost", "it", "--at-a-time", "2"]) == 0
    assert ["each", "1", "5", f"{seconds:.3g}"] in [line.split()[:4] for line in capsys.readouterr().out.splitlines()]
    assert cli(["cost", "it", "--at-a-time", "0"]) == 2
    assert "--at-a-time=0 is below 1" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"hydra.launcher.at_a_time=0: input should be greater than 0"):
        launched(*sweep, "hydra.launcher.at_a_time=0")
    launched(*TINY, "model.width=3", "seed=0,1", "hydra/launcher=cost")
    assert "the cost of 2 runs is unknown, because no finished run in runs is like them" in capsys.readouterr().out

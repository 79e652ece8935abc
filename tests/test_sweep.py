"""Sweeps without a cluster: which runs there are, all checked first, started once each."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
from conftest import ROOT, TINY, result
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict

from distancing.component import trust
from distancing.config.checks import check
from distancing.errors import NOT_THE_SAME, ConfigError, SweepError
from distancing.runs import Listed, RunDirectory, SweepDirectory
from distancing.sweep.__main__ import main as cli
from distancing.sweep.freeze import Composer, freeze
from distancing.sweep.grid import Grid
from distancing.sweep.job import resume
from distancing.sweep.server import Server
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
    parse = OverridesParser.create(config_loader=loader()).parse_overrides
    lines = Grid(**grid).replaced(["penalty.strength=7", "seed=range(3)", "penalty=none"], parse)
    assert lines == ["penalty.strength=7 replaces penalty.strength of hill", "penalty=none replaces penalty of control"]
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
    "-m seed=0,1 hydra/launcher=local hydra.launcher.process=2": "hydra.launcher.process is not a setting of the "
    "launcher chosen here; allowed here: processes, snapshot; hydra/launcher=NAME chooses another launcher",
    "-m seed=0,1 hydra.launcher.processes=2": "hydra.launcher.processes is not a setting of the launcher chosen here; "
    "allowed here: none; hydra/launcher=NAME chooses another launcher",
    "-m seed=0,1 hydra.launcher=local": "hydra.launcher=local: a launcher is chosen by hydra/launcher=NAME",
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

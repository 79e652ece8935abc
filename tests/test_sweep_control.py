"""The runs of a sweep without a cluster: their states, how they are watched and stopped, and what they will cost."""

import json
import os
import shutil
import signal
import socket
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, TINY, compose, launched, result
from hydra.types import RunMode
from omegaconf import OmegaConf
from test_sweep import Sweep, loader

from distancing.config.checks import check, construct
from distancing.errors import ConfigError, SweepError
from distancing.experiment.main import main
from distancing.process.identity import started
from distancing.runs import Listed, RunDirectory, SweepDirectory
from distancing.sweep import __main__ as sweep_main
from distancing.sweep.__main__ import main as cli
from distancing.sweep.cost import Devices, estimate
from distancing.sweep.job import REQUEUE, STARTS, Job, note, resume
from distancing.sweep.launch import LAUNCHERS
from distancing.sweep.local import Local, _devices
from distancing.sweep.slurm import _query
from distancing.sweep.status import TAIL, status


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
        "0 cancelled", "1 not started by Slurm: press Ctrl-C in the command that started them",
    ]  # fmt: skip
    with RunDirectory("runs/it"):
        assert cli(["cancel", "local"]) == 0
    assert capsys.readouterr().out.endswith(f" the command that started them; if it is gone, kill {os.getpid()}\n")


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
    """The message names them by the settings in which they differ, as typed, and a class by its name."""
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

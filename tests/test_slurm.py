"""Sweeps on a real Slurm cluster: submitted at once, frozen, and the same bits whatever happens to their jobs."""

import importlib
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, TINY, launched, multirun, result, start
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from slurm_cluster import Cluster
from test_own_components import PARTS
from test_resume import outcome

from distancing.component import trust
from distancing.errors import ConfigError, SweepError
from distancing.process.crash import ADVICE
from distancing.runs import SweepDirectory
from distancing.sweep.__main__ import main as cli
from distancing.sweep.slurm import queue
from distancing.sweep.status import status
from distancing.training.provenance import source

pytestmark = [
    pytest.mark.slow,
    pytest.mark.slurm,
    pytest.mark.skipif(Cluster.missing() is not None, reason=str(Cluster.missing())),
]
SMALL = ["hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=null"]
LONG = [*TINY, "phases=distancing", "epochs=300", "save_every=50"]  # long enough to be disturbed


class User:
    """One who types commands in the current folder."""

    def __init__(self, cluster: Cluster, capfd: pytest.CaptureFixture[str]) -> None:
        self.cluster, self._capfd = cluster, capfd

    def sweep(self, *overrides: str) -> tuple[list[Path], str]:
        """`python train.py -m OVERRIDES`: the sweep's runs, and what was said."""
        made = multirun(*SMALL, *overrides)
        return [run.path for run in made.runs()], self._capfd.readouterr().out

    def look(self, *command: str) -> str:
        """Return what `distancing sweep COMMAND` says."""
        assert cli(command) == 0
        return self._capfd.readouterr().out

    def states(self) -> list[str]:
        return [status(run, queue([run.path])).state for run in SweepDirectory("runs/sweeps/it").runs()]

    def job(self, run: Path) -> str:
        return str(json.loads((run / "job.json").read_text())["job"])

    def wait(self, *runs: Path) -> None:
        """…for these to end, for us and for Slurm."""
        self.cluster.wait_for(lambda: all((run / "result.json").exists() for run in runs), 150, "the runs to end")
        for job in map(self.job, runs):
            self.cluster.wait_for(lambda job=job: self.cluster.state(job) == "COMPLETED", what=f"the end of job {job}")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster"), nodes=4, gpus=4, max_array_size=2) as cluster:
        yield cluster


@pytest.fixture
def user(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> User:
    monkeypatch.chdir(tmp_path)
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    return User(cluster, capfd)


def drain(cluster: Cluster, state: str) -> None:
    """Let no job start (DRAIN), or let them (RESUME)."""
    for node in cluster.nodes:
        cluster.run("scontrol", "update", f"NodeName={node}", f"State={state}", "Reason=test")


def test_a_sweep_from_launch_to_end(user: User, tmp_path: Path) -> None:
    """Returns with the runs in the queue; started again it submits nothing twice; YAML and code edited meanwhile
    change nothing; more runs than an array holds, two in a job; each ends with the bits that it has without Slurm."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("train.py", "distancing", "hydra_plugins", "conf", ".git"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, checkout / name)
    command = [sys.executable, str(checkout / "train.py"), "-m", *SMALL, "hydra.launcher.runs_per_job=2",
               "hydra.launcher.snapshot=true", "hydra.sweep.dir=runs/sweeps/it", *TINY, "epochs=8"]  # fmt: skip
    drain(user.cluster, "DRAIN")
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    said = subprocess.run([*command, "seed=range(5)"], check=True, capture_output=True, text=True,
                          env=environment).stdout  # fmt: skip
    assert "5 runs, 5 to start" in said
    assert said.count("array ") == said.count("job ") == 1  # of two jobs, and the last one
    assert "distancing sweep status runs/sweeps/it" in said
    assert user.states() == ["queued"] * 5
    _, said = user.sweep("hydra.launcher.runs_per_job=2", *TINY, "epochs=8", "seed=range(6)")
    assert "6 runs, 1 to start, 5 already queued" in said
    momentum = checkout / "conf/optimizer/momentum.yaml"
    momentum.write_text(momentum.read_text() + "lr: 1e30\n")
    (checkout / "distancing/sweep/job.py").write_text("raise SystemExit(7)")
    drain(user.cluster, "RESUME")
    runs = [run.path for run in SweepDirectory("runs/sweeps/it").runs()]
    user.wait(*runs)
    assert "6 runs: 6 finished" in user.look("status", "it")
    assert f"run directory  {runs[4]}" in user.look("logs", str(runs[4]))
    assert start(*TINY, "epochs=8", "seed=4", "runs=alone") == 0
    assert outcome(runs[4]) == outcome(Path("alone") / runs[4].name)


def test_a_sweep_from_inside_a_job(user: User) -> None:
    """Neither an array's variables nor the memory of the job around it, nor sbatch's variables, reach the new jobs; but
    a partition that the user has asked for, and that no setting names, does."""
    command = [sys.executable, str(ROOT / "train.py"), "-m", *SMALL[:2], "hydra.launcher.mem_gb=0.5",
               "hydra.sweep.dir=runs/sweeps/it", *TINY, "epochs=8", "seed=0,1,2"]  # fmt: skip
    variables = "SLURM_MEM_PER_CPU=100 SBATCH_MEM_PER_CPU=100 SBATCH_TIMELIMIT=1 SBATCH_PARTITION=low"
    outer = user.cluster.run("sbatch", "--parsable", "--array=1", "--mem=100", "-o", "outer.log", "--wrap",
                             f"export {variables} PYTHONPATH={ROOT}; {shlex.join(command)}").strip()  # fmt: skip
    user.cluster.wait_for(lambda: user.cluster.state(f"{outer}_1") == "COMPLETED", 150, "the outer job")
    runs = [run.path for run in SweepDirectory("runs/sweeps/it").runs()]
    user.wait(*runs)
    assert user.states() == ["finished"] * 3
    said = user.cluster.run("scontrol", "show", "job", user.job(runs[2]))
    assert "Partition=low" in said
    assert "TimeLimit=1-00:00:00" in said


def test_own_components_in_jobs(user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs compute with the code of the launch, whose hash is in their results, and whose networks can be read."""
    file = tmp_path / "bell/bell.py"
    file.parent.mkdir()
    file.write_text(PARTS)
    monkeypatch.setenv(trust.VARIABLE, str(file))
    own = ["penalty.kernel._target_=bell.Bell", "optimizer._target_=bell.Heavy", "scheduler._target_=bell.Halves",
           "~optimizer.momentum", "~optimizer.nesterov", "scheduler=constant", "penalty.sigma=1,2"]  # fmt: skip
    drain(user.cluster, "DRAIN")
    runs, _ = user.sweep(*TINY, "epochs=8", "hydra.launcher.snapshot=true", *own)
    code = source(["bell"])
    file.write_text("raise SystemExit(7)")
    drain(user.cluster, "RESUME")
    user.wait(*runs)
    assert user.states() == ["finished"] * 2
    assert [result(run)["source"] for run in runs] == [code] * 2
    file.write_text(PARTS)
    for command in (["ensemble", *runs], ["landscape", runs[0], "--only", "barrier"], ["report", *runs]):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-m", "distancing", *command], check=True, env=environment)
    monkeypatch.delenv(trust.VARIABLE)
    stranger = subprocess.run([sys.executable, "-m", "distancing", "ensemble", *runs], capture_output=True, text=True)
    assert "if you trust the code of bell" in stranger.stderr


def test_one_bad_value_submits_nothing(user: User, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"penalty\.strength=-1: input should be greater"):
        user.sweep(*TINY, "seed=range(50)", "penalty.strength=1,-1")
    assert not list(tmp_path.iterdir())
    with pytest.raises(SweepError, match="sbatch refuses: invalid partition specified: nowhere"):
        user.sweep(*TINY, "seed=0,1", "hydra.launcher.partition=nowhere")
    assert user.states() == ["waiting"] * 2


def test_a_failing_run_fails_alone_and_is_retried(user: User) -> None:
    """…and is a failed job of Slurm's; a run that diverged is a result, for an optimising sweeper too."""
    drain(user.cluster, "DRAIN")
    runs, _ = user.sweep(*TINY, "epochs=8", "optimizer.lr=0.01,1e30", "seed=0,1")
    (runs[0] / "checkpoints").write_text("in the way")
    drain(user.cluster, "RESUME")
    user.wait(*runs[1:])
    job = user.job(runs[0])
    user.cluster.wait_for(lambda: user.cluster.state(job) == "FAILED", what="Slurm to say so")
    assert user.states() == ["failed", "finished", "diverged", "diverged"]
    said = user.look("status", "it")
    assert f"{runs[0]}/checkpoints" in said
    (runs[0] / "checkpoints").unlink()
    assert "1 to start" in user.look("retry", "it")
    user.wait(runs[0])
    assert user.states() == ["finished", "finished", "diverged", "diverged"]


def test_runs_in_a_row(user: User) -> None:
    """Each is told apart; one that fails stops no other; what has not ended when time is up ends with the same bits."""
    drain(user.cluster, "DRAIN")
    runs, said = user.sweep("hydra.launcher.runs_per_job=2", "hydra.launcher.runs_in_a_row=2", *LONG, "seed=range(4)")
    assert re.search(r"^job \d+$", said, re.MULTILINE)
    (runs[0] / "checkpoints").write_text("in the way")
    drain(user.cluster, "RESUME")
    for run in runs[1:3]:
        user.cluster.wait_for(begun(run), 150, f"{run} to begin")
    job = user.job(runs[0])
    assert user.states() == ["failed", "running", "running", "queued"]
    user.cluster.run("scancel", "--signal=USR2", job)  # as before the end of its time
    user.cluster.wait_for(lambda: user.cluster.state(job) == "PENDING", 150, what="the job to be requeued")
    assert user.states()[0] == "failed"
    assert "resumes after epoch" in user.look("status", "it")
    user.cluster.wait_for(lambda: user.cluster.state(job) == "FAILED", 200, "the job to end")
    assert user.states() == ["failed", "finished", "finished", "finished"]
    resumed = [run for run in runs[1:] if "resumes after epoch" in user.look("logs", str(run))]
    assert start(*LONG, f"seed={runs.index(resumed[0])}", "runs=alone") == 0
    assert outcome(resumed[0]) == outcome(Path("alone") / resumed[0].name)
    (runs[0] / "checkpoints").unlink()
    assert "1 to start" in user.look("retry", "it")
    user.wait(runs[0])


def test_a_run_that_crashes_is_explained(user: User) -> None:
    """From its dump, while the run beside it ends; and without a dump from the exit code of srun."""
    pair, _ = user.sweep("hydra.launcher.runs_per_job=2", *LONG, "speed=plain", "seed=0,1")
    alone = user.sweep("hydra.launcher.setup=['unset PYTHONFAULTHANDLER']", *LONG, "speed=plain", "seed=2")[0][-1]
    for run, by in ((pair[0], signal.SIGSEGV), (alone, signal.SIGBUS)):
        user.cluster.wait_for(begun(run), what=f"{run} to begin")
        os.kill(json.loads((run / ".owner").read_text())["pid"], by)
    for job in map(user.job, (pair[0], alone)):
        user.cluster.wait_for(lambda job=job: user.cluster.state(job) == "FAILED", 150, "Slurm to say so")
    assert user.states() == ["killed", "finished", "killed"]
    told = user.look("status", "it")
    assert re.search(r"by SIGSEGV in .*distancing/[\w/]+\.py:\d+ \w+", told)
    assert re.search(r"by SIGBUS *\n", told)
    assert "Bus error" in told  # the last lines of its log, which are srun's
    assert told.count(ADVICE) == 1


def test_waits_in_a_container_and_returns_the_results(
    user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thesis's cluster, but for its partition and a stand-in for Singularity; what an optimising sweeper gets."""
    singularity = tmp_path / "bin/singularity"
    singularity.parent.mkdir()
    singularity.write_text('#!/bin/bash\necho "$1 $2 $3 $AFTER_SETUP"\nshift 3\nexec "$@"\n')
    singularity.chmod(0o755)
    monkeypatch.setenv("PATH", f"{singularity.parent}:{os.environ['PATH']}")
    returned: list[JobReturn] = []
    Plugins.instance()  # it executes the plugin's module anew, so the class must be looked up after that
    launcher_class = importlib.import_module("hydra_plugins.distancing_sweep").DistancingLauncher
    launch = launcher_class.launch

    def record(launcher: Any, *arguments: Any, **settings: Any) -> Any:
        returned.extend(launch(launcher, *arguments, **settings))
        return returned

    monkeypatch.setattr(launcher_class, "launch", record)
    launched(
        "hydra/launcher=tcml", "hydra.launcher.partition=gpu", "hydra.launcher.mem_gb=null", "hydra.launcher.wait=true",
        f"hydra.launcher.python='singularity exec --nv image.sif {sys.executable}'",
        "hydra.launcher.setup=['export AFTER_SETUP=done']", "+hydra.launcher.additional_parameters.comment=hello",
        *TINY, "epochs=8", "optimizer.lr=0.01,1e30",
    )  # fmt: skip
    runs = [run.path for run in SweepDirectory("runs/sweeps/it").runs()]
    assert user.states() == ["finished", "diverged"]
    assert [each.return_value for each in returned] == [result(runs[0])["metrics"]["validation"]["loss"], math.inf]
    assert "exec --nv image.sif done\n" in user.look("logs", str(runs[0]))
    said = user.cluster.run("scontrol", "show", "job", user.job(runs[0]))
    assert "Comment=hello" in said
    assert "gres:gpu:1" in said


def test_cancelled_and_retried(user: User) -> None:
    """What is cancelled stays so, though its run has saved its state; retry goes on from there."""
    (run,), _ = user.sweep(*LONG)
    user.cluster.wait_for(begun(run), what="the run to begin")
    assert "1 cancelled" in user.look("cancel", "it")
    job = user.job(run)
    user.cluster.wait_for(lambda: user.cluster.state(job) == "CANCELLED", what="the cancelling")
    assert user.states() == ["cancelled"]
    assert "1 to start" in user.look("retry", "it")
    user.wait(run)
    assert "resumes after epoch" in user.look("logs", str(run))


def test_accounting_says_how_a_job_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                         capfd: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    if reason := Cluster.missing(accounting=True):
        pytest.skip(reason)
    monkeypatch.chdir(tmp_path)
    with Cluster(tmp_path / "cluster", nodes=1, accounting=True) as cluster:
        for name, value in cluster.environment.items():
            monkeypatch.setenv(name, value)
        user = User(cluster, capfd)
        (run,), _ = user.sweep(*LONG)
        cluster.wait_for(lambda: cluster.state(user.job(run)) == "RUNNING")
        cluster.run("scancel", user.job(run))
        cluster.wait_for(lambda: "its process is gone: cancelled" in user.look("status", "it"), what="sacct to know")


# what happens to jobs


def begun(run: Path) -> Callable[[], bool]:
    return lambda: (run / "metrics.csv").exists() and (run / "metrics.csv").read_text().count("\n") > 12


def requeued(user: User, run: Path) -> None:
    user.cluster.run("scontrol", "requeue", user.job(run))


def process(user: User, run: Path) -> int:
    """The one that trains."""
    (found,) = (int(each.name) for each in Path("/proc").glob("[0-9]*")
                if f"SLURM_JOB_ID={user.job(run)}\0".encode() in contents(each / "environ")
                and b"submitit.core._submit" in contents(each / "cmdline")
                and b"srun" not in contents(each / "cmdline"))  # fmt: skip
    return found


def killed(user: User, run: Path) -> None:
    os.kill(process(user, run), signal.SIGKILL)


def contents(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:  # a process that has ended meanwhile
        return b""


def preempted(user: User, _: Path) -> None:
    """Its node is wanted by a partition that may take it."""
    wanted = user.cluster.run("sbatch", "--parsable", "-p", "high", "-w", "node4", "--exclusive", "-o", "/dev/null",
                              "--wrap", "true").strip()  # fmt: skip
    user.cluster.wait_for(lambda: user.cluster.state(wanted) == "COMPLETED", what="the preemption")


def node_lost(user: User, run: Path) -> None:
    """The node is gone for Slurm, while the process on it lives on and holds the run's directory."""
    node = user.cluster.run("squeue", "-h", "-o", "%N", "-j", user.job(run)).strip()
    user.cluster.kill_node(node)
    user.cluster.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")


def out_of_time(user: User, run: Path) -> None:
    """It is held, and then its limit comes near: Slurm's signal comes with another one that wakes it up."""
    os.kill(process(user, run), signal.SIGSTOP)
    user.cluster.run("scontrol", "update", f"JobId={user.job(run)}", "TimeLimit=2")  # minutes from its start
    user.cluster.wait_for(lambda: user.cluster.state(user.job(run)) == "PENDING", what="the end of the job's time")


def undisturbed(user: User, run: Path) -> None:
    """The one that the others are compared with."""


HAPPENINGS: dict[Callable[[User, Path], None], list[str]] = {  # and what their jobs ask for
    undisturbed: ["exclude='node2,node3,node4'"],
    requeued: ["exclude='node2,node3,node4'"],
    killed: ["exclude='node2,node3,node4'"],
    node_lost: ["exclude='node1,node4'"],
    preempted: ["exclude='node1,node2,node3'", "partition=low", "signal_delay_s=5"],
    out_of_time: ["exclude='node2,node3,node4'", "timeout_min=60", "signal_delay_s=90"],
}


def test_the_same_bits_whatever_happens(user: User) -> None:
    """One run, six times side by side; its bits, its metrics and its tables, and each job is completed."""
    runs: dict[Callable[[User, Path], None], Path] = {}
    drain(user.cluster, "DRAIN")
    for happening, settings in HAPPENINGS.items():
        folder = f"runs={happening.__name__}"  # which is no part of a run's name
        found, _ = user.sweep(*LONG, folder, *(f"hydra.launcher.{each}" for each in settings))
        runs[happening] = next(run for run in found if run.parts[0] == happening.__name__)
    drain(user.cluster, "RESUME")
    for happening, run in runs.items():
        user.cluster.wait_for(begun(run), what=f"{run} to begin")
        happening(user, run)
    user.wait(*runs.values())
    expected = outcome(runs.pop(undisturbed))
    says = {node_lost: "already ended"}  # the first process has the run, and the second one waits for it to end
    for happening, run in runs.items():
        assert outcome(run) == expected
        assert says.get(happening, "resumes after epoch") in user.look("logs", str(run))
        assert "Restarts=0" not in user.cluster.run("scontrol", "show", "job", user.job(run))


def test_several_runs_of_a_job_whose_node_is_lost(user: User) -> None:
    """The processes on the lost node live on and hold directories that the new job wants. Each run ends once."""
    several = [f"hydra.launcher.{each}" for each in ("runs_per_job=2", "runs_in_a_row=2", "exclude='node2,node3'")]
    runs, _ = user.sweep(*several, *LONG, "seed=range(3)")
    for run in runs[:2]:
        user.cluster.wait_for(begun(run), 150, f"{run} to begin")
    node_lost(user, runs[0])
    user.wait(*runs)
    assert "Restarts=0" not in user.cluster.run("scontrol", "show", "job", user.job(runs[0]))
    assert user.states() == ["finished"] * 3
    assert start(*LONG, "seed=1", "runs=alone") == 0
    assert outcome(runs[1]) == outcome(Path("alone") / runs[1].name)

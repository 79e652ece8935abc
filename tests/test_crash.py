"""Processes that really die by a signal, and the messages about them."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import ROOT, TINY

from distancing.process.crash import ADVICE, NATIVE, Death, death
from distancing.runs import Listed, SweepDirectory
from distancing.sweep.__main__ import main as cli
from distancing.sweep.status import Status, status

LONG = [*TINY, "speed=plain", "phases=distancing", "epochs=300"]
ABORT_IN_A_THREAD = "libc.pthread_create(ctypes.byref(ctypes.c_ulong()), None, libc.abort, None); libc.pause()"


@pytest.mark.parametrize(
    ("fault", "by"),
    [
        ("ctypes.string_at(0)", signal.SIGSEGV),  # within a frame of another library
        ("os.abort()", signal.SIGABRT),
        (ABORT_IN_A_THREAD, signal.SIGABRT),  # which Python does not know
        *((f"os.kill(os.getpid(), {int(by)})", by) for by in NATIVE.values()),
    ],
)
def test_the_place_of_a_fault(fault: str, by: signal.Signals, tmp_path: Path) -> None:
    """It comes from the dump of a real process, with and without an exit status of Python or a shell."""
    script = tmp_path / "distancing/distancing/models/net.py"
    script.parent.mkdir(parents=True)
    script.write_text(f"import ctypes, os\nlibc = ctypes.CDLL(None)\ndef forward():\n    {fault}\n"
                      "print('one\\ntwo\\n\\nthree\\nfour', flush=True)\nforward()\n")  # fmt: skip
    command = [sys.executable, "-X", "faulthandler", script]
    ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    expected = Death(by, "distancing/models/net.py:4 forward", ("two", "three", "four"))
    assert death(ran.stdout, ran.returncode) == death(ran.stdout, 128 + by) == death(ran.stdout) == expected
    assert expected.advice == ADVICE
    assert death(ran.stdout, 0) is death(ran.stdout, 2) is None
    killed = death(ran.stdout, -signal.SIGKILL)  # the dump is that of an earlier process
    assert killed
    assert (str(killed), killed.place, killed.advice) == ("by SIGKILL; out of memory?", "", "")


@contextmanager
def trained(folder: Path, *overrides: str) -> Iterator[subprocess.Popen[str]]:
    """Start `python train.py OVERRIDES` in a process group of its own, as a shell does, with one thread."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    sweep = ["hydra.sweep.dir=runs/sweeps/it"] if "-m" in overrides else []
    command = [sys.executable, str(ROOT / "train.py"), *overrides, *LONG, *sweep]
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, start_new_session=True) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.terminate()


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def kill(run: Path, by: signal.Signals, epoch: int = 0) -> None:
    """Kill the process that trains a run, three epochs after `epoch` or later."""
    metrics = run / "metrics.csv"
    wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") > epoch + 3)
    os.kill(json.loads((run / ".owner").read_text())["pid"], by)


def runs() -> list[Listed]:
    return SweepDirectory("runs/sweeps/it").runs()


def states() -> list[Status]:
    return [status(run, {}) for run in runs()]


@pytest.mark.slow
def test_runs_of_the_local_launcher_that_are_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The launcher and `status` name the signal, the place and settings to try. A retry goes on."""
    monkeypatch.chdir(tmp_path)
    signals = [signal.SIGSEGV, signal.SIGFPE, signal.SIGKILL]
    with trained(tmp_path, "-m", "hydra/launcher=local", "hydra.launcher.processes=2", "seed=0,1,2") as launcher:
        wait_for(lambda: len(runs()) == 3)
        for run, by in zip(runs(), signals, strict=True):
            kill(run.path, by)
        told = launcher.communicate()[0]
    assert cli(["status", "it"]) == 0
    table = capfd.readouterr().out
    assert "3 runs: 3 killed" in table
    for run, by, run_status in zip(runs(), signals, states(), strict=True):
        assert f"{run.path.name}: killed {run_status.note}" in told
        assert run_status.note in table
        assert (run_status.state, run_status.epoch >= 2) == ("killed", True)
        where = "by SIGKILL; out of memory" if by == signal.SIGKILL else f"by {by.name} in "
        assert run_status.note.startswith(where)
    assert all(re.search(r"distancing/[\w/]+\.py:\d+ [\w<>]+$", run_status.note) for run_status in states()[:2])
    assert (told.count(ADVICE), table.count(ADVICE)) == (2, 1)
    assert f"has not ended (killed {states()[0].note})" in told
    assert launcher.returncode == 2
    job = runs()[0].path / "job.json"
    job.write_text(json.dumps({**json.loads(job.read_text()), "exit": 7}))
    (tmp_path / f"runs/sweeps/it/jobs/{runs()[0].path.name}.log").write_text("one\ntwo\n")
    assert str(states()[0]) == "failed: exit code 7"
    assert states()[0].log == ("one", "two")


@pytest.mark.slow
def test_a_run_that_is_killed_with_its_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the launcher's own process, the stack is printed and kept, and later runs never start."""
    monkeypatch.chdir(tmp_path)
    epoch = 0
    for by, note in ((signal.SIGABRT, "by SIGABRT in "), (signal.SIGKILL, "without a trace, as by SIGKILL")):
        with trained(tmp_path, "-m", "seed=0,1") as process:
            wait_for(lambda: len(runs()) == 2)
            kill(runs()[0].path, by, epoch)
            told = process.communicate()[0]
        assert process.returncode == -by
        assert ("Fatal Python error: Aborted" in told) == (by == signal.SIGABRT)
        killed, waiting = states()
        assert (killed.state, killed.note[: len(note)], waiting.state) == ("killed", note, "waiting")
        epoch = killed.epoch
    with trained(tmp_path, "seed=0") as process:  # the same command goes on
        wait_for(lambda: states()[0].epoch > killed.epoch)
        process.send_signal(signal.SIGINT)
        assert "stopped by SIGINT" in process.communicate()[0]
    assert states()[0].state == "stopped"
    assert not (runs()[0].path / "crash.txt").exists()


def press_ctrl_c(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGINT)


@pytest.mark.slow
@pytest.mark.parametrize("moment", [0, 0.05, "in training"])
def test_ctrl_c_stops_a_local_sweep(moment: float | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No further run starts, and those that never started are told apart from those that were stopped."""
    monkeypatch.chdir(tmp_path)
    with trained(tmp_path, "-m", "hydra/launcher=local", "hydra.launcher.processes=2", "seed=range(4)") as launcher:
        wait_for(lambda: any(tmp_path.glob("runs/sweeps/it/jobs/*.log")))
        if isinstance(moment, str):
            wait_for(lambda: [run_status.epoch > 2 for run_status in states()[:2]] == [True, True])
        else:
            time.sleep(moment)
        press_ctrl_c(launcher)
        told = launcher.communicate()[0]
    assert launcher.returncode == 128 + signal.SIGINT
    logs = [log.read_text() for log in tmp_path.glob("runs/sweeps/it/jobs/*.log")]
    stopped = len(logs)
    assert 1 <= stopped <= 2
    assert f"{4 - stopped} not started\n" in told
    assert [run_status.state for run_status in states()] == ["stopped"] * stopped + ["waiting"] * (4 - stopped)
    assert moment != "in training" or all("run the same command to resume" in log for log in logs)


@pytest.mark.slow
def test_a_second_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher doesn't end before its runs, and notes how these ended."""
    monkeypatch.chdir(tmp_path)
    with trained(tmp_path, "-m", "hydra/launcher=local", "hydra.launcher.processes=1", "seed=0,1") as launcher:
        wait_for(lambda: len(runs()) == 2 and states()[0].epoch > 2)
        pid = json.loads((runs()[0].path / ".owner").read_text())["pid"]
        os.kill(pid, signal.SIGSTOP)  # its current step takes long
        for _ in range(2):
            press_ctrl_c(launcher)
            time.sleep(1)
        os.kill(pid, signal.SIGCONT)
        launcher.communicate()
    assert launcher.returncode == 128 + signal.SIGINT
    assert [run_status.state for run_status in states()] == ["stopped", "waiting"]
    assert json.loads((runs()[0].path / "job.json").read_text())["exit"] in (128 + signal.SIGTERM, -signal.SIGTERM)

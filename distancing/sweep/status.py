"""Determine the status of a run from its own files and Slurm's queue."""

import os
import re
import socket
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from distancing.errors import StorageError
from distancing.process import crash
from distancing.process.identity import started
from distancing.process.signals import SIGNALS
from distancing.runs import Listed, RunDirectory, metrics_file
from distancing.sweep.job import AGAIN

State = Literal["finished", "diverged", "running", "queued", "failed", "killed", "cancelled", "stopped", "waiting"]
ACTIVE: tuple[State, ...] = ("running", "queued")
ENDED: tuple[State, ...] = ("finished", "diverged")
TAIL = 8192  # bytes of metrics.csv: enough for some rows, unless a run has hundreds of checkpoints
LOG_TAIL = 65536  # bytes of a log: enough for the stacks of all threads

Jobs = Mapping[str, str]  # id of a Slurm job → Slurm's name of its state


@dataclass(frozen=True)
class Status:
    """The status of a run.

    state: a `waiting` run was never started; a `stopped` one was told to stop and can be resumed.
    epoch: the number of epochs done. seconds_left: an estimate from the last epochs. test_accuracy: None before the
        end.
    note: the reason of a failure, or the signal that killed the process, also if a finished run was being analysed.
    log, advice: the last lines of the log of a run whose process died, and settings to try.
    """

    state: State
    epoch: int = 0
    seconds_left: float | None = None
    test_accuracy: float | None = None
    note: str = ""
    log: tuple[str, ...] = ()
    advice: str = ""

    @property
    def incomplete(self) -> bool:
        """True if the run has finished, and something that it was asked for failed afterwards."""
        return self.state == "finished" and bool(self.note)

    def __str__(self) -> str:
        return f"{self.state}{': ' if self.state in ('failed', 'waiting') else ' '}{self.note}".strip()


def status(run: Listed, queue: Jobs, ended: Jobs | None = None) -> Status:
    """Return the status of a run of a sweep.

    queue: Slurm's queued and running jobs. ended: final states of other jobs, as far as Slurm's accounting was queried.
    """
    try:
        found = _status(run, queue, ended or {})
    except FileNotFoundError:  # another process has just removed a file, as `retry` does with the error.txt of a run
        return _status(run, queue, ended or {})
    if found.state not in (*ACTIVE, *ENDED) and (run.path / "result.json").exists():  # it has just ended
        return _status(run, queue, ended or {})
    return found


def _status(run: Listed, queue: Jobs, ended: Jobs) -> Status:
    directory, epochs = RunDirectory(run.path), run.epochs
    try:
        result = directory.read_result()
    except StorageError as error:
        return Status("failed", note=str(error))
    if result:
        accuracy = (result["metrics"] or {}).get("test", {}).get("accuracy")
        where = result["diverged"]
        note = f"in phase {where['phase']}, epoch {where['epoch']}, step {where['step']}" if where else ""
        if not where:
            note = _after_result(directory, bool(result["analysis"]))
        return Status("diverged" if where else "finished", result["epochs"], None, accuracy, note)
    epoch, seconds = _progress(directory.metrics)
    job = directory.read_json("job.json")
    in_slurm = queue.get(job.get("job", ""), "")
    code = job.get("exit")  # of a run of several in a job, which may go on with the others
    if code not in (None, *AGAIN):
        in_slurm = ""
    at_work = in_slurm in ("RUNNING", "COMPLETING") and job.get("begun", True) and code is None
    if directory.in_use or at_work:
        left = (epochs - epoch) * seconds if seconds else None
        return Status("running", epoch, left, note="" if epoch else "starting")
    if in_slurm:
        return Status("queued", epoch, note=f"resumes after epoch {epoch}" if epoch else "")
    if job.get("launcher") == "local" and "exit" not in job and _is_alive(job):
        return Status("queued", epoch)
    if directory.crash.exists():
        return _gone(directory, {}, epoch)
    if directory.error.exists():
        return Status("failed", epoch, note=_error(directory))
    if job.get("cancelled"):
        return Status("cancelled", epoch)
    return _gone(directory, job, epoch, ended.get(job.get("job", ""), "").lower().replace("_", " "))


def _error(directory: RunDirectory) -> str:
    """Return the last line of a run's error."""
    lines = directory.error.read_text(errors="replace").strip().splitlines() or [""]
    return lines[-1]


def _gone(directory: RunDirectory, job: Mapping[str, Any], epoch: int, why: str = "") -> Status:
    """Return the status of a run without result, error file or process. why: how its job ended, if Slurm knows."""
    log, code = _last_words(directory, job)
    death = crash.death(log, code)
    if job.get("stopped") or (death and death.by in SIGNALS):
        return Status("stopped", epoch)
    if death:
        return Status("killed", epoch, note=str(death), log=death.log, advice=death.advice)
    if code:
        return Status("failed", epoch, note=f"exit code {code}", log=crash.last_lines(log))
    never = job.get("launcher") == "local" or job.get("begun") is False
    if not never or directory.read_json("starts.json"):
        if directory.abandoned and not job.get("job"):
            return Status("killed", epoch, note="without a trace, as by SIGKILL; out of memory?")
        if job:
            return Status("failed", epoch, note=f"its process is gone{f': {why}' if why else ''}")
    return Status("stopped", epoch) if directory.states() else Status("waiting", epoch, note="never started")


def _after_result(directory: RunDirectory, is_analysed: bool) -> str:
    """Return a note if the process failed or was killed after it had written the result, as in an analysis."""
    if directory.error.exists() and directory.error.stat().st_mtime > (directory.path / "result.json").stat().st_mtime:
        return f"but {_error(directory)}"
    if is_analysed:
        return ""
    job = {} if directory.crash.exists() else directory.read_json("job.json")
    files = [directory.path / name for name in ("result.json", "job.json")] + [_log(directory, job)]
    written, *later = [file.stat().st_mtime for file in files if file.is_file()]
    if max(later, default=0) < written:
        return ""  # the result is that of a process after the one that a launcher started
    death = crash.death(*_last_words(directory, job))
    return f"but its process was then killed {death}" if death and death.by not in SIGNALS else ""


def _last_words(directory: RunDirectory, job: Mapping[str, Any]) -> tuple[str, int | None]:
    """Return the end of the log of the run's last process, and its exit status if it is known.

    The local launcher and a Slurm job of several runs record the status in job.json; a Slurm job of one run writes it
    at the end of its log.
    """
    try:
        file = _log(directory, job)
        log = _tail(file, LOG_TAIL) if file.is_file() else ""
    except OSError:
        log = ""
    if job.get("launcher") == "slurm" and "begun" not in job:
        codes = re.findall(r"^exit code (\d+)$", log, re.MULTILINE)
        return log, int(codes[-1]) if codes else None
    code = job.get("exit")
    return log, code if isinstance(code, int) else None


def _log(directory: RunDirectory, job: Mapping[str, Any]) -> Path:
    """Return the crash file, which only train.py leaves because launchers remove it, or else the log of the job."""
    return directory.crash if directory.crash.exists() else directory.path / str(job.get("log", ""))


def _tail(path: Path, size: int) -> str:
    """Return the last `size` bytes of a file. Raise OSError."""
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - size))
        return file.read().decode(errors="replace")


def _progress(metrics: Path) -> tuple[int, float | None]:
    """Return the number of epochs done, and the median seconds of the last ones; (0, None) if there are none."""
    try:
        rows = metrics_file.read(metrics, TAIL).rows or metrics_file.read(metrics).rows
        return int(rows[-1]["epoch"]), statistics.median(float(row["seconds"]) for row in rows)
    except (OSError, ValueError, LookupError):
        return 0, None


def _is_alive(job: Mapping[str, object]) -> bool:
    """Return True if the launcher's process that started this run is alive on this machine."""
    if job.get("host") != socket.gethostname():
        return False
    try:
        pid = int(str(job.get("pid")))
        os.kill(pid, 0)
    except (OSError, ValueError):
        return False
    return job.get("started") in (None, started(pid))  # another process may have this number by now

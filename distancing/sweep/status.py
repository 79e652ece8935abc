"""Where a run is, from its own files and Slurm's queue."""

import csv
import io
import os
import socket
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from distancing.errors import StorageError
from distancing.runs import Listed, RunDirectory

State = Literal["finished", "diverged", "running", "queued", "failed", "cancelled", "stopped", "waiting"]
ACTIVE: tuple[State, ...] = ("running", "queued")
ENDED: tuple[State, ...] = ("finished", "diverged")
TAIL = 8192  # bytes of metrics.csv: enough for some rows

Jobs = Mapping[str, str]  # the id of a Slurm job → its state in Slurm's words


@dataclass(frozen=True)
class Status:
    """state: `waiting` was never started; `stopped` may go on; `failed` says why in `note`.
    epoch: epochs done. seconds_left: as the last epochs went. test_accuracy: of a finished run.
    """

    state: State
    epoch: int = 0
    seconds_left: float | None = None
    test_accuracy: float | None = None
    note: str = ""


def status(run: Listed, queue: Jobs, ended: Jobs | None = None) -> Status:
    """Of a sweep's run.

    queue: Slurm's jobs that wait or run. ended: what Slurm's accounting knows of others, as far as it was asked.
    """
    directory, epochs, ended = RunDirectory(run.path), run.epochs, ended or {}
    try:
        result = directory.read_result()
    except StorageError as error:
        return Status("failed", note=str(error))
    if result:
        accuracy = (result["metrics"] or {}).get("test", {}).get("accuracy")
        where = result["diverged"]
        note = f"in phase {where['phase']}, epoch {where['epoch']}, step {where['step']}" if where else ""
        return Status("diverged" if where else "finished", result["epochs"], None, accuracy, note)
    epoch, seconds = _progress(directory.metrics)
    job = directory.read_json("job.json")
    in_slurm = queue.get(job.get("job", ""), "")
    if directory.in_use or in_slurm in ("RUNNING", "COMPLETING"):
        left = (epochs - epoch) * seconds if seconds else None
        return Status("running", epoch, left, note="" if epoch else "starting")
    if in_slurm:
        return Status("queued", epoch, note=f"goes on after epoch {epoch}" if epoch else "")
    if job.get("launcher") == "local" and not job.get("ended") and _lives(job):
        return Status("queued", epoch)
    if directory.error.exists():
        lines = directory.error.read_text(errors="replace").strip().splitlines() or [""]
        return Status("failed", epoch, note=lines[-1])
    if job.get("cancelled"):
        return Status("cancelled", epoch)
    if job and not job.get("stopped"):
        why = ended.get(job.get("job", ""), "").lower().replace("_", " ")
        return Status("failed", epoch, note=f"its process is gone{f': {why}' if why else ''}")
    return Status("stopped" if directory.states() else "waiting", epoch)


def _progress(metrics: Path) -> tuple[int, float | None]:
    """Epochs done, and seconds for one of them: the median of the last ones."""
    try:
        with open(metrics, "rb") as file:
            header = file.readline()
            file.seek(max(len(header), os.fstat(file.fileno()).st_size - TAIL))
            tail = file.read().decode(errors="replace").splitlines()
    except OSError:
        return 0, None
    rows = csv.DictReader(io.StringIO("\n".join(tail)), next(csv.reader([header.decode(errors="replace")])))
    good = []
    for row in rows:  # the first may be torn by the seek, the last by its writer
        try:
            good.append((int(row["epoch"]), float(row["seconds"])))
        except (ValueError, KeyError, TypeError):
            continue
    return (good[-1][0], statistics.median(seconds for _, seconds in good)) if good else (0, None)


def _lives(job: Mapping[str, object]) -> bool:
    """The process that started this run on this machine is there."""
    if job.get("host") != socket.gethostname():
        return False
    try:
        os.kill(int(str(job.get("pid"))), 0)
    except (OSError, ValueError):
        return False
    return True

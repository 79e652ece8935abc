"""Starting a sweep's runs: those that have ended or wait already are left out, and nothing is started twice."""

import contextlib
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from distancing.data.datasets import Torchvision
from distancing.errors import SweepError
from distancing.runs import Listed, RunDirectory, SweepDirectory
from distancing.runs.provenance import COMMIT_FILE, PACKAGE, git_commit, source
from distancing.sweep import cost, slurm
from distancing.sweep.freeze import Frozen
from distancing.sweep.local import Local
from distancing.sweep.slurm import Slurm
from distancing.sweep.status import ACTIVE, ENDED, State, status

KINDS: dict[str, type[Slurm] | type[Local]] = {"slurm": Slurm, "local": Local}
POLL = 2.0  # seconds
PIN = """'''Python imports this first: `python -m` would take a package in the current folder before this one.'''
import distancing
"""


def list_runs(frozen: Sequence[Frozen], sweep: SweepDirectory) -> None:
    """Add these runs to the sweep's list."""
    with sweep.lock():
        sweep.add(run.listed for run in frozen)


def launch(frozen: Sequence[Frozen], sweep: SweepDirectory, place: Slurm | Local) -> Iterator[str]:
    """Freeze these runs in their directories and start them at `place`; what is to be said of it, line by line.

    Raises SweepError if there is no such place, DatasetError for images that can't be read.
    """
    place.check()
    read_images(frozen)
    with sweep.lock():
        queue = slurm.queue(run.directory for run in frozen)
        states = {run: status(run.listed, queue).state for run in frozen}
        again = [run for run, state in states.items() if run.config.overwrite and state not in ACTIVE]
        todo = [run for run, state in states.items() if state not in (*ACTIVE, *ENDED) or run in again]
        for run in todo:
            directory = RunDirectory(run.directory)
            if run in again:
                directory.clear()
            directory.freeze(*run.texts)
        sweep.add(run.listed for run in frozen)
        yield f"{sweep.path}: {len(frozen)} runs, " + ", ".join(_counts(len(todo), Counter(
            state for run, state in states.items() if run not in again)))  # fmt: skip
        if todo:
            yield cost.said([run.flat for run in todo], todo[0].directory.parent)
        said = start([run.directory for run in todo], sweep, place)
    yield from said
    yield f"follow with  python -m distancing.sweep status {sweep.path}"


def start(runs: Sequence[Path], sweep: SweepDirectory, place: Slurm | Local) -> Iterator[str]:
    """Start frozen runs; what is to be said of it. The sweep's lock must be held."""
    kind = next(name for name, cls in KINDS.items() if isinstance(place, cls))
    sweep.write_launcher(kind, asdict(place))
    for run in runs:
        RunDirectory(run).forget_failures()
    return place.start(runs, sweep, snapshot(sweep) if place.snapshot else None) if runs else iter(())


def _counts(started: int, states: Counter[State]) -> Iterator[str]:
    yield f"{started} to start"
    for state in (*ENDED, *ACTIVE):
        if states[state]:
            yield f"{states[state]} already {state}"


def read_images(frozen: Sequence[Frozen]) -> None:
    """Read, and where it is missing download, each data set once: not on every node at the same time.

    Raises DatasetError for the first that can't be had.
    """
    datasets = {(type(run.config.dataset), run.config.dataset.root): run.config.dataset
                for run in frozen if isinstance(run.config.dataset, Torchvision)}  # fmt: skip
    for dataset in datasets.values():
        dataset.read()


def snapshot(sweep: SweepDirectory) -> Path:
    """A copy of this package's code as it is now, named by its hash: the folder that holds it."""
    folder = sweep.code / source()
    if not folder.exists():
        making = folder.with_name(f"{folder.name}.tmp")
        shutil.rmtree(making, ignore_errors=True)
        shutil.copytree(PACKAGE, making / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
        (making / PACKAGE.name / COMMIT_FILE).write_text(git_commit() or "")
        (making / "sitecustomize.py").write_text(PIN)
        making.rename(folder)
    return folder


def wait(runs: Sequence[Listed]) -> None:
    """Return once none of these runs waits or runs any more. A controller that doesn't answer is asked again."""
    while True:
        with contextlib.suppress(SweepError):
            queue = slurm.queue(run.path for run in runs)
            if not any(status(run, queue).state in ACTIVE for run in runs):
                return
        time.sleep(POLL)

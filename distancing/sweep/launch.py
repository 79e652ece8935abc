"""Start the runs of a sweep, except those that have ended, are queued or are running."""

import contextlib
import shlex
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from distancing.component import trust
from distancing.data.datasets import Torchvision
from distancing.errors import SweepError
from distancing.runs import Listed, RunDirectory, SweepDirectory
from distancing.runs.result import read_result
from distancing.sweep import cost, slurm
from distancing.sweep.freeze import Frozen, to_yaml
from distancing.sweep.local import Local
from distancing.sweep.slurm import Slurm
from distancing.sweep.status import ACTIVE, ENDED, State, status
from distancing.training.provenance import COMMIT_FILE, PACKAGE, git_commit, source

LAUNCHERS: dict[str, type[Slurm] | type[Local]] = {"slurm": Slurm, "local": Local}
POLL = 2.0  # seconds
LATER = ("analysis", "evaluate", "verify")  # what a run does after its training
PIN = """'''Python imports this first. Otherwise `python -m` would prefer a package in the current folder.'''
import distancing{own}
"""


def list_runs(frozen: Sequence[Frozen], sweep: SweepDirectory) -> None:
    """Add these runs to the sweep's list. Raise SweepError if it may not hold them."""
    sweep.check_folder(run.listed for run in frozen)
    with sweep.lock():
        sweep.add(run.listed for run in frozen)


def launch(frozen: Sequence[Frozen], sweep: SweepDirectory, launcher: Slurm | Local) -> Iterator[str]:
    """Freeze these runs in their directories and start them; yield lines that tell the user what was started.

    Raise SweepError if the sweep's list may not hold the runs, DatasetError for images that can't be read.
    """
    sweep.check_folder(run.listed for run in frozen)
    read_images(frozen)
    with sweep.lock():
        queue = slurm.queue(run.directory for run in frozen)
        statuses = {run: status(run.listed, queue) for run in frozen}
        states = {run: run_status.state for run, run_status in statuses.items()}
        again = [run for run, state in states.items() if run.config.overwrite and state not in ACTIVE]
        new = [run for run, state in states.items() if state not in (*ACTIVE, *ENDED) or run in again]
        more = [run for run, state in states.items() if state == "finished" and run not in new and _lacks(run, queue)]
        todo = [*new, *more]
        for run in todo:
            directory = RunDirectory(run.directory)
            if run in again:
                with directory:  # another process may have begun this run since its status was read
                    directory.clear()
            directory.freeze(_with_later(run) if run in more else run.texts[0], run.texts[1])
        sweep.add(run.listed for run in frozen)
        counts = Counter(state for run, state in states.items() if run not in todo)
        yield f"{sweep.path}: {len(frozen)} runs, {', '.join(_counts(len(new), len(more), counts))}"
        messages = start([run.directory for run in todo], sweep, launcher)
    if new:
        done = {run: 0 if run in again else statuses[run].epoch for run in new}
        left = [{**run.flat, "epochs": run.config.epochs - done[run]} for run in new]
        yield cost.estimate(left, new[0].directory.parent)
    yield from messages
    yield f"follow with  distancing sweep status {shlex.quote(str(sweep.path))}"


def start(runs: Sequence[Path], sweep: SweepDirectory, launcher: Slurm | Local) -> Iterator[str]:
    """Start frozen runs; return lines that tell the user about it. The caller must hold the sweep's lock."""
    name = next(name for name, cls in LAUNCHERS.items() if isinstance(launcher, cls))
    sweep.write_launcher(name, asdict(launcher))
    for run in runs:
        RunDirectory(run).forget_failures()
    return launcher.start(runs, sweep, snapshot(sweep) if launcher.snapshot else None) if runs else iter(())


def _lacks(run: Frozen, queue: Mapping[str, str]) -> bool:
    """Return whether a finished run lacks something that it is asked for now, and no process is at work on it."""
    directory, config = RunDirectory(run.directory), run.config
    result = read_result(directory)
    if result is None or directory.in_use or directory.read_json("job.json").get("job") in queue:
        return False
    known, settings = result.analysis or {}, cost.frozen_tree(run.directory).get("analysis") or {}
    asked = run.tree["analysis"] or {}
    if any(name not in known or asked[name] != settings.get(name) for name in asked):
        return True
    if config.verify and result.verified is None:
        return True
    if not (config.evaluate.ood or config.evaluate.corruptions):
        return False
    from distancing.ensemble.of_run import not_evaluated  # slow to import

    missing = not_evaluated(config.evaluate, result.ensemble, config.dataset)
    return bool(missing.ood or missing.corruptions)


def _with_later(run: Frozen) -> str:
    """Return the frozen config of a finished run, as YAML, with what it is asked for now beyond its training."""
    return to_yaml({**run.tree, **cost.frozen_tree(run.directory), **{key: run.tree[key] for key in LATER}})


def _counts(started: int, completed: int, states: Counter[State]) -> Iterator[str]:
    """Yield how many runs are started or completed, and how many are not because of their state."""
    yield f"{started} to start"
    if completed:
        yield f"{completed} to complete"
    for state in (*ENDED, *ACTIVE):
        if states[state]:
            yield f"{states[state]} already {state}"


def read_images(frozen: Sequence[Frozen]) -> None:
    """Read each data set once, and download it if it is missing, so that not every node does so at the same time.

    Those of `evaluate` are among them. Raise DatasetError or EnsembleError for the first one that can't be read.
    """
    datasets = {
        (type(run.config.dataset), run.config.dataset.root): run.config.dataset
        for run in frozen
        if isinstance(run.config.dataset, Torchvision)
    }
    for dataset in datasets.values():
        dataset.read()
    evaluated = {(str(run.config.evaluate), str(run.config.dataset)): run.config for run in frozen}
    for config in evaluated.values():
        if config.evaluate.ood or config.evaluate.corruptions:
            from distancing.ensemble.of_run import checked  # slow to import

            checked(config.evaluate, config)


def snapshot(sweep: SweepDirectory) -> Path:
    """Copy the code of this package and of the trusted modules to a folder named by its hash; return the folder."""
    own = sorted({name.partition(".")[0] for name in trust.trusted()})
    folder = sweep.code / source(own)
    if not folder.exists():
        partial = folder.with_name(f"{folder.name}.tmp")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(PACKAGE, partial / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
        (partial / PACKAGE.name / COMMIT_FILE).write_text(git_commit() or "")
        for name, file in (pair for module in own for pair in trust.source_files(module)):
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, partial / name)
        (partial / "sitecustomize.py").write_text(PIN.format(own="".join(f", {module}" for module in own)))
        partial.rename(folder)
    return folder


def wait(runs: Sequence[Listed]) -> None:
    """Wait until none of these runs is queued or running. Ask again if Slurm's controller doesn't answer."""
    while True:
        with contextlib.suppress(SweepError):
            queue = slurm.queue(run.path for run in runs)
            if not any(status(run, queue).state in ACTIVE for run in runs):
                return
        time.sleep(POLL)


def incomplete(runs: Iterable[Listed]) -> list[str]:
    """Return a line for each finished run whose process failed or was killed afterwards."""
    statuses = {run.path: status(run, {}) for run in runs}
    return [f"{path} has finished, {run_status.note}" for path, run_status in statuses.items() if run_status.incomplete]

"""The command that repeats a run, and a folder of links to the runs for TensorBoard."""

import os
import re
import shlex
from collections.abc import Container, Sequence
from pathlib import Path

from distancing.errors import ReportError
from distancing.report.groups import text
from distancing.report.metrics import column_names, result_numbers
from distancing.report.overview import Overview
from distancing.report.runs import Run

NAME_LENGTH = 150  # characters in the name of a link
COLUMNS = "events.out.tfevents.columns"  # declares the columns of TensorBoard's table of hyperparameters


def command(run: Run) -> str:
    """Return the command that trains this run again, without the overrides that select a sweep or configure Hydra."""
    overrides = [override for override in run.overrides if not re.match(r"[+~]*(sweep=|hydra[./])", override)]
    return shlex.join(["python", "train.py", *overrides])


def commit(run: Run) -> str | None:
    """Return the commit at which the run was trained; None if it is not known."""
    git_commit = run.result.get("git_commit")
    return git_commit if isinstance(git_commit, str) else None


def script(run: Run) -> str:
    """Return the run's command, below comments with its state and its commit."""
    lines = [f"# {run.name}: {run.state}"]
    if git_commit := commit(run):
        lines.append(f"# git checkout {git_commit}")
    return "\n".join([*lines, command(run)])


def link(overview: Overview, folder: Path) -> int:
    """Fill `folder` with links to the runs that have begun, named by settings and seed. Return their number.

    The folder also gets a file that declares the columns of TensorBoard's table of hyperparameters. The files of an
    earlier call are replaced. Raise ReportError if the folder holds anything else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    old_files = list(folder.iterdir())
    for file in old_files:
        if not file.is_symlink() and file.name != COLUMNS:
            raise ReportError(f"--tensorboard={folder}: the folder must hold links only, and {file.name} is not a link")
    for file in old_files:
        file.unlink()
    links = 0
    for group in overview.groups:
        settings = [f"{key}={text(value)}" for key, value in group.settings.items() if value is not None]
        for run in group.runs:
            if not run.path.is_dir():
                continue
            name = re.sub(r"[^\w.+=,()\[\]{}-]+", "_", ",".join([*settings, f"seed={run.seed}"]))[:NAME_LENGTH]
            path = folder / name
            if path.is_symlink():  # two names may differ only in the characters that were replaced
                path = folder / f"{name},{run.path.name.rpartition('-')[2]}"
            path.symlink_to(os.path.relpath(run.path.resolve(), folder.resolve()))
            links += 1
    _write_columns(overview, folder)
    return links


def _write_columns(overview: Overview, folder: Path) -> None:
    """Write an event of TensorBoard's hparams plugin that declares the settings and metrics of the overview."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.plugins.hparams.summary_v2 import Discrete, HParam, Metric, hparams_config_pb
    from tensorboard.summary.writer.record_writer import RecordWriter

    shown = []
    seeds = {run.seed for group in overview.groups for run in group.runs}
    for key in (*overview.keys, "seed"):
        values = seeds if key == "seed" else set(overview.values(key))
        numbers = [float(v) for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
        if len(numbers) == len(values):
            shown.append(HParam(key, Discrete(numbers)))
        else:  # str(), as in the runs' own events
            shown.append(HParam(key, Discrete([str(value) for value in values], dtype=str)))
    summary = hparams_config_pb(shown, [Metric(tag, display_name=name) for name, tag in tags(overview).items()])
    with open(folder / COLUMNS, "wb") as file:
        writer = RecordWriter(file)
        writer.write(Event(wall_time=0, file_version="brain.Event:2").SerializeToString())
        writer.write(Event(wall_time=0, step=0, summary=summary).SerializeToString())


def tags(overview: Overview) -> dict[str, str]:
    """Return the tag in TensorBoard of each of the overview's metrics that has one."""
    runs = [run for group in overview.groups for run in group.finished]
    analyses = {name for run in runs for name in run.result.get("analysis") or {}}
    return {metric: tag for metric in overview.metrics if (tag := _tag(metric, runs, analyses))}


def _tag(metric: str, runs: Sequence[Run], analyses: Container[str]) -> str | None:
    """Return a metric's tag. One like test.loss is of the final network; a column of metrics.csv has its own name."""
    first, dot, rest = metric.partition(".")
    if dot and first in ("train", "validation", "test"):
        return f"final/{first}/{rest}"
    if dot and first in analyses:
        return f"analysis/{first}/{rest}"
    if first == "ensemble":
        return metric.replace(".", "/")
    in_result = any(metric in result_numbers(run) for run in runs[:1])
    return None if in_result or not any(metric in column_names(run) for run in runs) else metric

"""How to repeat a run; and a folder of links for TensorBoard, named by what varies."""

import os
import re
import shlex
from pathlib import Path

from distancing.errors import ReportError
from distancing.report.answer import Answer
from distancing.report.groups import text
from distancing.report.runs import Run

NAME_LENGTH = 150  # of a link, in characters
COLUMNS = "events.out.tfevents.columns"  # of TensorBoard's table of hyperparameters


def command(run: Run) -> str:
    """What trains this run again. A sweep's file only says which runs there are: the run's own settings are here."""
    kept = [each for each in run.overrides if not re.match(r"[+~]*(sweep=|hydra[./])", each)]
    return shlex.join(["python", "train.py", *kept])


def commit(run: Run) -> str | None:
    """The commit that it was trained at, if that is known."""
    found = run.result.get("git_commit")
    return found if isinstance(found, str) else None


def script(run: Run) -> str:
    lines = [f"# {run.path}: {run.state}"]
    if known := commit(run):
        lines.append(f"# git checkout {known}")
    return "\n".join([*lines, command(run)])


def link(found: Answer, folder: Path) -> int:
    """Fill `folder` with a link to each run that has begun, named by its settings and its seed, and say in it which
    columns TensorBoard's table of hyperparameters shall have; how many runs there are.

    What an earlier call left is replaced. Raises ReportError if anything else is in the way.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = list(folder.iterdir())
    for each in before:
        if not each.is_symlink() and each.name != COLUMNS:
            raise ReportError(f"{folder} holds {each.name}, which is no link: --tensorboard needs a folder of its own")
    for each in before:
        each.unlink()
    made = 0
    for group in found.groups:
        said = [f"{key}={text(value)}" for key, value in group.settings.items() if value is not None]
        for run in group.runs:
            if not run.path.is_dir():
                continue
            name = re.sub(r"[^\w.+=,()\[\]{}-]+", "_", ",".join([*said, f"seed={run.seed}"]))[:NAME_LENGTH]
            path = folder / name
            if path.is_symlink():  # two names that are one without their odd characters
                path = folder / f"{name},{run.path.name.rpartition('-')[2]}"
            path.symlink_to(os.path.relpath(run.path.resolve(), folder.resolve()))
            made += 1
    _write_columns(found, folder)
    return made


def _write_columns(found: Answer, folder: Path) -> None:
    """What varies, and the metrics asked for: an event of TensorBoard's hparams plugin, which has one such for all."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.plugins.hparams.summary_v2 import Discrete, HParam, Metric, hparams_config_pb
    from tensorboard.summary.writer.record_writer import RecordWriter

    shown = []
    for key in (*found.keys, "seed"):
        values = {run.seed for each in found.groups for run in each.runs} if key == "seed" else set(found.values(key))
        numbers = [float(v) for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
        if len(numbers) == len(values):
            shown.append(HParam(key, Discrete(numbers)))
        else:  # as the runs say it, with Python's words
            shown.append(HParam(key, Discrete([str(value) for value in values], dtype=str)))
    summary = hparams_config_pb(shown, [Metric(_tag(name), display_name=name) for name in found.metrics])
    with open(folder / COLUMNS, "wb") as file:
        writer = RecordWriter(file)
        writer.write(Event(wall_time=0, file_version="brain.Event:2").SerializeToString())
        writer.write(Event(wall_time=0, step=0, summary=summary).SerializeToString())


def _tag(metric: str) -> str:
    """The scalar's name in TensorBoard: test.loss is that of the final network."""
    return f"final/{metric.replace('.', '/')}" if metric.count(".") == 1 else metric.replace(".", "/")

"""How to repeat a run; and a folder of links for TensorBoard, named by what varies."""

import os
import re
import shlex
from pathlib import Path

from distancing.report.answer import Answer
from distancing.report.groups import text
from distancing.report.runs import ReportError, Run

NAME_LENGTH = 150  # of a link, in characters


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
    """Fill `folder` with a link to each run that has begun, named by its settings and its seed; how many there are.

    Links of an earlier call are replaced. Raises ReportError if anything else is in the way.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for each in folder.iterdir():
        if not each.is_symlink():
            raise ReportError(f"{folder} holds {each.name}, which is no link: --tensorboard needs a folder of its own")
    for each in folder.iterdir():
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
    return made

"""`verify=true`: an ended run is trained once more, and must be the same, bit for bit."""

import contextlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from distancing.data.batches import Data
from distancing.runs import RunDirectory, load, metrics_file
from distancing.training.loop import Request, train
from distancing.training.progress import Diverged
from distancing.training.settings import Config
from distancing.training.trainer import Trainer

Row = Mapping[str, Any]


def difference(config: Config, data: Data, device: torch.device, run: RunDirectory, result: Row) -> str | None:
    """Train `config` again, in a temporary folder: what is not as `run` has it, in a few words; None if all is.

    Compared are the tensors of every checkpoint, the rows of metrics.csv but for their seconds, and where a run that
    diverged did so. Not the ensemble and the analyses, which follow from the checkpoints.
    """
    with tempfile.TemporaryDirectory(prefix="distancing-") as folder, contextlib.ExitStack() as stack:
        again = stack.enter_context(RunDirectory(folder))
        trainer, diverged = Trainer(config, data, device), None
        try:
            train(trainer, again, _go_on, lambda _: None, lambda: None)
        except Diverged as error:
            diverged = {"phase": error.phase, "epoch": error.epoch, "step": error.step}
        if diverged != result["diverged"]:
            return f"the second run {f'diverged in {diverged}' if diverged else 'did not diverge'}"
        places = [*trainer.checkpoints.infos, *([trainer.final] if trainer.final else [])]
        first = [*result["checkpoints"], *([result["final"]] if result["final"] else [])]
        if [each["name"] for each in places] != [each["name"] for each in first]:
            return "other checkpoints"
        for each in places:
            a, b = (load(of.checkpoint(each["name"]))["network"] for of in (run, again))
            if parts := [name for name in a if not _same(a[name], b.get(name))]:
                return f"checkpoint {each['name']}: {parts[0]}"
    return _rows(run.metrics, trainer)


def _go_on(done: float, phase: str) -> Request:  # noqa: ARG001
    return None


def _same(a: torch.Tensor, b: torch.Tensor | None) -> bool:
    return b is not None and a.dtype == b.dtype and torch.equal(a, b)


def _rows(metrics: Path, trainer: Trainer) -> str | None:
    try:
        table = metrics_file.read(metrics)
    except ValueError as error:
        return f"metrics.csv is damaged: {error}"
    if table.damage:
        return f"metrics.csv is damaged: {table.damage}"
    first, second = table.rows, metrics_file.parse(metrics_file.to_text(trainer.columns, trainer.rows)).rows
    for row, other in zip(first, second, strict=False):
        for column in row:
            if column != "seconds" and row[column] != other.get(column):
                return f"metrics.csv, epoch {row['epoch']}: {column} was {row[column]} and then {other.get(column)}"
    return None if len(first) == len(second) else f"{len(first)} epochs, and then {len(second)}"

"""Train a run a second time and compare the two bit for bit, for `verify=true`."""

import tempfile
from pathlib import Path

import torch

from distancing.data.batches import Data
from distancing.runs import RunDirectory, load, metrics_file
from distancing.runs.result import Divergence, Result
from distancing.training.loop import train
from distancing.training.progress import Diverged
from distancing.training.settings import Config
from distancing.training.trainer import Trainer


def difference(config: Config, data: Data, device: torch.device, run: RunDirectory, result: Result) -> str | None:
    """Train `config` again, in a temporary folder; return the first difference from `run` in a few words, or None.

    It compares the tensors of every checkpoint, the rows of metrics.csv except for their seconds, and the place of a
    divergence. The ensemble and the analyses follow from the checkpoints and are not compared.
    """
    with tempfile.TemporaryDirectory(prefix="distancing-") as folder, RunDirectory(folder) as again:
        trainer, diverged = Trainer(config, data, device), None
        try:
            train(trainer, again, lambda *_: None, lambda _: None, lambda: None)
        except Diverged as error:
            diverged = Divergence(phase=error.phase, epoch=error.epoch, step=error.step)
        if diverged != result.diverged:
            return f"the second run {f'diverged in {diverged}' if diverged else 'did not diverge'}"
        names = [info["name"] for info in (*trainer.checkpoints.infos, *filter(None, [trainer.final]))]
        if names != [network.name for network in result.networks]:
            return "other checkpoints"
        for name in names:
            first, second = (load(directory.checkpoint(name))["network"] for directory in (run, again))
            if differing := [key for key in first if not _same(first[key], second.get(key))]:
                return f"checkpoint {name}: {differing[0]}"
    return _rows(run.metrics, trainer)


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

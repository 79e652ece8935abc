"""A run's result as tables for the terminal."""

import math
import shlex
from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from distancing.runs.ensemble import Scores
from distancing.runs.result import CheckpointInfo, Metrics, Result

LANDSCAPE_VALUES = 8  # rows of each analysis: its first values that are not about a single checkpoint or pair


def summary(result: Result, directory: str) -> RenderableType:
    """Return the tables of a result, and below them the files to look at in `directory`.

    They show loss and accuracy of each checkpoint, of the final network, of their ensemble and of the network at their
    mean; the distances between them; and the results of the analyses.
    """
    landscape = _landscape(result.analysis or {})
    pasted = shlex.quote(directory)
    facts = (
        f"{result.epochs} epochs in {result.seconds:.1f} s, training at {result.images_per_second:,.0f} "
        f"images/s on {result.device}, {result.parameters:,} parameters\n"
        f"run directory  {directory}\n"
        f"TensorBoard    tensorboard --logdir {pasted}"
    )
    if result.ensemble:
        facts += f"\nensemble       distancing ensemble {pasted}"
    if landscape.rows:
        facts += f"\nlandscape      {directory}/landscape"
    if not result.networks:
        return Text(facts)
    tables = [_metrics(result), _distances(result.networks), *([landscape] if landscape.rows else [])]
    return Group(*tables, Text(facts))


def _metrics(result: Result) -> Table:
    splits = list(result.networks[0].metrics)
    table = Table(title=f"{result.name}: {result.status}", title_justify="left", title_style="bold")
    table.add_column("checkpoint")
    table.add_column("phase")
    table.add_column("epoch", justify="right")
    for split in splits:
        table.add_column(f"{split} loss", justify="right")
        table.add_column(f"{split} acc.", justify="right")

    def add_row(name: str, phase: str, epoch: str, metrics: Metrics) -> None:
        cells = [(_number(metrics[split]["loss"]), f"{metrics[split]['accuracy']:.2%}") for split in splits]
        table.add_row(name, phase, epoch, *(cell for pair in cells for cell in pair))

    for checkpoint in result.networks:
        add_row(checkpoint.name, checkpoint.phase, str(checkpoint.epoch), checkpoint.metrics)
    if ensemble := result.ensemble:
        table.add_section()
        averages = {split: ensemble.splits[split].ensemble for split in splits}
        add_row(f"ensemble of {len(ensemble.members)}", "", "", _metrics_of(averages))
        if ensemble.parameter_average:
            add_row("at their mean", "", "", _metrics_of(ensemble.parameter_average))
    return table


def _metrics_of(scores: Mapping[str, Scores]) -> Metrics:
    return {split: {"loss": values.nll, "accuracy": values.accuracy} for split, values in scores.items()}


def _distances(checkpoints: Sequence[CheckpointInfo]) -> Table:
    table = Table(title="distances ‖θ − θ_c‖", title_justify="left")
    table.add_column("")
    names = [checkpoint.name for checkpoint in checkpoints]
    for name in names:
        table.add_column(name, justify="right")
    for checkpoint in checkpoints:
        table.add_row(checkpoint.name, *(_number(checkpoint.distances[name], 3) for name in names))
    return table


def _landscape(analyses: Mapping[str, Mapping[str, float | None]]) -> Table:
    table = Table(title="landscape", title_justify="left")
    for column in ("analysis", "value", ""):
        table.add_column(column, justify="left" if column else "right")
    for name, values in analyses.items():
        for key in [key for key in values if "/" not in key and not key.endswith("_se")][:LANDSCAPE_VALUES]:
            error = f" ± {_number(values[f'{key}_se'])}" if f"{key}_se" in values else ""
            table.add_row(name, key, _number(values[key]) + error)
        table.add_section()
    return table


def _number(value: float | None, decimals: int = 4) -> str:
    return f"{value:.{decimals}f}" if value is not None and math.isfinite(value) else "not finite"

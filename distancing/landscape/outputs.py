"""Run analyses and store what they find as NAME.json, NAME.csv and NAME.png; reuse what is stored already."""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from distancing.component.analysis import Analysis
from distancing.errors import LandscapeError
from distancing.landscape.subject import Findings, Subject, Track
from distancing.runs import RunDirectory, write
from distancing.runs.files import seal
from distancing.runs.tracking import add_to_events
from distancing.stored import Checkpoint

Values = Mapping[str, float | None]  # None for a number that is not finite


def analyse(
    analyses: Mapping[str, Analysis],
    checkpoints: Sequence[Checkpoint],
    folder: Path,
    device: torch.device,
    track: Track[Any],
    again: bool = False,
    left_out: dict[str, str] | None = None,
) -> tuple[dict[str, Values], list[str]]:
    """Return each analysis's values by its name, and the names of those that were not stored in `folder` already.

    again: also repeat analyses that are stored. left_out: receives each analysis that these checkpoints do not allow,
    with the reason. If it is None, such an analysis raises LandscapeError, before any work if checkpoints are too few.
    """
    too_few = {
        name: f"{name} needs at least {analysis.least} checkpoints, but there are {len(checkpoints)}"
        for name, analysis in analyses.items()
        if len(checkpoints) < analysis.least
    }
    if left_out is not None:
        left_out |= too_few
    elif too_few:
        raise LandscapeError(next(iter(too_few.values())))
    values: dict[str, Values] = {}
    computed, subject = [], None
    for name, analysis in analyses.items():
        if name in too_few:
            continue
        inputs = _inputs(analysis, checkpoints)
        stored = None if again else _stored_values(folder / f"{name}.json", inputs)
        if stored is None:
            if subject is None or subject[0] != analysis.images:
                subject = analysis.images, Subject(checkpoints, device, analysis.images)
            try:
                findings = analysis(subject[1], track)
                if not isinstance(findings, Findings):
                    returned = type(findings).__name__
                    raise LandscapeError(f"analysis.{name}: {type(analysis).__name__} returns {returned}, not Findings")
            except LandscapeError as error:
                if left_out is None:
                    raise
                left_out[name] = str(error)
                continue
            stored = store(findings, folder, name, inputs)
            computed.append(name)
        values[name] = stored
    return values, computed


def store(findings: Findings, folder: Path, name: str, inputs: Mapping[str, Any]) -> Values:
    """Write NAME.csv, NAME.png and at last NAME.json, whose presence shows that all are complete. Return the values."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import

    text, picture = io.StringIO(), io.BytesIO()
    table = csv.DictWriter(text, list(findings.rows[0]) if findings.rows else [], lineterminator="\n")
    table.writeheader()
    table.writerows(findings.rows)
    FigureCanvasAgg(findings.figure).print_png(picture)
    write(folder / f"{name}.csv", text.getvalue().encode())
    write(folder / f"{name}.png", picture.getvalue())
    values = {key: value if math.isfinite(value) else None for key, value in findings.values.items()}
    write(folder / f"{name}.json", (json.dumps({"asked": inputs, "values": values}, indent=2) + "\n").encode())
    return values


def record(run: RunDirectory, values: Mapping[str, Values], computed: Sequence[str]) -> None:
    """Add the values to TensorBoard and to the result.json of a run that has ended. Hold the run's lock.

    Analyses that were neither computed now nor changed are not added to TensorBoard again. result.json is written last,
    so that an analysis which it contains is in TensorBoard, too.
    """
    if result := run.read_result():
        known = result["analysis"] or {}
        for name in values:
            if name in computed or known.get(name) != values[name]:
                add_to_events(run, name, *_for_tensorboard(name, values[name], run.landscape))
        run.write_result({**result, "analysis": {**known, **values}})


def _for_tensorboard(name: str, values: Values, folder: Path) -> tuple[dict[str, list[float]], dict[str, NDArray[Any]]]:
    """Return an analysis's scalars and its picture [H, W, 4] by their tags."""
    from matplotlib.image import imread  # slow to import

    scalars = {f"analysis/{name}/{key}": [value] for key, value in values.items() if value is not None}
    return scalars, {f"analysis/{name}": imread(folder / f"{name}.png")}


def _inputs(analysis: Analysis, checkpoints: Sequence[Checkpoint]) -> dict[str, Any]:
    """Return all that the findings depend on: the analysis, its settings, and the checkpoints' contents."""
    settings = {field.name: getattr(analysis, field.name) for field in dataclasses.fields(analysis)}
    return {
        "analysis": f"{type(analysis).__module__}.{type(analysis).__name__}",
        **json.loads(json.dumps(settings)),
        "places": {checkpoint.name: seal(checkpoint.file) for checkpoint in checkpoints},
    }


def _stored_values(path: Path, inputs: Mapping[str, Any]) -> Values | None:
    """Return the values in a JSON file, or None if it is incomplete or was computed from other inputs."""
    try:
        content = json.loads(path.read_text())
        complete = all(path.with_suffix(suffix).exists() for suffix in (".csv", ".png"))
        asked = content["asked"]
        same = asked == inputs and list(asked["places"]) == list(inputs["places"])  # the order of checkpoints matters
        return dict(content["values"]) if complete and same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None

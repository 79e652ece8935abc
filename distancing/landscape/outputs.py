"""What an analysis leaves: NAME.json, NAME.csv and NAME.png; one that is there already isn't made again."""

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

from distancing.analysis import Analysis
from distancing.data.batches import Data
from distancing.errors import LandscapeError
from distancing.landscape.subject import Findings, Subject, Track
from distancing.runs import RunDirectory, write
from distancing.runs.files import seal
from distancing.runs.tracking import add_to_events
from distancing.stored import Checkpoint


def analyse(
    analyses: Mapping[str, Analysis],
    members: Sequence[Checkpoint],
    folder: Path,
    device: torch.device,
    track: Track[Any],
    data: Data | None = None,
    again: bool = False,
    left_out: dict[str, str] | None = None,
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """The values that each analysis finds, by its name; and the names of those that had to be made.

    data: the members' images, where they are at hand. again: make what is there already, too. left_out: gets those that
    these members don't allow, and why; without it the first one is refused, before any work if they are too few for it.
    Raises LandscapeError.
    """
    few = {
        name: f"{name} needs {analysis.least} places at least, and there are {len(members)}"
        for name, analysis in analyses.items()
        if len(members) < analysis.least
    }
    if left_out is not None:
        left_out |= few
    elif few:
        raise LandscapeError(next(iter(few.values())))
    found, made, subject = {}, [], None
    for name, analysis in analyses.items():
        if name in few:
            continue
        asked = _asked(analysis, members)
        kept = None if again else _kept(folder / f"{name}.json", asked)
        if kept is None:
            if subject is None or subject[0] != analysis.images:
                subject = analysis.images, Subject(members, device, analysis.images, data)
            try:
                findings = analysis(subject[1], track)
            except LandscapeError as error:
                if left_out is None:
                    raise
                left_out[name] = str(error)
                continue
            keep(findings, folder, name, asked)
            kept = dict(findings.values)
            made.append(name)
        found[name] = kept
    return found, made


def keep(findings: Findings, folder: Path, name: str, asked: Mapping[str, Any]) -> None:
    """The JSON is written last: where it is, the others are, too."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import

    text, picture = io.StringIO(), io.BytesIO()
    table = csv.DictWriter(text, list(findings.rows[0]) if findings.rows else [], lineterminator="\n")
    table.writeheader()
    table.writerows(findings.rows)
    FigureCanvasAgg(findings.figure).print_png(picture)
    write(folder / f"{name}.csv", text.getvalue().encode())
    write(folder / f"{name}.png", picture.getvalue())
    values = {key: value if math.isfinite(value) else None for key, value in findings.values.items()}
    write(folder / f"{name}.json", (json.dumps({"asked": asked, "values": values}, indent=2) + "\n").encode())


def record(run: RunDirectory, found: Mapping[str, Mapping[str, float]], made: Sequence[str]) -> None:
    """Put what was found into TensorBoard, where it was made or isn't there yet, and at last into an ended run's
    result.json: if that says so, all is written. Hold the run's lock."""
    if result := run.read_result():
        known = result["analysis"] or {}
        for name in found:
            if name in made or known.get(name) != found[name]:
                add_to_events(run, name, *for_tensorboard({name: found[name]}, run.landscape))
        run.write_result({**result, "analysis": {**known, **found}})


def for_tensorboard(
    found: Mapping[str, Mapping[str, float]], folder: Path
) -> tuple[dict[str, list[float]], dict[str, NDArray[Any]]]:
    """Scalars, and pictures [H, W, 4], by their tags."""
    from matplotlib.image import imread  # slow to import

    scalars = {f"analysis/{name}/{key}": [value] for name, values in found.items() for key, value in values.items()
               if value is not None}  # fmt: skip
    return scalars, {f"analysis/{name}": imread(folder / f"{name}.png") for name in found}


def _asked(analysis: Analysis, members: Sequence[Checkpoint]) -> dict[str, Any]:
    """All that can change what is found: the analysis, its settings, and the networks."""
    settings = {field.name: getattr(analysis, field.name) for field in dataclasses.fields(analysis)}
    kind = type(analysis)
    return {
        "analysis": f"{kind.__module__}.{kind.__name__}",
        **json.loads(json.dumps(settings)),
        "places": {member.name: seal(member.file) for member in members},
    }


def _kept(path: Path, asked: Mapping[str, Any]) -> dict[str, float] | None:
    """The values of an earlier time, if it was asked the same, and all was written."""
    try:
        content = json.loads(path.read_text())
        whole = all(path.with_suffix(suffix).exists() for suffix in (".csv", ".png"))
        return dict(content["values"]) if whole and content["asked"] == asked else None
    except (OSError, ValueError, KeyError, TypeError):
        return None

"""All figures for which there is data: their groups, settings and captions."""

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from distancing.report import figures
from distancing.report.figures import Curve, Point
from distancing.report.groups import Group, text
from distancing.report.metrics import column_names, curves, higher_is_better, label, scale
from distancing.report.overview import Overview
from distancing.runs.flat import Leaf

PANELS = ("train/cross_entropy", "test/loss", "test/accuracy")
MAX_KEYS = 3  # settings to plot against; `--by` selects them
KEY_UNITS = {"penalty.strength": "nats", "batch_size": "images", "epochs": ""}
SIGMA_UNITS = {"norm": "‖θ_c‖", "travelled": "‖θ_c − θ_0‖"}


@dataclass(frozen=True)
class Picture:
    """A figure with a caption. name: the stem of its file names."""

    name: str
    caption: str
    figure: Figure

    @functools.cached_property
    def rendered(self) -> tuple[bytes, bytes]:
        return figures.render(self.figure)

    @property
    def png(self) -> bytes:
        return self.rendered[0]

    @property
    def pdf(self) -> bytes:
        return self.rendered[1]


def gallery(overview: Overview) -> Iterator[Picture]:
    """Yield the pictures. Damaged files found while reading the curves are added to `overview.damage`."""
    if not overview.metrics:
        return
    yield from _learning_curves(overview)
    yield from _distances(overview)
    for metric in overview.metrics:
        yield from _heat_maps(overview, metric)
        yield from _against(overview, metric)
    yield from _cost(overview)
    yield from _ensemble_members(overview)
    yield from _diversity_and_accuracy(overview)


def _best_groups(overview: Overview, eligible: Callable[[Group], bool] = lambda _: True) -> tuple[list[Group], str]:
    """Return at most MAX_GROUPS groups, in the table's order, and a sentence for the caption about the choice.

    They are the baseline and the groups that are best in the first metric.
    """
    groups = [group for group in overview.best_first(overview.groups, overview.metrics[0]) if eligible(group)]
    if len(groups) <= figures.MAX_GROUPS:
        return [group for group in overview.groups if group in groups], ""
    baseline = [group for group in groups if group is overview.baseline]
    kept = [*baseline, *(group for group in groups if group is not overview.baseline)][: figures.MAX_GROUPS]
    order = "highest" if higher_is_better(overview.metrics[0]) else "lowest"
    including = ", including the baseline" if baseline else ""
    sentence = f" The {figures.MAX_GROUPS} groups with the {order} {overview.metrics[0]} of {len(groups)}{including}."
    return [group for group in overview.groups if group in kept], sentence


def _names(overview: Overview, groups: Sequence[Group]) -> dict[Group, str]:
    """Return short names: the settings in which these groups differ, by the last parts of their names."""
    keys = [key for key in overview.keys if len({group.settings[key] for group in groups}) > 1]
    short_keys = _short_keys(overview)
    names: dict[Group, str] = {}
    for group in groups:
        settings = {short_keys[key]: group.settings[key] for key in keys}
        name = ", ".join(f"{key}={text(value)}" for key, value in settings.items() if value is not None) or group.name
        names[group] = f"{name} ({len(names) + 1})" if name in names.values() else name
    return names


def _short_keys(overview: Overview) -> dict[str, str]:
    """Return setting → the last part of its name, or all of it if that is ambiguous: penalty.sigma → sigma."""
    last_parts = Counter(key.rpartition(".")[2] for key in overview.keys)
    return {key: part if last_parts[part := key.rpartition(".")[2]] == 1 else key for key in overview.keys}


def _point(overview: Overview, group: Group, metric: str) -> Point | None:
    values = overview.mean_sd(group, metric)
    return Point(values[0], values[1] or 0.0) if values else None


def _points(overview: Overview, groups: Sequence[Group], x: str, y: str) -> dict[str, tuple[Point, Point]]:
    """Return name → the group's points in two metrics, for the groups that have both."""
    return {
        name: (first, second)
        for group, name in _names(overview, groups).items()
        if (first := _point(overview, group, x)) and (second := _point(overview, group, y))
    }


def _curve(overview: Overview, group: Group, columns: Sequence[str]) -> Curve:
    """Return the mean of these columns over the seeds; at each epoch over those that trained so long."""
    runs = [curves(run, columns, overview.damage) for run in group.finished]
    length = max((len(phases) for _, phases in runs), default=0)
    mean, sd = {}, {}
    for column in columns:
        rows = np.full((len(runs), length), np.nan)
        for i, (values, _) in enumerate(runs):
            if column in values:
                rows[i, : len(values[column])] = values[column]
        n = np.isfinite(rows).sum(0)
        if n.any():
            mean[column] = np.where(n, np.nansum(rows, 0) / np.maximum(n, 1), np.nan)
            squares = np.nansum((rows - mean[column]) ** 2, 0)
            sd[column] = np.where(n > 1, np.sqrt(squares / np.maximum(n - 1, 1)), np.nan)
    plans = {_phases(phases) for _, phases in runs if phases}
    return Curve(mean, sd, plans.pop() if len(plans) == 1 else ())


def _phases(names: Sequence[str]) -> tuple[tuple[str, int, int], ...]:
    """Return (name, first epoch, last epoch) of each phase from the phases' names [epochs]."""
    phases, epoch = [], 1
    for name, epochs in itertools.groupby(names):
        length = len(list(epochs))
        phases.append((name, epoch, epoch + length - 1))
        epoch += length
    return tuple(phases)


def _shading_note(curve: Curve) -> str:
    return f"Shaded: {', '.join(name for name, _, _ in curve.phases)}. " if curve.phases else ""


def _learning_curves(overview: Overview) -> Iterator[Picture]:
    groups, choice = _best_groups(overview)
    lines = {name: _curve(overview, group, PANELS) for group, name in _names(overview, groups).items()}
    lines = {name: curve for name, curve in lines.items() if curve.mean}
    labels = {column: label(column) for column in PANELS if any(column in curve.mean for curve in lines.values())}
    if not labels:
        return
    same_phases = len({curve.phases for curve in lines.values()}) == 1
    caption = (
        "Learning curves: mean over the seeds, with a band of ± one standard deviation. "
        + (
            _shading_note(next(iter(lines.values())))
            if same_phases
            else "The phases differ: dotted lines show where one begins. "
        )
        + "The training cross entropy is averaged during each epoch."
        + choice
    )
    yield Picture("learning_curves", caption, figures.learning_curves(lines, labels))


def _distances(overview: Overview) -> Iterator[Picture]:
    """Yield the distances of the best group with hills, or else of the best group with checkpoints."""
    best = overview.best_first(overview.groups, overview.metrics[0])
    candidates = [(group, columns) for group in best if (columns := _distance_columns(group))]
    with_hills = [pair for pair in candidates if any(column.startswith("hill/") for column in pair[1])]
    for group, columns in (with_hills or candidates)[:1]:
        curve = _curve(overview, group, columns)
        if not curve.mean:
            return
        checkpoints = sum(column.startswith("distance/") for column in columns)
        limit = (
            f"The first {figures.MAX_GROUPS} of {checkpoints} checkpoints." if checkpoints > figures.MAX_GROUPS else ""
        )
        name = f"{group.name}, the best group with {'hills' if with_hills else 'checkpoints'}. "
        caption = (
            "Distance to each checkpoint, and the height k of its hill if it has one, after each epoch: mean over the "
            f"seeds ± one standard deviation. {_shading_note(curve)}{name if len(overview.groups) > 1 else ''}{limit}"
        )
        yield Picture("distances", caption, figures.distances(curve))


def _distance_columns(group: Group) -> list[str]:
    columns = column_names(group.finished[0]) if group.finished else []
    return [column for column in columns if column.startswith(("distance/", "hill/"))]


def _numeric(overview: Overview, key: str) -> bool:
    """Return True if the setting varies and all its values are numbers."""
    values = overview.values(key)
    return len(values) > 1 and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)


def _key_label(overview: Overview, key: str) -> str:
    units = {run.config.get("penalty.sigma_unit") for group in overview.groups for run in group.runs} - {None}
    unit = SIGMA_UNITS.get(str(units.pop()), "") if key == "penalty.sigma" and len(units) == 1 else KEY_UNITS.get(key)
    return f"{key}, {unit}" if unit else key


def _slice(overview: Overview, keys: Sequence[str], metric: str) -> tuple[list[Group], str]:
    """Return the groups that agree with the best one in all settings but `keys`, and these settings for the caption.

    Groups without one of the `keys` are left out.
    """
    candidates = [group for group in overview.groups if all(group.settings.get(key) is not None for key in keys)]
    best = overview.best_first(candidates, metric)
    if not best:
        return [], ""
    fixed = {key: best[0].settings[key] for key in overview.keys if key not in keys}
    groups = [group for group in candidates if all(group.settings[key] == value for key, value in fixed.items())]
    varying = [key for key in fixed if len({group.settings[key] for group in candidates}) > 1]
    return groups, ", ".join(f"{key}={text(fixed[key])}" for key in varying)


def _heat_maps(overview: Overview, metric: str) -> Iterator[Picture]:
    keys = [key for key in overview.by if _numeric(overview, key)]
    keys = keys if len(keys) > 1 else [key for key in overview.keys if _numeric(overview, key)]
    for x, y in itertools.combinations(keys[:MAX_KEYS], 2):
        groups, fixed = _slice(overview, (x, y), metric)
        cells = {
            (float(str(group.settings[x])), float(str(group.settings[y]))): point
            for group in groups
            if (point := _point(overview, group, metric))
        }
        if min(len({cell[i] for cell in cells}) for i in (0, 1)) < 2 or len(cells) < 4:
            continue
        caption = f"{label(metric)}: mean over the seeds, and standard deviation below it"
        caption += f"; at {fixed}, where the best group is." if fixed else "."
        baseline = _point(overview, overview.baseline, metric) if overview.baseline else None
        caption += f" The line in the scale is the baseline, {overview.baseline.name}." if overview.baseline else ""
        figure = figures.heat_map(
            cells,
            _key_label(overview, x),
            _key_label(overview, y),
            label(metric),
            percent=scale(metric) != 1,
            baseline=baseline.mean if baseline else None,
            lower_is_better=not higher_is_better(metric),
        )
        yield Picture(f"heat_map-{metric}-{x}-{y}", caption, figure)


def _against(overview: Overview, metric: str) -> Iterator[Picture]:
    """Plot against the settings of `--by`; without it against those with numbers, or else those with words."""
    keys = overview.by or [key for key in overview.keys if _numeric(overview, key)] or overview.keys
    for key in keys[:MAX_KEYS]:
        if picture := _against_key(overview, metric, key):
            yield picture


def _against_key(overview: Overview, metric: str, key: str) -> Picture | None:
    points = {
        group: point
        for group in overview.groups
        if group.settings.get(key) is not None and (point := _point(overview, group, metric))
    }
    lines: dict[tuple[tuple[str, Leaf], ...], list[Group]] = {}  # the other settings → the groups with them
    for group in points:
        others = tuple((other, value) for other, value in group.settings.items() if other != key)
        lines.setdefault(others, []).append(group)
    candidates = [others for others in lines if len(lines[others]) > 1]
    if not candidates:
        if _numeric(overview, key) or len(points) < 2 or len(points) > 12:
            return None
        candidates = list(lines)
    best = overview.best_first(list(points), metric)
    candidates.sort(key=lambda others: min(best.index(group) for group in lines[others]))
    kept = [others for others in lines if others in candidates[: figures.MAX_GROUPS]]  # in the table's order
    differing = [i for i in range(len(kept[0])) if len({others[i] for others in kept}) > 1]
    short_keys = _short_keys(overview)
    named_lines: dict[str, Mapping[float | str, Point]] = {}
    for others in kept:
        settings = {short_keys[others[i][0]]: others[i][1] for i in differing}
        name = ", ".join(f"{other}={text(value)}" for other, value in settings.items() if value is not None)
        named_lines[name or "mean ± sd"] = {_position(group.settings[key]): points[group] for group in lines[others]}
    baseline = (
        _point(overview, overview.baseline, metric) if overview.baseline not in points and overview.baseline else None
    )
    caption = f"{label(metric)} against {key}: mean over the seeds ± one standard deviation."
    if len(candidates) > len(kept):
        caption += f" The {len(kept)} lines with the best points of {len(candidates)}."
    caption += (
        f" Dashed, with a band: the baseline, {overview.baseline.name}." if overview.baseline and baseline else ""
    )
    figure = figures.against(named_lines, _key_label(overview, key), label(metric), baseline)
    return Picture(f"against-{metric}-{key}", caption, figure)


def _position(value: Leaf) -> float | str:
    """Return a setting's position on the axis: a number, or its text."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else text(value)


def _cost(overview: Overview) -> Iterator[Picture]:
    metric = next((name for name in overview.metrics if name.endswith("accuracy")), "test.accuracy")
    groups, choice = _best_groups(overview)
    points = _points(overview, groups, "seconds", metric)
    if len(points) < 2:
        return
    devices = sorted({str(run.result.get("device")) for group in groups for run in group.finished})
    caption = (
        f"{label(metric)} against the time of a run, with evaluation, on {', '.join(devices)}: mean over the seeds "
        f"± one standard deviation.{choice}"
    )
    yield Picture("cost", caption, figures.cost(points, "time of a run, s", label(metric)))


def _ensemble_members(overview: Overview) -> Iterator[Picture]:
    metrics = ("test.accuracy", "test.nll")
    groups, choice = _best_groups(overview, lambda group: _point(overview, group, f"ensemble.{metrics[0]}") is not None)
    first, second = (_points(overview, groups, f"members.{metric}", f"ensemble.{metric}") for metric in metrics)
    rows = {name: dict(zip(metrics, (first[name], second[name]), strict=True)) for name in first if name in second}
    if rows:
        caption = (
            "The ensemble members of a run by themselves, and the average of their probabilities: mean over the seeds "
            f"± one standard deviation.{choice}"
        )
        yield Picture(
            "members_and_ensemble", caption, figures.members(rows, {metric: label(metric) for metric in metrics})
        )


def _diversity_and_accuracy(overview: Overview) -> Iterator[Picture]:
    x, y = "members.test.accuracy", "ensemble.test.disagreement"
    groups, choice = _best_groups(overview, lambda group: _point(overview, group, y) is not None)
    points = _points(overview, groups, x, y)
    if points:
        caption = (
            "The diversity–accuracy plane: the disagreement of two ensemble members against the mean accuracy of the "
            f"members: mean over the seeds ± one standard deviation.{choice}"
        )
        yield Picture("diversity_and_accuracy", caption, figures.cost(points, label(x), label(y)))


def file_name(picture: Picture) -> str:
    """Return the picture's name with every character but letters, digits, ".", "_" and "-" replaced."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in picture.name)

"""All the figures that the runs allow: which groups and settings are in them, and what is said below them."""

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from distancing.flat import Leaf
from distancing.report import figures
from distancing.report.answer import Answer
from distancing.report.figures import Curve, Point
from distancing.report.groups import Group, text
from distancing.report.metrics import columns, curves, higher_is_better, label, scale

PANELS = ("train/cross_entropy", "test/loss", "test/accuracy")
MOST_KEYS = 3  # of those that vary; `--by` says which
KEY_UNITS = {"penalty.strength": "nats", "batch_size": "images", "epochs": ""}
SIGMA_UNITS = {"norm": "‖θ_c‖", "travelled": "‖θ_c − θ_0‖"}


@dataclass(frozen=True)
class Picture:
    """name: of its files. caption: what it shows, in a sentence or two."""

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


def gallery(found: Answer) -> Iterator[Picture]:
    """Damaged files that are met on the way are added to the answer's."""
    if not found.metrics:
        return
    yield from _learning_curves(found)
    yield from _distances(found)
    for metric in found.metrics:
        yield from _heat_maps(found, metric)
        yield from _against(found, metric)
    yield from _cost(found)
    yield from _members(found)


def _some(found: Answer, allowed: Callable[[Group], bool] = lambda _: True) -> tuple[list[Group], str]:
    """As many groups as a picture holds, the baseline and the best, in the table's order; and how they were chosen."""
    groups = [each for each in found.best_first(found.groups, found.metrics[0]) if allowed(each)]
    if len(groups) <= figures.MOST:
        return [each for each in found.groups if each in groups], ""
    first = [each for each in groups if each is found.baseline]
    kept = [*first, *(each for each in groups if each is not found.baseline)][: figures.MOST]
    way = "highest" if higher_is_better(found.metrics[0]) else "lowest"
    with_it = ", the baseline among them" if first else ""
    said = f" The {figures.MOST} groups with the {way} {found.metrics[0]} of {len(groups)}{with_it}."
    return [each for each in found.groups if each in kept], said


def _names(found: Answer, groups: Sequence[Group]) -> dict[Group, str]:
    """Short ones for a picture: the settings in which these groups differ, by the last part of their names."""
    keys = [key for key in found.keys if len({each.settings[key] for each in groups}) > 1]
    short = _short(found)
    names: dict[Group, str] = {}
    for each in groups:
        said = [f"{short[key]}={text(each.settings[key])}" for key in keys if each.settings[key] is not None]
        name = ", ".join(said) or each.name
        names[each] = f"{name} ({len(names) + 1})" if name in names.values() else name
    return names


def _short(found: Answer) -> dict[str, str]:
    """penalty.sigma → sigma, where no other setting of the table is called so."""
    last = Counter(key.rpartition(".")[2] for key in found.keys)
    return {key: end if last[end := key.rpartition(".")[2]] == 1 else key for key in found.keys}


def _point(found: Answer, group: Group, metric: str) -> Point | None:
    values = found.mean_sd(group, metric)
    return Point(values[0], values[1] or 0.0) if values else None


def _curve(found: Answer, group: Group, wanted: Sequence[str]) -> Curve:
    """The mean over the seeds that have got so far."""
    read = [curves(run, wanted, found.damage) for run in group.finished]
    length = max((len(phases) for _, phases in read), default=0)
    mean, sd = {}, {}
    for column in wanted:
        rows = np.full((len(read), length), np.nan)
        for i, (values, _) in enumerate(read):
            if column in values:
                rows[i, : len(values[column])] = values[column]
        n = np.isfinite(rows).sum(0)
        if n.any():
            mean[column] = np.where(n, np.nansum(rows, 0) / np.maximum(n, 1), np.nan)
            squares = np.nansum((rows - mean[column]) ** 2, 0)
            sd[column] = np.where(n > 1, np.sqrt(squares / np.maximum(n - 1, 1)), np.nan)
    plans = {_phases(phases) for _, phases in read if phases}
    return Curve(mean, sd, plans.pop() if len(plans) == 1 else ())


def _phases(names: Sequence[str]) -> tuple[tuple[str, int, int], ...]:
    """Name, first and last epoch of each."""
    found, epoch = [], 1
    for name, run in itertools.groupby(names):
        length = len(list(run))
        found.append((name, epoch, epoch + length - 1))
        epoch += length
    return tuple(found)


def _shaded(curve: Curve) -> str:
    return f"Shaded: {', '.join(name for name, _, _ in curve.phases)}. " if curve.phases else ""


def _learning_curves(found: Answer) -> Iterator[Picture]:
    groups, chosen = _some(found)
    names = _names(found, groups)
    drawn = {names[each]: _curve(found, each, PANELS) for each in groups}
    drawn = {name: curve for name, curve in drawn.items() if curve.mean}
    there = [column for column in PANELS if any(column in curve.mean for curve in drawn.values())]
    if not there:
        return
    shaded = len({curve.phases for curve in drawn.values()}) == 1
    caption = (
        "Learning curves: mean over the seeds, with a band of ± one standard deviation. "
        + (_shaded(next(iter(drawn.values()))) if shaded else "Phases differ: dotted lines show where one begins. ")
        + "The training cross entropy is the mean while training."
        + chosen
    )
    labels = {column: label(column) for column in there}
    yield Picture("learning_curves", caption, figures.learning_curves(drawn, labels))


def _distances(found: Answer) -> Iterator[Picture]:
    """Of the best group that stored a checkpoint on its way, and rather of one whose hills act."""
    best = found.best_first(found.groups, found.metrics[0])
    with_places = [(each, wanted) for each in best if (wanted := _places(each))]
    with_hills = [each for each in with_places if any(column.startswith("hill/") for column in each[1])]
    for group, wanted in (with_hills or with_places)[:1]:
        curve = _curve(found, group, wanted)
        if not curve.mean:
            return
        named = sum(column.startswith("distance/") for column in wanted)
        first = f"The first {figures.MOST} of {named} checkpoints." if named > figures.MOST else ""
        which = f"{group.name}, the best with checkpoints. " if len(found.groups) > 1 else ""
        caption = (
            "Distance to each checkpoint, and the height k of its hill where there are hills, after each epoch: mean "
            f"over the seeds ± one standard deviation. {_shaded(curve)}{which}{first}"
        )
        yield Picture("distances", caption, figures.distances(curve))


def _places(group: Group) -> list[str]:
    return [each for run in group.finished[:1] for each in columns(run) if each.startswith(("distance/", "hill/"))]


def _numeric(found: Answer, key: str) -> bool:
    values = found.values(key)
    return len(values) > 1 and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)


def _key_label(found: Answer, key: str) -> str:
    units = {run.config.get("penalty.sigma_unit") for group in found.groups for run in group.runs} - {None}
    unit = SIGMA_UNITS.get(str(units.pop()), "") if key == "penalty.sigma" and len(units) == 1 else KEY_UNITS.get(key)
    return f"{key}, {unit}" if unit else key


def _slice(found: Answer, keys: Sequence[str], metric: str) -> tuple[list[Group], str]:
    """The groups that have all `keys` and agree with the best of them in everything else; and what that is."""
    having = [each for each in found.groups if all(each.settings.get(key) is not None for key in keys)]
    best = found.best_first(having, metric)
    others = [key for key in found.keys if key not in keys]
    if not best:
        return [], ""
    fixed = {key: best[0].settings[key] for key in others}
    chosen = [each for each in having if all(each.settings[key] == value for key, value in fixed.items())]
    said = [key for key in others if len({each.settings[key] for each in having}) > 1]
    return chosen, ", ".join(f"{key}={text(fixed[key])}" for key in said)


def _heat_maps(found: Answer, metric: str) -> Iterator[Picture]:
    keys = [key for key in found.by if _numeric(found, key)]
    keys = keys if len(keys) > 1 else [key for key in found.keys if _numeric(found, key)]
    for x, y in itertools.combinations(keys[:MOST_KEYS], 2):
        groups, fixed = _slice(found, (x, y), metric)
        cells = {
            (float(str(each.settings[x])), float(str(each.settings[y]))): point
            for each in groups
            if (point := _point(found, each, metric))
        }
        if min(len({cell[i] for cell in cells}) for i in (0, 1)) < 2 or len(cells) < 4:
            continue
        caption = f"{label(metric)}: mean over the seeds, and standard deviation below it"
        caption += f"; at {fixed}, where the best is." if fixed else "."
        baseline = _point(found, found.baseline, metric) if found.baseline else None
        caption += f" The line in the scale is the baseline, {found.baseline.name}." if found.baseline else ""
        figure = figures.heat_map(
            cells, _key_label(found, x), _key_label(found, y), label(metric), scale(metric) != 1,
            baseline.mean if baseline else None, not higher_is_better(metric),
        )  # fmt: skip
        yield Picture(f"heat_map-{metric}-{x}-{y}", caption, figure)


def _against(found: Answer, metric: str) -> Iterator[Picture]:
    """Against each key of `--by`, or each that varies and has numbers, or without any those with words."""
    keys = found.by or [key for key in found.keys if _numeric(found, key)] or found.keys
    for key in keys[:MOST_KEYS]:
        points = {each: point for each in found.groups
                  if each.settings.get(key) is not None and (point := _point(found, each, metric))}  # fmt: skip
        lines: dict[tuple[tuple[str, Leaf], ...], list[Group]] = {}
        for each in points:
            others = tuple((other, value) for other, value in each.settings.items() if other != key)
            lines.setdefault(others, []).append(each)
        several = [others for others in lines if len(lines[others]) > 1]
        if not several:
            if _numeric(found, key) or len(points) < 2 or len(points) > 12:
                continue
            several = list(lines)
        best = found.best_first(list(points), metric)
        several.sort(key=lambda others: min(best.index(each) for each in lines[others]))
        kept = several[: figures.MOST]
        kept = [others for others in lines if others in kept]  # in the table's order
        differing = [i for i in range(len(kept[0])) if len({others[i] for others in kept}) > 1]
        drawn: dict[str, Mapping[float | str, Point]] = {}
        short = _short(found)
        for others in kept:
            name = (
                ", ".join(f"{short[others[i][0]]}={text(others[i][1])}" for i in differing if others[i][1] is not None)
                or "mean ± sd"
            )
            drawn[name] = {_place(each.settings[key]): points[each] for each in lines[others]}
        baseline = _point(found, found.baseline, metric) if found.baseline not in points and found.baseline else None
        caption = f"{label(metric)} against {key}: mean over the seeds ± one standard deviation."
        if len(several) > len(kept):
            caption += f" The {len(kept)} lines with the best points of {len(several)}."
        caption += f" Dashed, with a band: the baseline, {found.baseline.name}." if found.baseline and baseline else ""
        figure = figures.against(drawn, _key_label(found, key), label(metric), baseline)
        yield Picture(f"against-{metric}-{key}", caption, figure)


def _place(value: Leaf) -> float | str:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else text(value)


def _cost(found: Answer) -> Iterator[Picture]:
    metric = next((name for name in found.metrics if name.endswith("accuracy")), "test.accuracy")
    groups, chosen = _some(found)
    names = _names(found, groups)
    points = {names[each]: (a, b) for each in groups
              if (a := _point(found, each, "seconds")) and (b := _point(found, each, metric))}  # fmt: skip
    if len(points) < 2:
        return
    devices = sorted({str(run.result.get("device")) for each in groups for run in each.finished})
    caption = (
        f"{label(metric)} against the run's time, evaluation included, on {', '.join(devices)}: mean over the seeds "
        f"± one standard deviation.{chosen}"
    )
    yield Picture("cost", caption, figures.cost(points, "time of a run, s", label(metric)))


def _members(found: Answer) -> Iterator[Picture]:
    wanted = ("test.accuracy", "test.nll")
    drawn: dict[str, dict[str, tuple[Point, Point]]] = {}
    groups, chosen = _some(found, lambda each: _point(found, each, f"ensemble.{wanted[0]}") is not None)
    names = _names(found, groups)
    for each in groups:
        pairs = {}
        for metric in wanted:
            a, b = (_point(found, each, f"{kind}.{metric}") for kind in ("members", "ensemble"))
            if a and b:
                pairs[metric] = (a, b)
        if len(pairs) == len(wanted):
            drawn[names[each]] = pairs
    if drawn:
        caption = (
            "A run's members by themselves, and the average of their probabilities: mean over the seeds ± one standard "
            f"deviation.{chosen}"
        )
        labels = {metric: f"{label(metric)}" for metric in wanted}
        yield Picture("members_and_ensemble", caption, figures.members(drawn, labels))


def file_name(picture: Picture) -> str:
    """Without what a file system or a shell might take amiss."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in picture.name)

"""The groups of runs in a report, their means, and their comparison with a baseline."""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from distancing.errors import ReportError
from distancing.report.groups import Condition, Group, Settings, group_runs, representative, sort_groups, text
from distancing.report.metrics import column_names, higher_is_better, last_values, metric_names, result_numbers
from distancing.report.runs import STATES, Run, State, collect, versions
from distancing.report.significance import TEST, Comparison, holm, mean_sd, paired
from distancing.runs.flat import Leaf

DEFAULT_METRICS = ("test.accuracy", "test.loss")
Numbers = dict[Run, dict[str, float]]


@dataclasses.dataclass
class Overview:
    """The content of a report.

    groups: in the order of the table.
    hidden: the groups that `--best` left out.
    keys: the settings in the table; those of `by` come first.
    numbers: run → metric → value.
    compared: metric → group → its comparison with the baseline.
    damage: a line for each damaged file.
    notes: the lines below the table.
    """

    runs: list[Run]
    groups: list[Group]
    hidden: list[Group]
    keys: list[str]
    by: list[str]
    metrics: list[str]
    numbers: Numbers
    baseline: Group | None
    compared: dict[str, dict[Group, Comparison]]
    damage: list[str]
    notes: list[str]

    def mean_sd(self, group: Group, metric: str) -> tuple[float, float | None, int] | None:
        """Return the mean, the standard deviation (None for one value) and the number of values; or None."""
        values = list(group.values(self.numbers, metric).values())
        return (*mean_sd(values), len(values)) if values else None

    def is_partial(self, comparison: Comparison, group: Group, metric: str) -> bool:
        """Return True if a seed counts in the mean of the group or of the baseline, but not in their difference."""
        means = (self.mean_sd(rows, metric) for rows in (group, self.baseline) if rows)
        return any(mean[2] > comparison.n for mean in means if mean)

    def best_first(self, groups: Sequence[Group], metric: str) -> list[Group]:
        """Return the groups that have the metric, sorted by its mean."""
        means = {group: values[0] for group in groups if (values := self.mean_sd(group, metric))}
        sign = -1 if higher_is_better(metric) else 1
        return sorted(means, key=lambda group: math.inf if math.isnan(means[group]) else sign * means[group])

    @property
    def damaged(self) -> list[str]:
        """The lines of `damage`, each once: a file may have been read twice."""
        return list(dict.fromkeys(self.damage))

    @property
    def all_groups(self) -> list[Group]:
        return [*self.groups, *self.hidden]

    @property
    def states(self) -> list[State]:
        """The states, other than finished, that occur among the runs of the shown groups."""
        counts = Counter(run.state for group in self.groups for run in group.runs)
        return [state for state in STATES[1:] if counts[state]]

    def values(self, key: str) -> list[Leaf]:
        """Return the values of a setting in the shown groups, each once, in order."""
        values = {group.settings.get(key) for group in self.groups} - {None}
        return sorted(values, key=lambda value: (isinstance(value, str), value))


def summarise(
    sources: Iterable[str] | Mapping[str, str],
    metrics: Sequence[str] = (),
    by: Sequence[str] = (),
    where: Sequence[str] = (),
    best: int | None = None,
    baseline: Sequence[str] = (),
) -> Overview:
    """Return the overview of the runs in these sources, as in `collect`. The command has options of the same names.

    Raise ReportError for a source, a metric or a setting that does not exist, and if no or several groups are the
    baseline.
    """
    runs, damage = collect(sources)
    settings = Settings(runs)
    groups, duplicates = group_runs(runs, settings)
    conditions = settings.conditions(where, "--where")
    shown = _select(groups, settings, conditions)
    if not shown:
        values = {key: dict.fromkeys(text(settings.value(run, key)) for run in runs) for key, _ in conditions}
        present = "; ".join(f"{key} is {', '.join(names)[:200]}" for key, names in values.items())
        raise ReportError(f"--where {' --where '.join(where)} selects none of the {len(runs)} runs: {present}")
    reference = _baseline(groups, settings, baseline, conditions) if baseline else None
    if reference:  # `shown` may hold the same runs in another object
        shown = [reference if set(group.runs) & set(reference.runs) else group for group in shown]
        if reference not in shown:
            shown.insert(0, reference)
    for key in by:
        if key not in settings or key == "seed":
            reason = "the runs of a group differ in it" if key == "seed" else "no run has this setting"
            raise ReportError(f"--by {key}: {reason}; those that vary are {', '.join(_keys(groups)) or '–'}")
        for group in shown:
            group.settings.setdefault(key, settings.value(representative(group), key))
    numbers = {run: result_numbers(run) for run in runs}
    metrics = _metrics(metrics, numbers, damage)
    overview = Overview(
        runs=runs,
        groups=sort_groups(shown, by),
        hidden=[],
        keys=list(dict.fromkeys([*by, *_keys(shown)])),
        by=list(by),
        metrics=metrics,
        numbers=numbers,
        baseline=reference,
        compared=_compare(shown, reference, metrics, numbers),
        damage=damage,
        notes=[],
    )
    if best is not None:
        if not metrics:
            raise ReportError("--best: no run has finished yet")
        ranked = [group for group in overview.best_first(overview.groups, metrics[0]) if group is not reference]
        kept = [*([reference] if reference else []), *ranked[:best]]
        overview.hidden = [group for group in overview.groups if group not in kept]
        overview.groups = kept
    overview.notes = _notes(overview, duplicates, best)
    for group in overview.all_groups:
        group.settings = {key: group.settings.get(key) for key in overview.keys}
    return overview


def _keys(groups: Sequence[Group]) -> list[str]:
    """Return the settings in which these groups differ."""
    return [key for key in groups[0].settings if len({group.settings[key] for group in groups}) > 1] if groups else []


def _select(groups: Sequence[Group], settings: Settings, conditions: Sequence[Condition]) -> list[Group]:
    """Return the groups with only the runs that meet the conditions."""
    selected = []
    for group in groups:
        runs = [run for run in group.runs if settings.meets(run, conditions)]
        if runs:
            selected.append(group if len(runs) == len(group.runs) else Group(dict(group.settings), runs))
    return selected


def _baseline(groups: list[Group], settings: Settings, arguments: Sequence[str], where: list[Condition]) -> Group:
    """Return the one group that meets the baseline's conditions. If several do, those of `--where` are added."""
    conditions = settings.conditions(arguments, "--baseline")
    keys = {key for key, _ in conditions}
    candidates = _select(groups, settings, conditions)
    if len(candidates) > 1:
        candidates = (
            _select(candidates, settings, [(key, value) for key, value in where if key not in keys]) or candidates
        )
    if len(candidates) != 1:
        names = "; ".join(group.name for group in candidates[:5])
        raise ReportError(
            f"--baseline {' --baseline '.join(arguments)} selects {len(candidates) or 'no'} groups instead of one"
            + (f": {names}{' …' * (len(candidates) > 5)}" if candidates else "")
        )
    seeds = [(key, value) for key, value in where if key == "seed"]
    return (_select(candidates, settings, seeds) or candidates)[0]


def _metrics(names: Sequence[str], numbers: Numbers, damage: list[str]) -> list[str]:
    """Return the requested metrics, or the default ones. Read those that are columns of metrics.csv into `numbers`.

    Raise ReportError for an unknown metric.
    """
    known = metric_names(numbers)
    if not known:  # no run has finished: the table shows the states alone
        return []
    if not names:
        return [name for name in DEFAULT_METRICS if name in known] or known[:1]
    finished = [run for run, values in numbers.items() if values]
    if all(name in known for name in names):
        return list(dict.fromkeys(names))
    columns = {column for run in finished for column in column_names(run)} - {"epoch", "phase"}
    if unknown := [name for name in names if name not in known and name not in columns]:
        raise ReportError(
            f"--metric {unknown[0]}: no run has this metric; there are {', '.join([*known, *sorted(columns)])}"
        )
    for run in finished:
        numbers[run] |= last_values(run, [name for name in names if name not in known], damage)
    return list(dict.fromkeys(names))


def _compare(
    groups: Sequence[Group], baseline: Group | None, metrics: Sequence[str], numbers: Numbers
) -> dict[str, dict[Group, Comparison]]:
    """Compare every group with the baseline, also those that `--best` will hide: Holm's correction counts them all."""
    if baseline is None:
        return {}
    compared: dict[str, dict[Group, Comparison]] = {}
    for metric in metrics:
        reference = baseline.values(numbers, metric)
        comparisons = {
            group: comparison
            for group in groups
            if group is not baseline and (comparison := paired(group.values(numbers, metric), reference))
        }
        corrected = holm([comparison.p for comparison in comparisons.values()])
        compared[metric] = {
            group: dataclasses.replace(comparison, holm=p)
            for (group, comparison), p in zip(comparisons.items(), corrected, strict=True)
        }
    return compared


def _notes(overview: Overview, duplicates: int, best: int | None) -> list[str]:
    notes = ["mean ± standard deviation over n seeds; accuracies in percent"]
    if overview.baseline:
        tests = max(
            (sum(c.p is not None for c in by_group.values()) for by_group in overview.compared.values()), default=0
        )
        corrected = f"; Holm's correction for {tests} comparisons" if tests > 1 else ""
        notes.append(
            f"Δ: difference from {overview.baseline.name}; p: paired t-test by seed, two-sided ({TEST}){corrected}"
        )
        if any(
            overview.is_partial(comparison, group, metric)
            for metric, by_group in overview.compared.items()
            for group, comparison in by_group.items()
            if group in overview.groups
        ):
            notes.append("Δ with a number of pairs is the mean over these seeds alone, not the difference of the means")
    if best is not None:
        order = "highest" if higher_is_better(overview.metrics[0]) else "lowest"
        count = len(overview.groups) - (overview.baseline is not None)
        notes.append(f"the {count} groups with the {order} {overview.metrics[0]} of {len(overview.all_groups)}")
    if duplicates:
        notes.append(f"left out: {duplicates} runs with the settings and the seed of another one")
    if len(codes := versions(run for group in overview.groups for run in group.runs)) > 1:
        notes.append(f"these runs were made by {len(codes)} versions of the code")
    return notes

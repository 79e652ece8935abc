"""What the runs say together: groups, their means, and how they compare."""

import dataclasses
from collections import Counter
from collections.abc import Sequence

from distancing.errors import ReportError
from distancing.flat import Leaf
from distancing.report import metrics as of_run
from distancing.report.groups import Group, Settings, first, group, order, text
from distancing.report.runs import STATES, Run, State, collect, versions
from distancing.report.significance import TEST, Comparison, holm, mean_sd, paired

DEFAULT_METRICS = ("test.accuracy", "test.loss")
Numbers = dict[Run, dict[str, float]]


@dataclasses.dataclass
class Answer:
    """groups: in the order of the table. hidden: groups that `--best` left out. keys: the settings that the table
    shows, of which `by` come first. compared: metric → group → its comparison with the baseline.
    damage: a line for each damaged file. notes: what a reader must know.
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
        """Mean, standard deviation (None for one value), number of values; None if there is none."""
        values = list(group.values(self.numbers, metric).values())
        return (*mean_sd(values), len(values)) if values else None

    def best_first(self, groups: Sequence[Group], metric: str) -> list[Group]:
        """Those that have the metric."""
        means = {each: found[0] for each in groups if (found := self.mean_sd(each, metric))}
        return sorted(means, key=lambda each: means[each], reverse=of_run.higher_is_better(metric))

    @property
    def damaged(self) -> list[str]:
        """Each line once: a file may have been read twice."""
        return list(dict.fromkeys(self.damage))

    @property
    def all_groups(self) -> list[Group]:
        return [*self.groups, *self.hidden]

    @property
    def states(self) -> list[State]:
        """Those in which some run is, but for finished."""
        there = Counter(run.state for each in self.groups for run in each.runs)
        return [state for state in STATES[1:] if there[state]]

    def values(self, key: str, groups: Sequence[Group] | None = None) -> list[Leaf]:
        """Of a setting in these groups, each once, in order."""
        found = {each.settings.get(key) for each in (self.groups if groups is None else groups)} - {None}
        return sorted(found, key=lambda value: (isinstance(value, str), value))


def answer(
    what: Sequence[str],
    metrics: Sequence[str] = (),
    by: Sequence[str] = (),
    where: Sequence[str] = (),
    best: int | None = None,
    baseline: Sequence[str] = (),
) -> Answer:
    """The README says what each of these is for. Raises ReportError for what can't be answered."""
    runs, damage = collect(what)
    settings = Settings(runs)
    groups, repeated = group(runs, settings)
    conditions = settings.conditions(where, "--where")
    shown = _meeting(groups, settings, conditions)
    if not shown:
        there = {key: ", ".join(dict.fromkeys(text(settings.value(run, key)) for run in runs)) for key, _ in conditions}
        values = "; ".join(f"{key} is {value[:200]}" for key, value in there.items())
        raise ReportError(f"--where {' --where '.join(where)} selects none of the {len(runs)} runs: {values}")
    reference = _baseline(groups, settings, baseline, conditions) if baseline else None
    if reference and reference not in shown:
        shown.insert(0, reference)
    for key in by:
        if key not in settings or key == "seed":
            raise ReportError(f"--by {key}: no setting of these runs; what varies is {', '.join(_keys(groups)) or '–'}")
        for each in shown:
            each.settings.setdefault(key, settings.value(first(each), key))
    numbers = {run: of_run.numbers(run) for run in runs}
    metrics = _metrics(metrics, numbers, damage)
    compared = _compare(shown, reference, metrics, numbers)
    found = Answer(
        runs, order(shown, by), [], list(dict.fromkeys([*by, *_keys(shown)])), list(by), metrics, numbers, reference,
        compared, damage, [],
    )  # fmt: skip
    if best is not None:
        if not metrics:
            raise ReportError("--best: no run has finished yet")
        ranked = [each for each in found.best_first(found.groups, metrics[0]) if each is not reference][:best]
        kept = [*([reference] if reference else []), *ranked]
        found.hidden = [each for each in found.groups if each not in kept]
        found.groups = kept
    found.notes = _notes(found, repeated, best)
    for each in found.all_groups:
        each.settings = {key: each.settings.get(key) for key in found.keys}
    return found


def _keys(groups: Sequence[Group]) -> list[str]:
    """The settings in which these groups differ; of a single one, none."""
    return [key for key in groups[0].settings if len({each.settings[key] for each in groups}) > 1] if groups else []


def _meeting(groups: Sequence[Group], settings: Settings, conditions: Sequence[tuple[str, str]]) -> list[Group]:
    """The groups' runs that meet the conditions."""
    kept = [(each, [run for run in each.runs if settings.meets(run, conditions)]) for each in groups]
    return [each if len(runs) == len(each.runs) else Group(dict(each.settings), runs) for each, runs in kept if runs]


def _baseline(groups: list[Group], settings: Settings, said: Sequence[str], where: list[tuple[str, str]]) -> Group:
    """The one group that meets the baseline's conditions; if several do, `--where` decides between them."""
    conditions = settings.conditions(said, "--baseline")
    asked = {key for key, _ in conditions}
    found = _meeting(groups, settings, conditions)
    if len(found) > 1:
        found = _meeting(found, settings, [each for each in where if each[0] not in asked]) or found
    if len(found) != 1:
        which = "; ".join(each.name for each in found[:5])
        raise ReportError(
            f"--baseline {' --baseline '.join(said)} selects {len(found) or 'no'} groups instead of one"
            + (f": {which}{' …' * (len(found) > 5)}" if found else "")
        )
    seeds = [each for each in where if each[0] == "seed"]
    return _meeting(found, settings, seeds)[0] if seeds and _meeting(found, settings, seeds) else found[0]


def _metrics(asked: Sequence[str], numbers: Numbers, damage: list[str]) -> list[str]:
    """Those asked for, or the usual ones; columns of metrics.csv are read now. Raises ReportError for unknown ones."""
    known = of_run.metrics_of(numbers)
    if not known:  # nothing has finished: the table says so, without numbers
        return []
    if not asked:
        return [name for name in DEFAULT_METRICS if name in known] or known[:1]
    finished = [run for run, found in numbers.items() if found]
    columns = {column for run in finished[:: max(1, len(finished) // 20)] for column in of_run.columns(run)}
    columns -= {"epoch", "phase"}
    if wrong := [name for name in asked if name not in known and name not in columns]:
        raise ReportError(f"--metric {wrong[0]}: there are {', '.join([*known, *sorted(columns)])}")
    if from_csv := [name for name in asked if name not in known]:
        for run in finished:
            numbers[run] |= of_run.last(run, from_csv, damage)
    return list(dict.fromkeys(asked))


def _compare(
    groups: Sequence[Group], baseline: Group | None, metrics: Sequence[str], numbers: Numbers
) -> dict[str, dict[Group, Comparison]]:
    """Every group with the baseline, whether or not the table will show it: each is a chance to be lucky."""
    if baseline is None:
        return {}
    compared: dict[str, dict[Group, Comparison]] = {}
    for metric in metrics:
        reference = baseline.values(numbers, metric)
        found = {each: paired(each.values(numbers, metric), reference) for each in groups if each is not baseline}
        known = {each: comparison for each, comparison in found.items() if comparison}
        corrected = holm([comparison.p for comparison in known.values()])
        compared[metric] = {each: dataclasses.replace(comparison, holm=p)
                            for (each, comparison), p in zip(known.items(), corrected, strict=True)}  # fmt: skip
    return compared


def _notes(found: Answer, repeated: int, best: int | None) -> list[str]:
    notes = ["mean ± standard deviation over n seeds; accuracies in percent"]
    if found.baseline:
        tests = max((sum(c.p is not None for c in each.values()) for each in found.compared.values()), default=0)
        corrected = f"; p corrected after Holm for {tests} comparisons" if tests > 1 else ""
        notes.append(f"Δ: difference to {found.baseline.name}, and p: {TEST}{corrected}")
    if best is not None:
        way = "highest" if of_run.higher_is_better(found.metrics[0]) else "lowest"
        kept = len(found.groups) - (found.baseline is not None)
        notes.append(f"the {kept} groups with the {way} {found.metrics[0]} of {len(found.all_groups)}")
    if repeated:
        notes.append(f"left out: {repeated} runs with the settings and the seed of another one")
    if len(codes := versions(run for each in found.groups for run in each.runs)) > 1:
        notes.append(f"these runs were made by {len(codes)} versions of the code")
    return notes

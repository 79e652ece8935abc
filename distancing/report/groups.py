"""Group the runs that differ in their seeds alone, and find the settings in which the groups differ."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distancing.errors import ReportError
from distancing.report.runs import Run, State
from distancing.runs.flat import NOT_HASHED, Leaf

BAG = "dataset.bootstrap_seed"
IGNORED = ("seed", "sweep", *NOT_HASHED)
Condition = tuple[str, str]  # a setting, and the value it must have, or several separated by commas


@dataclass(eq=False)
class Group:
    """Runs that differ in their seeds alone.

    settings: the settings in which the groups differ.
    runs: one for each seed.
    """

    settings: dict[str, Leaf]
    runs: list[Run]

    @property
    def states(self) -> Counter[State]:
        return Counter(run.state for run in self.runs)

    @property
    def finished(self) -> list[Run]:
        return [run for run in self.runs if run.state == "finished"]

    @property
    def name(self) -> str:
        settings = [f"{key}={text(value)}" for key, value in self.settings.items() if value is not None]
        return ", ".join(settings) or "all runs"

    def values(self, numbers: Mapping[Run, Mapping[str, float]], metric: str) -> dict[int | None, float]:
        """Return seed → the metric's value, for the runs that have one."""
        return {run.seed: numbers[run][metric] for run in self.runs if metric in numbers.get(run, {})}


def text(value: Leaf) -> str:
    """Return a setting's value as one would type it, or – if the run has no such setting."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


class Settings:
    """The settings of each run as a user would type them: `penalty=gaussian` instead of the class that it selects."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.typed = list(dict.fromkeys(key for run in runs for key in run.typed if is_compared(key)))
        self.resolved = list(dict.fromkeys(key for run in runs for key in run.config if is_compared(key)))
        parents = {key.rsplit(".", i)[0] for key in self.resolved for i in range(1, key.count(".") + 1)}
        self._choices = {key for key in self.typed if key in parents or key not in self.resolved}
        self.not_resolved = self._choices - parents  # such as `experiment`, which only chooses other settings
        # The option of a choice that gave these resolved settings, for runs that took it by default.
        options: dict[tuple[str, frozenset[Any]], set[str]] = defaultdict(set)
        for run in runs:
            for key in self._choices & set(run.typed):
                options[key, self._below(run, key)].add(run.typed[key])
        self._option = {settings: names.pop() for settings, names in options.items() if len(names) == 1 and settings[1]}

    def _below(self, run: Run, key: str) -> frozenset[Any]:
        """Return the resolved settings that the choice `key` determines: those below it that were not typed."""
        typed = set(self.typed) - {key}
        below = {name: value for name, value in run.config.items() if name == key or name.startswith(f"{key}.")}
        return frozenset((name, value) for name, value in below.items() if name not in typed)

    def __contains__(self, key: str) -> bool:
        return key == "seed" or key in self.typed or key in self.resolved

    def value(self, run: Run, key: str) -> Leaf:
        """Return the value of a run's setting; None if the run has no such setting."""
        if key == "seed":
            return run.seed
        if key not in self._choices and key in run.config:
            return run.config[key]
        if key in run.typed:
            return run.typed[key] if key in self._choices else _parsed(run.typed[key])
        if below := self._below(run, key) if key in self._choices else frozenset():
            return self._option.get((key, below), "default")
        return None

    def meets(self, run: Run, conditions: Iterable[Condition]) -> bool:
        return all(_matches(self.value(run, key), wanted) for key, wanted in conditions)

    def conditions(self, arguments: Iterable[str], flag: str) -> list[Condition]:
        """Return the conditions that a flag's arguments state.

        Raise ReportError for an argument that is not KEY=VALUE, and for a setting that no run has.
        """
        conditions = []
        for argument in arguments:
            key, equals, value = argument.partition("=")
            if not equals:
                raise ReportError(f"{flag} {argument}: expected KEY=VALUE, for example penalty.sigma=0.3")
            if key not in self:
                names = ", ".join(self.typed) or "–"
                raise ReportError(f"{flag} {argument}: no run has a setting {key}; the settings typed are {names}")
            conditions.append((key, value))
        return conditions


def _parsed(value: str) -> Leaf:
    for parse in (int, float):
        try:
            return parse(value)
        except ValueError:
            continue
    return {"true": True, "false": False, "null": None}.get(value.lower(), value)


def _matches(value: Leaf, wanted: str) -> bool:
    """Return True if a setting has the wanted value, as typed, or one of several separated by commas."""
    if "," in wanted and text(value) != wanted:
        return any(_matches(value, option) for option in wanted.split(","))
    parsed = _parsed(wanted.strip())
    if value is None:
        return parsed is None or wanted in ("none", "–")
    return (value == parsed and isinstance(value, bool) == isinstance(parsed, bool)) or text(value) == wanted


def group_runs(runs: Sequence[Run], settings: Settings) -> tuple[list[Group], int]:
    """Return the groups, in the order of their first runs, and the number of duplicates left out.

    A duplicate has the settings and the seed of another run. A finished run is kept rather than another.
    """
    runs_by_settings: dict[Any, list[Run]] = defaultdict(list)
    resolved: dict[Any, Any] = {}  # typed settings → resolved ones, for runs that have no config yet
    for run in runs:
        if run.config:
            resolved.setdefault(_typed(run), _resolved(run))
    for run in runs:
        runs_by_settings[_resolved(run) if run.config else resolved.get(_typed(run), _typed(run))].append(run)
    groups, duplicates = [], 0
    for same_settings in runs_by_settings.values():
        for part in _split_by_bag(same_settings):
            runs_by_seed: dict[int | None, Run] = {}
            for run in part:
                other = runs_by_seed.get(run.seed)
                duplicates += other is not None
                if other is None or (other.state != "finished" and run.state == "finished"):
                    runs_by_seed[run.seed] = run
            groups.append(Group({}, list(runs_by_seed.values())))
    for key in distinguishing_keys(groups, settings):
        for group in groups:
            group.settings[key] = settings.value(representative(group), key)
    return groups, duplicates


def is_compared(key: str) -> bool:
    """Return True for a setting other than the seed that can change a run's numbers."""
    return key not in IGNORED and key.partition(".")[0] not in IGNORED


def representative(group: Group) -> Run:
    """Return the group's first run with a config, or else its first run."""
    return next((run for run in group.runs if run.config), group.runs[0])


def _resolved(run: Run) -> Any:
    settings = {key: value for key, value in run.config.items() if is_compared(key) and key != BAG}
    return frozenset(settings.items()), tuple(key for key in settings if key.startswith("phases."))  # order matters


def _typed(run: Run) -> Any:
    return frozenset((key, value) for key, value in run.typed.items() if is_compared(key) and key != BAG)


def _split_by_bag(runs: Sequence[Run]) -> Iterator[list[Run]]:
    """Split runs by the seed of their bootstrap sample, the bag. Runs whose bags follow their seeds stay together."""
    default = next((run.config.get(BAG) for run in runs if run.config), None)
    parts: dict[Leaf, list[Run]] = defaultdict(list)
    for run in runs:  # a run that has not begun has typed settings only
        parts[run.config.get(BAG) if run.config else run.seed if BAG in run.typed else default].append(run)
    own = [run for bag, part in parts.items() for run in part if bag is not None and bag == run.seed]
    follow = len({run.seed for run in own}) > 1
    if follow:
        yield own
    for part in parts.values():
        if rest := [run for run in part if run not in own] if follow else part:
            yield rest


def distinguishing_keys(groups: Sequence[Group], settings: Settings) -> list[str]:
    """Return the typed settings that vary, and as many others as it takes to tell the groups apart."""
    runs = [representative(group) for group in groups]
    keys: list[str] = []
    rows: list[tuple[Any, ...]] = [()] * len(runs)  # the values of `keys` in each group
    for key in (*sorted(settings.typed, key=settings.not_resolved.__contains__), *settings.resolved):
        if key in keys or (len(set(rows)) == len(runs) and key not in settings.typed):
            continue
        values = [settings.value(run, key) for run in runs]
        longer_rows = [(*row, value) for row, value in zip(rows, values, strict=True)]
        varies = key in settings.typed and key != BAG and len(set(values) - {None}) > 1
        if varies or len(set(longer_rows)) > len(set(rows)):
            keys.append(key)
            rows = longer_rows
    return keys


def sort_groups(groups: Sequence[Group], by: Sequence[str]) -> list[Group]:
    """Sort by the settings `by`, then by the others.

    Missing values come first, then numbers, then words in the order of their first use (resnet8 before resnet14).
    """
    keys = list(dict.fromkeys([*by, *(key for group in groups for key in group.settings)]))
    values = {key: list(dict.fromkeys(group.settings.get(key) for group in groups)) for key in keys}

    def ranks(group: Group) -> list[tuple[int, float]]:
        return [_rank(group.settings.get(key), values[key]) for key in keys]

    return sorted(groups, key=ranks)


def _rank(value: Leaf, values: Sequence[Leaf]) -> tuple[int, float]:
    if value is None:
        return 0, 0
    return (2, values.index(value)) if isinstance(value, str) else (1, float(value))

"""Runs that differ in nothing but the seed are one group; and which settings tell the groups apart."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distancing.errors import ReportError
from distancing.flat import NOT_HASHED, Leaf
from distancing.report.runs import Run, State

BAG = "dataset.bootstrap_seed"
NO_SETTINGS = ("seed", "sweep", *NOT_HASHED)
Condition = tuple[str, str]  # setting, and the value or values that it may have


@dataclass(eq=False)
class Group:
    """settings: what tells it from the others. runs: one for each seed."""

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
        said = [f"{key}={text(value)}" for key, value in self.settings.items() if value is not None]
        return ", ".join(said) or "all runs"

    def values(self, numbers: Mapping[Run, Mapping[str, float]], metric: str) -> dict[int | None, float]:
        """Seed → value, of the runs that have one."""
        return {run.seed: numbers[run][metric] for run in self.runs if metric in numbers.get(run, {})}


def text(value: Leaf) -> str:
    """As it would be typed; a setting that isn't there is –."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


class Settings:
    """What each run's settings are, as one would type them: `penalty=gaussian` rather than the classes behind it."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.typed = list(dict.fromkeys(key for run in runs for key in run.typed if counts(key)))
        self.resolved = list(dict.fromkeys(key for run in runs for key in run.config if counts(key)))
        parents = {key.rsplit(".", i)[0] for key in self.resolved for i in range(1, key.count(".") + 1)}
        self._choices = {key for key in self.typed if key in parents or key not in self.resolved}
        # the choice behind resolved settings, for runs in which it is the default and nobody typed it
        behind: dict[tuple[str, frozenset[Any]], set[str]] = defaultdict(set)
        for run in runs:
            for key in self._choices & set(run.typed):
                behind[key, self._below(run, key)].add(run.typed[key])
        self._behind = {what: names.pop() for what, names in behind.items() if len(names) == 1 and what[1]}

    def _below(self, run: Run, key: str) -> frozenset[Any]:
        typed = set(self.typed) - {key}
        return frozenset((k, v) for k, v in run.config.items()
                         if (k == key or k.startswith(f"{key}.")) and k not in typed)  # fmt: skip

    def __contains__(self, key: str) -> bool:
        return key == "seed" or key in self.typed or key in self.resolved

    def value(self, run: Run, key: str) -> Leaf:
        """None where the run has no such setting."""
        if key == "seed":
            return run.seed
        if key not in self._choices and key in run.config:
            return run.config[key]
        if key in run.typed:
            return run.typed[key] if key in self._choices else _parsed(run.typed[key])
        if below := self._below(run, key) if key in self._choices else frozenset():
            return self._behind.get((key, below), "default")
        return None

    def meets(self, run: Run, conditions: Iterable[Condition]) -> bool:
        return all(_is(self.value(run, key), wanted) for key, wanted in conditions)

    def conditions(self, said: Iterable[str], flag: str) -> list[Condition]:
        """Raises ReportError for what is no KEY=VALUE, or of a setting that no run has."""
        found = []
        for each in said:
            key, equals, value = each.partition("=")
            if not equals:
                raise ReportError(f"{flag} {each}: KEY=VALUE belongs here, penalty.sigma=0.3 say")
            if key not in self:
                raise ReportError(
                    f"{flag} {each}: no run has a setting {key}; typed were {', '.join(self.typed) or '–'}"
                )
            found.append((key, value))
        return found


def _parsed(value: str) -> Leaf:
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return {"true": True, "false": False, "null": None}.get(value.lower(), value)


def _is(value: Leaf, wanted: str) -> bool:
    """wanted: a value as typed, or several with commas between them."""
    if "," in wanted and text(value) != wanted:
        return any(_is(value, each) for each in wanted.split(","))
    asked = _parsed(wanted.strip())
    if value is None:
        return asked is None or wanted in ("none", "–")
    return (value == asked and isinstance(value, bool) == isinstance(asked, bool)) or text(value) == wanted


def group(runs: Sequence[Run], settings: Settings) -> tuple[list[Group], int]:
    """The groups, in the order of their first runs; and how many runs are left out since another one has the same
    settings and the same seed. Of those, one that has ended is kept."""
    alike: dict[Any, list[Run]] = defaultdict(list)
    named: dict[Any, Any] = {}  # what was typed → the resolved settings, for runs that have none yet
    for run in runs:
        if run.config:
            named.setdefault(_typed(run), _resolved(run))
    for run in runs:
        alike[_resolved(run) if run.config else named.get(_typed(run), _typed(run))].append(run)
    found, repeated = [], 0
    for runs_of_one in alike.values():
        for part in _bags(runs_of_one):
            of_seed: dict[int | None, Run] = {}
            for run in part:
                before = of_seed.get(run.seed)
                repeated += before is not None
                if before is None or (before.state != "finished" and run.state == "finished"):
                    of_seed[run.seed] = run
            found.append(Group({}, list(of_seed.values())))
    for key in keys(found, settings):
        for each in found:
            each.settings[key] = settings.value(first(each), key)
    return found, repeated


def counts(key: str) -> bool:
    """Is it a setting that can change a run's numbers, other than its seed?"""
    return key not in NO_SETTINGS and key.partition(".")[0] not in NO_SETTINGS


def first(group: Group) -> Run:
    return next((run for run in group.runs if run.config), group.runs[0])


def _resolved(run: Run) -> Any:
    kept = {key: value for key, value in run.config.items() if counts(key) and key != BAG}
    return frozenset(kept.items()), tuple(key for key in kept if key.startswith("phases."))  # their order matters


def _typed(run: Run) -> Any:
    return frozenset((key, value) for key, value in run.typed.items() if counts(key) and key != BAG)


def _bags(runs: Sequence[Run]) -> Iterator[list[Run]]:
    """Runs on bags that follow their seeds are alike; runs on one bag or another are not."""
    usual = next((run.config.get(BAG) for run in runs if run.config), None)
    parts: dict[Leaf, list[Run]] = defaultdict(list)
    for run in runs:  # one that hasn't begun has only what was typed
        parts[run.config.get(BAG) if run.config else run.seed if BAG in run.typed else usual].append(run)
    own = [run for bag, part in parts.items() for run in part if bag is not None and bag == run.seed]
    follow = len({run.seed for run in own}) > 1
    if follow:
        yield own
    for part in parts.values():
        if rest := [run for run in part if run not in own] if follow else part:
            yield rest


def keys(groups: Sequence[Group], settings: Settings) -> list[str]:
    """The settings that vary: those that were typed, and as many others as are needed to tell the groups apart."""
    runs = [first(each) for each in groups]
    found: list[str] = []
    told: list[tuple[Any, ...]] = [()] * len(runs)
    for key in (*settings.typed, *settings.resolved):
        if key in found or (len(set(told)) == len(runs) and key not in settings.typed):
            continue
        values = [settings.value(run, key) for run in runs]
        more = [(*before, value) for before, value in zip(told, values, strict=True)]
        varies = key in settings.typed and key != BAG and len(set(values) - {None}) > 1
        if varies or len(set(more)) > len(set(told)):
            found.append(key)
            told = more
    return found


def order(groups: Sequence[Group], by: Sequence[str]) -> list[Group]:
    """Sorted by these settings, then by the others: what isn't there first, then numbers, then words as they first came
    (resnet8 before resnet14)."""
    keys = list(dict.fromkeys([*by, *(key for each in groups for key in each.settings)]))
    came = {key: list(dict.fromkeys(each.settings.get(key) for each in groups)) for key in keys}

    def place(group: Group) -> list[tuple[int, float]]:
        return [_rank(group.settings.get(key), came[key]) for key in keys]

    return sorted(groups, key=place)


def _rank(value: Leaf, came: Sequence[Leaf]) -> tuple[int, float]:
    if value is None:
        return 0, 0
    return (2, came.index(value)) if isinstance(value, str) else (1, float(value))

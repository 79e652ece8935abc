"""Which runs a sweep has: from its settings to the overrides of each run."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.types import Override, Transformer

from distancing.component import component
from distancing.errors import SweepError

Parse = Callable[[list[str]], list[Override]]
Choice = tuple[str, Any]  # an override as it is typed, and its value


@component
class Grid:
    """params: the runs are the product of these settings' values, and
    cases: of each of these sets of settings in turn, which are joined with `params` and stand above them:
        values that belong together (zipped), or a part with a product of its own. None: `params` alone.
    exclude: runs that have all the settings of one of these sets are left out.

    A setting's value is a list of values, or what Hydra's own sweeper understands: `1,2`, `range(3)`.
    """

    params: dict[str, Any]
    cases: dict[str, dict[str, Any]]
    exclude: dict[str, dict[str, Any]]

    def expand(self, typed: Sequence[str], parse: Parse) -> list[list[str]]:
        """The overrides of each run, every run once, case by case.

        typed: the command line's overrides. One of a setting that the sweep names replaces it wherever it is
        named; the others are for all runs. Raises SweepError if no run is left, or if a set in `exclude` has a
        setting that no run has.
        """
        on_top = {override.key_or_group: override.input_line or "" for override in parse(list(typed))}
        cases = [{**self.params, **case} for case in self.cases.values()] or [self.params]
        cases = [{key.lstrip("+~"): _typed(key, value) for key, value in case.items()} for case in cases]
        named = {key for case in cases for key in case}
        everywhere = {key: text for key, text in on_top.items() if key not in named}
        for name, settings in self.exclude.items():
            if unknown := [key for key in settings if key not in named | set(on_top)]:
                raise SweepError(f"hydra.sweeper.exclude.{name}: {unknown[0]} is not a setting of this sweep")
        left_out = [dict(_choices(parse([_typed(key, value) for key, value in settings.items()])))
                    for settings in self.exclude.values()]  # fmt: skip

        runs: dict[tuple[str, ...], None] = {}
        for case in cases:
            chosen = {key: on_top.get(key, text) for key, text in case.items()}
            choices = dict(_choices(parse([*everywhere.values(), *chosen.values()])))
            for run in itertools.product(*choices.values()):
                values = {key: value for key, (_, value) in zip(choices, run, strict=True)}
                if not any(_has(values, settings) for settings in left_out):
                    runs[tuple(text for text, _ in run)] = None
        if not runs:
            raise SweepError("hydra.sweeper.exclude leaves no run of the sweep")
        return [list(run) for run in runs]


def _typed(key: str, value: Any) -> str:
    """key=value as one would type it."""
    return f"{key}={','.join(map(_text, value)) if isinstance(value, list) else _text(value)}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else Transformer.str(value)


def _choices(overrides: Sequence[Override]) -> Iterator[tuple[str, list[Choice]]]:
    """The setting that each override is of, and the values that it takes. Raises SweepError for a range of reals."""
    for override in overrides:
        if not override.is_sweep_override():
            yield override.key_or_group, [(override.input_line or "", override.value())]
        elif override.is_discrete_sweep():
            values, key = override.sweep_iterator(transformer=Transformer.identity), override.get_key_element()
            yield override.key_or_group, [(f"{key}={Transformer.str(value)}", value) for value in values]
        else:
            raise SweepError(f"{override.input_line}: only an optimising sweeper can choose from an interval")


def _has(values: Mapping[str, Any], settings: Mapping[str, list[Choice]]) -> bool:
    return all(key in values and values[key] in [v for _, v in allowed] for key, allowed in settings.items())

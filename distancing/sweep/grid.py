"""Expand the settings of a sweep to the overrides of each run."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.types import Glob, Override, Transformer

from distancing.component import component
from distancing.errors import SweepError

Parse = Callable[[list[str]], list[Override]]
Choice = tuple[str, Any]  # an override as typed, and its value


@component
class Grid:
    """The settings of a sweep.

    params: values of each setting; the runs are their product.
    cases: named sets of settings. Each set overrides `params` and has a product of its own. If empty, `params` is used
        alone.
    exclude: named sets of settings. Runs that match every setting of one of these sets are dropped.

    A value is a list of values, or what Hydra's own sweeper understands: `1,2`, `range(3)`.
    """

    params: dict[str, Any]
    cases: dict[str, dict[str, Any]]
    exclude: dict[str, dict[str, Any]]

    def expand(self, typed: Sequence[str], parse: Parse) -> list[list[str]]:
        """Return the overrides of each run, without duplicates, in the order of the cases.

        typed: the overrides of the command line. They replace the sweep's values of the same settings, and hold for
        all runs. Raise SweepError if no run is left, or if a set in `exclude` has a setting that no run has.
        """
        from_command_line = {override.key_or_group: override.input_line or "" for override in parse(list(typed))}
        cases = [{**self.params, **case} for case in self.cases.values()] or [self.params]
        cases = [{key.lstrip("+~"): _typed(key, value) for key, value in case.items()} for case in cases]
        named = {key for case in cases for key in case}
        common = {key: text for key, text in from_command_line.items() if key not in named}
        for name, settings in self.exclude.items():
            if unknown := [key for key in settings if key not in named | set(from_command_line)]:
                raise SweepError(f"hydra.sweeper.exclude.{name}: {unknown[0]} is not a setting of this sweep")
        excluded = [
            dict(_choices(parse([_typed(key, value) for key, value in settings.items()])))
            for settings in self.exclude.values()
        ]

        runs: dict[tuple[str, ...], None] = {}
        for case in cases:
            chosen = {key: from_command_line.get(key, text) for key, text in case.items()}
            choices = dict(_choices(parse([*common.values(), *chosen.values()])))
            for run in itertools.product(*choices.values()):
                values = {key: value for key, (_, value) in zip(choices, run, strict=True)}
                if not any(_matches(values, settings) for settings in excluded):
                    runs[tuple(text for text, _ in run)] = None
        if not runs:
            raise SweepError("hydra.sweeper.exclude leaves no run of the sweep")
        return [list(run) for run in runs]

    def replaced(self, typed: Sequence[str], parse: Parse) -> list[str]:
        """Return a line for each override of the command line that replaces a case's own value.

        Such a value may be what makes the case comparable, such as fewer epochs for each of several networks.
        """
        lines = []
        for override in parse(list(typed)):
            key = override.key_or_group
            cases = [name for name, case in self.cases.items() if key in {setting.lstrip("+~") for setting in case}]
            if cases:
                lines.append(f"{override.input_line} replaces {key} of {', '.join(cases)}")
        return lines


def _typed(key: str, value: Any) -> str:
    """Return key=value as one would type it."""
    return f"{key}={','.join(map(_text, value)) if isinstance(value, list) else _text(value)}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else Transformer.str(value)


def _choices(overrides: Sequence[Override]) -> Iterator[tuple[str, list[Choice]]]:
    """Yield the setting of each override and its values.

    Raise SweepError for an interval of real numbers, and if there is no value.
    """
    for override in overrides:
        if not override.is_sweep_override():
            yield override.key_or_group, [(override.input_line or "", override.value())]
        elif override.is_discrete_sweep():
            values, key = list(override.sweep_iterator(transformer=Transformer.identity)), override.get_key_element()
            if not values:
                raise SweepError(f"{override.input_line} has no value{_of_glob(override)}")
            choices = [(f"{key}={Transformer.str(value)}", Override._convert_value(value)) for value in values]
            yield override.key_or_group, choices
        else:
            raise SweepError(f"{override.input_line}: only an optimising sweeper can choose from an interval")


def _of_glob(override: Override) -> str:
    """Return what a glob has chosen from; "" for other sweeps."""
    if not isinstance(override.value(), Glob) or override.config_loader is None:
        return ""
    options = override.config_loader.get_group_options(override.key_or_group)
    return f": {override.key_or_group} has {', '.join(options) or 'no choices, and a glob is for those'}"


def _matches(values: Mapping[str, Any], settings: Mapping[str, list[Choice]]) -> bool:
    """Return True if the run with these values matches every one of the settings."""
    return all(key in values and values[key] in [v for _, v in allowed] for key, allowed in settings.items())

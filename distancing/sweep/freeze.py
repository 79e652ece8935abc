"""Compose, check and resolve the config of every run of a sweep before the first run starts."""

import contextlib
import copy
import functools
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml
from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.progress import Progress

from distancing.config.checks import check_new, check_resolved, resolved, settings_at
from distancing.config.composition import check_composed, check_phases, composition_error
from distancing.errors import ConfigError
from distancing.runs import Listed
from distancing.runs.flat import NOT_HASHED, Leaf, flat
from distancing.training.settings import Config

T = TypeVar("T")
PATIENCE = 2.0  # seconds without a sign of progress


@dataclass(frozen=True, eq=False)
class Frozen:
    """A run that may start. config: its checked settings. overrides: as typed. tree: its resolved config."""

    config: Config
    overrides: Sequence[str]
    tree: dict[str, Any]

    @property
    def texts(self) -> tuple[str, str]:
        """The resolved config and the overrides, as YAML."""
        return to_yaml(self.tree), to_yaml(list(self.overrides))

    @property
    def directory(self) -> Path:
        return Path(self.config.directory)

    @property
    def flat(self) -> dict[str, Leaf]:
        """The settings of the resolved config by their dotted names."""
        return flat(self.tree)

    @property
    def listed(self) -> Listed:
        return Listed(self.directory, tuple(self.overrides), self.config.epochs)


class _Dumper(yaml.CSafeDumper):
    """Write no aliases, and quote text that YAML 1.1 takes for text but OmegaConf for a number, such as 1e-3."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
        return True

    def represent_str(self, text: str) -> yaml.Node:
        return self.represent_scalar("tag:yaml.org,2002:str", text, style="'" if text[:1] in "0123456789+-." else None)


_Dumper.add_representer(str, _Dumper.represent_str)


def to_yaml(content: dict[str, Any] | list[str]) -> str:
    """Return plain content as YAML, twenty times as fast as `OmegaConf.to_yaml`."""
    text: str = yaml.dump(content, Dumper=_Dumper, allow_unicode=True, sort_keys=False)
    return text


def freeze(loader: ConfigLoader, master: DictConfig, jobs: Sequence[Sequence[str]]) -> list[Frozen]:
    """Return the run of the sweep `master` for each of the jobs, which are overrides. Equal runs are one object.

    Print which settings do not apply to which runs (see `applicable`) or make no run of their own, and the progress if
    it takes long. Raise ConfigError for the first run whose config is wrong, so that none starts.
    """
    frozen: dict[str, Frozen] = {}  # by directory
    runs: dict[Sequence[str], Frozen] = {}
    apart: dict[str, None] = {}
    before, composer = HydraConfig.instance().cfg, Composer(loader, master)
    try:
        jobs, notes = applicable(composer, jobs)
        for note in notes:
            print(note, flush=True)
        for overrides in _tracked(list(dict.fromkeys(jobs)), "checking"):
            with composer.explained(overrides):
                tree = resolved(composer.compose(overrides))
                config = check_resolved(tree)
                check_new(config, overrides)
            tree["overwrite"] = False  # only at the start of the sweep, not whenever a job starts
            new = Frozen(config, overrides, tree)
            runs[overrides] = known = frozen.setdefault(config.directory, new)
            if known is not new:
                differing = {key for key, _ in known.flat.items() ^ new.flat.items()}
                apart |= {name: None for name in NOT_HASHED for key in differing if f"{key}.".startswith(f"{name}.")}
    finally:
        HydraConfig.instance().cfg = before
    for key in apart:
        print(f"{key} makes no run of its own: runs that differ in it alone are one, with the first value", flush=True)
    return [runs[overrides] for overrides in jobs]


def applicable(composer: "Composer", jobs: Sequence[Sequence[str]]) -> tuple[list[Sequence[str]], list[str]]:
    """Return each run without the settings that it does not have; and for the user, which these were.

    Such a setting must be one of another run of the sweep, which makes another choice. A setting that no run has stays
    where it is, to be refused.
    """
    absent: list[dict[str, str]] = []  # for each job: override → setting
    known: set[str] = set()
    for overrides in _tracked(jobs, "composing"):
        with composer.explained(overrides):
            settings = composer.plain(overrides)
            absent.append({text: key for text, key in settings.items() if not composer.has(overrides, key)})
        known |= set(settings.values()) - set(absent[-1].values())
    runs: list[Sequence[str]] = []  # tuples
    dropped: dict[str, dict[str, None]] = defaultdict(dict)  # choice → settings
    affected: dict[str, list[tuple[str, ...]]] = defaultdict(list)  # choice → runs
    for overrides, missing in zip(jobs, absent, strict=True):
        run = tuple(text for text in overrides if missing.get(text) not in known)
        runs.append(run)
        keys = [key for key in missing.values() if key in known]
        for choice in dict.fromkeys(composer.choice(overrides, key) for key in keys):
            dropped[choice] |= {key: None for key in keys if composer.choice(overrides, key) == choice}
            affected[choice].append(run)
    notes = []
    for choice, settings_dropped in dropped.items():
        before, after = len(affected[choice]), len(set(affected[choice]))
        instead = f": {after} runs instead of {before}" if after < before else ""
        does = "do" if len(settings_dropped) > 1 else "does"
        notes.append(f"{' and '.join(settings_dropped)} {does} not apply to {choice}{instead}")
    return runs, notes


class _Structure(NamedTuple):
    """A composition without the plain values. hydra: as in HydraConfig. cfg: without it. tree: `cfg`, unresolved."""

    hydra: Any
    cfg: DictConfig
    tree: Any


class Composer:
    """Compose the configs of a sweep's runs from their overrides, as Hydra does.

    Hydra takes 0.07 s for one config. Runs that differ in plain values only share a composition, and their values are
    set as Hydra would set them.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self._loader, self._master = loader, master
        self.options = functools.cache(loader.get_group_options)
        self._parse = OverridesParser.create(config_loader=loader).parse_overrides
        self._parsed = functools.cache(self._parse_one)
        self._composed = functools.cache(self._compose)
        self._has = functools.cache(self._has_setting)
        self._copies: dict[tuple[tuple[str, ...], tuple[str, ...]], DictConfig] = {}

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """Return the config of a run, which a later call may change. Set HydraConfig, for `${hydra:…}`.

        Raise HydraException for an override that OmegaConf refuses, ConfigError for a phase that does not exist.
        """
        structural = self._structural(overrides)
        structure = self._composed(structural)
        HydraConfig.instance().cfg = structure.hydra
        plain = {text: override for text in overrides for override, is_plain in [self._parsed(text)] if is_plain}
        check_phases(list(plain), structure.tree.get("phases"), structure.hydra.hydra.runtime.choices.get("phases"))
        # runs with values of the same settings share a copy, unless values are merged with earlier ones
        shared = structural, tuple(override.key_or_group for override in plain.values())
        run = self._copies.pop(shared, None) or copy.deepcopy(structure.cfg)
        for text, override in plain.items():
            try:
                OmegaConf.update(run, override.key_or_group, override.value(), merge=True)
            except OmegaConfBaseException as error:
                raise HydraException(f"Could not override with {text}.") from error
        if not any(isinstance(override.value(), (dict, list)) for override in plain.values()):
            self._copies[shared] = run
        return run

    def plain(self, overrides: Sequence[str]) -> dict[str, str]:
        """Return the overrides that set plain values, and their settings."""
        parsed = {text: self._parsed(text) for text in overrides}
        return {text: override.key_or_group for text, (override, plain) in parsed.items() if plain}

    def has(self, overrides: Sequence[str], key: str) -> bool:
        """Return True if a run with these overrides has this setting."""
        return self._has(self._structural(overrides), key)

    def choice(self, overrides: Sequence[str], key: str) -> str:
        """Return the override that chooses the group of this setting, or all that choose any."""
        structural = self._structural(overrides)
        group = key.partition(".")[0]
        own = [text for text in structural if self._parsed(text)[0].key_or_group == group]
        return " ".join(own or structural)

    @contextlib.contextmanager
    def explained(self, overrides: Sequence[str]) -> Iterator[None]:
        """Raise ConfigError, which names the run, for what is wrong with its config."""
        try:
            yield
        except ConfigError as error:
            raise ConfigError(f"{error}; in the run {' '.join(overrides)}") from None
        except Exception as error:
            reason = composition_error(error, overrides, self.options)
            raise ConfigError(f"{reason}; in the run {' '.join(overrides)}") from error

    def _parse_one(self, text: str) -> tuple[Override, bool]:
        """Return an override, and whether it sets a plain value, without any change of the structure."""
        (override,) = self._parse([text])
        changes_structure = override.is_add() or override.is_delete() or override.is_force_add()
        return override, not changes_structure and not self.options(override.key_or_group)

    def _structural(self, overrides: Sequence[str]) -> tuple[str, ...]:
        return tuple(text for text in overrides if not self._parsed(text)[1])

    def _compose(self, structural: tuple[str, ...]) -> _Structure:
        cfg = self._loader.load_sweep_config(self._master, list(structural))
        HydraConfig.instance().set_config(cfg)
        without_hydra = copy.deepcopy(cfg)
        with open_dict(without_hydra):
            del without_hydra["hydra"]
        check_composed(without_hydra, cfg.hydra)
        return _Structure(HydraConfig.instance().cfg, without_hydra, OmegaConf.to_container(without_hydra))

    def _has_setting(self, structural: tuple[str, ...], key: str) -> bool:
        *parents, name = key.split(".")
        node = self._composed(structural).tree
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        return isinstance(node, dict) and (name in node or name in settings_at(parents, node))


def _tracked(runs: Sequence[T], title: str) -> Iterator[T]:
    """Yield the runs. Once that has taken PATIENCE seconds, show in a terminal how far it is."""
    console, start = Console(stderr=True), time.monotonic()
    with Progress(console=console, transient=True, disable=True) as bar:
        task = bar.add_task(title, total=len(runs))
        for done, run in enumerate(runs):
            if console.is_terminal and bar.disable and time.monotonic() > start + PATIENCE:
                bar.disable = False
                bar.start()
            bar.update(task, completed=done)
            yield run

"""Refuse, in one line, what Hydra cannot compose, and what it would compose and then ignore.

Importing this module does not import torch, so that `train.py --help` is fast.
"""

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from distancing.errors import ConfigError

Options = Callable[[str], Sequence[str]]  # a config group → its choices

# Hydra refuses a key that is in no YAML, with a message about structs. Within these groups it accepts any key, so that
# `config.check` can list the allowed ones, and a phase can get settings that its YAML does not mention.
GROUPS = ("dataset", "model", "optimizer", "scheduler", "penalty", "phases", "analysis")
OPEN = (*GROUPS, "evaluate")
ConfigStore.instance().store(
    name="open_groups", node=DictConfig({group: DictConfig({}, flags={"struct": False}) for group in OPEN})
)
# Hydra copies the store, which has one instance and never changes, for each group that it looks up: 0.5 s of --help
ConfigStore.__deepcopy__ = lambda store, _: store  # type: ignore[attr-defined]

LISTS = ("analysis",)  # the groups of which a run may have several choices
CHOICES = (*GROUPS, "speed", "experiment", "sweep")
OF_SWEEPS = ("hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweeper", "hydra.sweep.dir")
OF_HYDRA = ("hydra.mode", "hydra.verbose", "hydra.searchpath", "hydra/callbacks",
            "hydra.callbacks", "hydra/help", "hydra.help", "hydra/hydra_help",
            "hydra.hydra_help", "hydra/job_logging", "hydra.job_logging", "hydra/hydra_logging",
            "hydra.hydra_logging")  # fmt: skip
# settings of Hydra that have no effect on a run or a sweep, or only with some launchers, and the values they must have
NOT_HERE: dict[str, object] = {
    "hydra.run.dir": ".",
    "hydra.sweep.subdir": ".",
    "hydra.output_subdir": None,
    "hydra.job.chdir": None,
    "hydra.job.env_set": {},
    "hydra.job.env_copy": [],
}
INSTEAD = {
    "hydra.run.dir": "runs= is the folder of runs",
    "hydra.sweep.subdir": "runs= is the folder of runs",
    "hydra.output_subdir": "a run keeps its config in .hydra",
    "hydra.job.env_set": "set variables in the shell, or in hydra.launcher.setup for Slurm",
    "hydra.job.env_copy": "set variables in the shell, or in hydra.launcher.setup for Slurm",
}
# texts that may complete the correct beginning of a value
CLOSINGS = ("]", "}", ")", "'", '"')
ENDS = ("", "0", "'", '"', "]", "}", ")", "0]", "0}", "0)", ":0}", "']", '"]', "'}", "{a}", "a}")
# a saved config lacks these settings, and Hydra's own defaults for them differ
SAVED = ("hydra.run.dir=.", "hydra.output_subdir=null", "hydra.sweep.subdir=.", "hydra/job_logging=stdout",
         "hydra/sweeper=grid",
         "hydra.sweep.dir=${runs}/sweeps/${now:%Y-%m-%d_%H-%M-%S}")  # fmt: skip


def check_typed(overrides: Sequence[str]) -> None:
    """Raise ConfigError for a typed override that Hydra would accept and this program would ignore."""
    for override in overrides:
        _check_choice(override)
        if override.startswith("="):
            raise ConfigError(malformed(override))
        if match := re.match(r"hydra\.(launcher|sweeper)=", override):
            raise ConfigError(f"{override}: a {match[1]} is chosen by hydra/{match[1]}=NAME")
        match = re.match(r"[+~]*(hydra[./][^=@]*)", override)
        if match and not _among(match[1], (*OF_SWEEPS, *OF_HYDRA)):
            raise ConfigError(_ignored(override, match[1].replace("/", ".")))


def check_composed(cfg: DictConfig, hydra: Any, typed: Sequence[str] = ()) -> None:
    """Raise ConfigError for a setting of the config `cfg`, or of its node `hydra`, that would be ignored.

    typed: the overrides of the command line of a single run.
    """
    _check_files(cfg, hydra)
    for key, value in NOT_HERE.items():
        composed = OmegaConf.select(hydra, key.removeprefix("hydra."))
        if composed != value and not (composed is False and value is None):
            raise ConfigError(_ignored(f"{key}={composed}", key))
    direction = hydra.sweeper.get("direction")  # of Optuna's sweeper
    if OmegaConf.is_list(direction) and len(direction) != 1:
        raise ConfigError(
            f"hydra.sweeper.direction={direction}: a run has one objective, its validation loss: expected minimize"
        )
    choices = {str(group): choice for group, choice in hydra.runtime.choices.items()}
    overrides: Any = OmegaConf.to_container(hydra.overrides, resolve=False)
    for override in (*overrides["task"], *overrides["hydra"]):
        _check_choice(override)
    if "dataset" in choices and (lists := [group for group in GROUPS if group not in (*choices, *LISTS)]):
        raise ConfigError(f"{lists[0]} has a list of choices in a YAML: expected one choice")
    if hydra.mode != RunMode.MULTIRUN and (reason := next(_of_sweeps(hydra, choices, typed), None)):
        raise ConfigError(reason)


def settings_of_phases(overrides: Sequence[str]) -> list[str]:
    """Return the overrides that change settings of phases, and neither add nor delete a phase by + or ~."""
    return [override for override in overrides if override.startswith("phases.")]


def check_phases(overrides: Sequence[str], phases: Any, choice: object) -> None:
    """Raise ConfigError for an override that would add a phase without a +, because its name is not known.

    phases: those of the config without the overrides of `settings_of_phases`. choice: the choice of `phases`, or None.
    """
    if not isinstance(phases, Mapping):  # `config.checks` refuses it
        return
    known: list[str] = []
    for name, phase in phases.items():
        inner = phase.get("phases") if isinstance(phase, Mapping) else None
        known += [name, *(f"{name}.phases.{inner_name}" for inner_name in inner or ())]
    for override in settings_of_phases(overrides):
        match = re.match(r"phases\.([^.=]+(?:\.phases\.[^.=]+)?)", override)
        if match and match[1] not in known:
            raise ConfigError(
                f"phases.{match[1]} is not a phase of {f'phases={choice}' if choice else 'this config'}, which has "
                f"{', '.join(known) or 'none'}; +{override} adds one"
            )


def check_own(config: Path) -> None:
    """Raise ConfigError for a config.yaml of another program that uses Hydra: it has no phases."""
    if not re.search(r"^[\s-]*phases\s*:", config.read_text(errors="replace"), re.MULTILINE):
        raise ConfigError(
            f"{config} is not a config of distancing, because it has no phases: run the command in another folder; "
            "distancing init FOLDER writes configs to begin with"
        )


def check_hidden(folder: Path, conf: Path) -> None:
    """Raise ConfigError for a YAML in the folder of --config-dir that another one of the same name in `conf` hides."""
    for file in sorted(folder.rglob("*.yaml")):
        other = conf / file.relative_to(folder)
        if other.is_file() and other.read_bytes() != file.read_bytes():
            raise ConfigError(f"{file} would be ignored, because {other} has the same name: rename it")


def _check_choice(override: str) -> None:
    """Raise ConfigError for a list of choices, or none, where one choice belongs."""
    if override.startswith("~") and (group := override[1:].partition("=")[0]) in GROUPS:
        if group in LISTS:
            raise ConfigError(f"{override} can't be deleted: write {group}=[], for a run without any")
        instead = "penalty=none, for a run without hills" if group == "penalty" else f"{group}=NAME, for another choice"
        raise ConfigError(f"{override} would leave a run without its {group}: write {instead}")
    match = re.fullmatch(r"\+{0,2}([\w/]+)(?:@[\w.]*)?=\[(.*)\]", override)
    if match and match[1] not in LISTS and (match[1] in CHOICES or "/" in match[1]):
        raise ConfigError(f"{override}: expected one choice; a sweep over several is -m {match[1]}={match[2]}")


def _check_files(cfg: DictConfig, hydra: Any) -> None:
    """Raise ConfigError if an experiment or a sweep lacks its package line, or a saved config has no name."""
    for key in ("experiment", "sweep", "mode", "sweeper", "launcher"):
        if key in cfg:
            raise ConfigError(_unknown(key))
    name = str(OmegaConf.to_container(cfg, resolve=False).get("name"))  # type: ignore[union-attr]  # a dict
    if "hydra:runtime.choices" in name and "dataset" not in hydra.runtime.choices:
        raise ConfigError("this config was saved without its values: save it by --cfg job again, or give it a name=")


def _of_sweeps(hydra: Any, choices: Mapping[str, Any], typed: Sequence[str]) -> Iterator[str]:
    """Yield an error for each setting of a sweep, which a single run would ignore."""
    if sweep := choices.get("sweep"):
        yield f"sweep={sweep} has no line `mode: MULTIRUN`, so that one run would be trained: add it to the file, or -m"
    for override in typed:
        if _among(override.lstrip("+~").partition("=")[0], OF_SWEEPS):
            yield f"{override} is a setting of sweeps, and this is a single run: add -m (a sweep may have one run)"
    for group, default in (("hydra/launcher", "basic"), ("hydra/sweeper", "grid")):
        if choices.get(group) not in (default, None):
            yield f"{group}={choices[group]} is a setting of sweeps, and this is a single run: add -m"
    if hydra.sweeper.get("params") or hydra.sweeper.get("cases"):
        yield "hydra.sweeper has settings, and this is a single run: add -m, or `mode: MULTIRUN` to the sweep's file"


def _among(key: str, keys: Sequence[str]) -> bool:
    return any(key == known or key.startswith((f"{known}.", f"{known}/", f"{known}@")) for known in keys)


def _ignored(override: str, key: str) -> str:
    advice = next((f"; {text}" for name, text in INSTEAD.items() if _among(key, (name,))), "")
    return f"{override} would be ignored here{advice}"


def composition_error(error: Exception, overrides: Sequence[str], options: Options) -> str:
    """Return one line that says why Hydra or OmegaConf refused an override or a YAML.

    overrides: the overrides of the run or the sweep. options: returns the choices of a config group.
    """
    if isinstance(error, OverrideParseException):
        return malformed(error.override)
    cause = error.__cause__
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        group, _, setting = str(cause.full_key).partition(".")
        if not setting or group not in (*_settings(), "hydra"):
            return _unknown(group)
        if group in GROUPS and "is not in struct" in str(cause):
            return f"{cause.full_key} is not a setting of the {group} chosen here"
        if re.fullmatch(r"hydra\.(launcher|sweeper)\.\w+", str(cause.full_key)) and cause.parent_node:
            kind, allowed = setting.partition(".")[0], [key for key in cause.parent_node if not key.startswith("_")]
            return (
                f"{cause.full_key} is not a setting of the {kind} chosen here; allowed here: "
                f"{', '.join(allowed) or 'none'}; hydra/{kind}=NAME chooses another {kind}"
            )
    lines = [line.strip() for exception in (error, cause) if exception for line in str(exception).splitlines()]
    if "Config search path:" in lines:
        lines = lines[: lines.index("Config search path:")]
    hints = ("full_key", "object_type", "To append", "See https")
    text = " ".join(line for line in lines if line and not line.startswith(hints))
    if "@experiment." in text:
        return _unknown("experiment")
    if "Config group override must be a string or a list" in text:
        return next(_not_a_choice(overrides, options), text)
    if match := re.search(r"Ambiguous value for argument '(.*?)' 1\.", text):
        return f"{match[1]} has several values: -m {shlex.quote(match[1])} is a sweep over them"
    if match := re.match(r"Multiple values for (\w+)\..*: (.*)'", text):
        typed = f"{match[1]}={match[2]}"
        if f"+{typed}" in overrides:
            return f"+{typed}: there is a choice of {match[1]} already: write {typed} to replace it"
    if match := re.match(r"Could not override '(\w+)'\. No match in the defaults list", text):
        typed = next((override for override in overrides if override.startswith(f"{match[1]}=")), f"{match[1]}=NAME")
        return f"{typed}: there is no choice of {match[1]} that it could replace: write +{typed}"
    if match := re.search(r"Could not (?:load|find) '([\w/]+)/([^/']*)'(?: Available options in '.*?': (.*))?", text):
        group, choice, listed = match.groups()
        choices = listed.split() if listed else options(group)
        return f"{group}={choice} is not a choice; the choices are {', '.join(choices) or 'none'}"
    return text or repr(error)


def _unknown(key: str) -> str:
    """Return the message for a top-level key that is not a setting."""
    if key == "experiment":
        return "an experiment's file must begin with the line `# @package _global_`, or its settings are not the run's"
    if key == "sweep":
        return "a sweep's file must begin with the line `# @package hydra`, or its settings are not the sweep's"
    if key in ("mode", "sweeper", "launcher"):
        return f"{key} is a setting of Hydra: a sweep's file must begin with the line `# @package hydra`"
    return f"{key} is not a setting; allowed here: {', '.join(_settings())}"


def _settings() -> list[str]:
    """Return the names of the top-level settings."""
    from distancing.component.decorator import names
    from distancing.training.settings import Config

    return names(Config)


def _not_a_choice(overrides: Sequence[str], options: Options) -> Iterator[str]:
    """Yield the message for each override that gives a config group something other than a name."""
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        group, value = override.key_or_group, override.value()
        if group in CHOICES and not isinstance(value, (str, list)):
            yield f"{override.input_line}: expected one of {', '.join(options(group)) or 'none'}"


def malformed(argument: str) -> str:
    """Return the error for an override that Hydra cannot parse, and say how to write it."""
    key, equals, value = argument.partition("=")
    place = f"{argument!r} is not an override"
    if not equals:
        return f"{place}: write KEY=VALUE, or ~KEY to delete a setting"
    if not re.fullmatch(r"[+~]{0,2}[\w/.@$:-]+", key, re.ASCII) or not _parses(f"{key}=1"):
        wrong = next((letter for letter in key.lstrip("+~") if not re.match(r"[\w/.]", letter, re.ASCII)), "")
        return f"{place}: {key!r} is not the name of a setting{f' ({wrong!r} cannot be in one)' if wrong else ''}"
    wrong = _first_wrong(key, value)
    for better in (_without_empty_parts(value), *(value + end for end in CLOSINGS), f'"{value}"', _quoted(value)):
        if better != value and _parses(f"{key}={better}"):
            return f"{place}: {wrong}; write {shlex.quote(f'{key}={better}')}"
    return f"{place}: {wrong}; put the value in quotes"


def _first_wrong(key: str, value: str) -> str:
    """Return the first character at which the value is no longer the beginning of one."""
    right, wrong = 0, len(value) + 1  # the lengths of a correct beginning and of a wrong one
    while wrong - right > 1:
        middle = (right + wrong) // 2
        if any(_parses(f"{key}={value[:middle]}{end}") for end in ENDS):
            right = middle
        else:
            wrong = middle
    if wrong > len(value):
        return "its value is incomplete"
    return f"{value[wrong - 1]!r} (character {len(key) + 1 + wrong}) cannot stand there"


def _without_empty_parts(value: str) -> str:
    """Return the value without commas that separate nothing."""
    return re.sub(r",(\s*,)+", ",", value).strip(", ")


def _quoted(value: str) -> str:
    escaped = re.sub(r"(\\*)'", lambda match: match[1] * 2 + "\\'", value)
    return f"'{escaped}'"


def _parses(override: str) -> bool:
    try:
        OverridesParser.create().parse_override(override)
    except (HydraException, OmegaConfBaseException, ValueError):
        return False
    return True


def choices_in(conf: Path) -> Options:
    """Return a function that lists the choices of a config group in the folder `conf`."""
    return lambda group: sorted(path.stem for path in (conf / group).glob("*.yaml"))

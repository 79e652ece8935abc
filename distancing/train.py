"""`distancing train [overrides]` trains one run; with `-m`, a run for each combination of the swept values."""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from distancing.config.composition import (
    SAVED,
    check_composed,
    check_hidden,
    check_own,
    check_phases,
    check_typed,
    choices_in,
    composition_error,
    settings_of_phases,
)
from distancing.config.project import CONF
from distancing.errors import DIVERGED, ConfigError, DistancingError, SweepError, print_error
from distancing.process.command import ArgumentParser, command

NAME = ("--config-name", "-cn")
WITH_VALUE = (*NAME, "--config-path", "-cp", "--config-dir", "-cd", "--cfg", "-c", "--package", "-p", "--info", "-i",
              "--experimental-rerun")  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Train with the configs in conf/ of the current folder if there are any, else with those of this package."""
    here = Path("conf").resolve()
    return run(here if (here / "config.yaml").is_file() else CONF, arguments)


@command
def run(conf: Path, arguments: Sequence[str] | None = None) -> int:
    """Train what the arguments ask for, with the configs in `conf`; return the highest exit code of the runs."""
    codes: list[int] = []
    bugs: list[Exception] = []
    process = os.getpid()

    def task(cfg: DictConfig) -> float | None:
        from distancing.experiment.main import main as train  # slow to import, and not needed for --help

        settings = HydraConfig.get()
        try:
            check_composed(cfg, settings, overrides)
            _check_phases(settings)
        except ConfigError as error:  # Hydra would print more than the error
            codes.append(print_error(error))
            return None
        try:
            code, result = train(cfg, settings.overrides.task, keep_crash=True)
        except Exception as bug:
            bugs.append(bug)
            raise
        codes.append(code)
        if code not in (0, DIVERGED) and os.getpid() != process:  # a launcher's process, whose `codes` are its own
            raise SweepError(f"a run failed with exit code {code}: its process says why")
        return result.objective if result else None

    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let Hydra's exceptions through, to be reported in one line
    typed = list(sys.argv[1:] if arguments is None else arguments)
    if not _value(typed, (*NAME, "--config-path", "-cp")):
        check_own(conf / "config.yaml")
    overrides = _overrides(typed)
    check_typed(overrides)
    if _value(typed, ("--package", "-p")) and not _value(typed, ("--cfg", "-c")):
        raise ConfigError("--package would be ignored here: it is the part that --cfg shows")
    if folder := _value(typed, ("--config-dir", "-cd")):
        check_hidden(Path(folder), conf)
    try:
        sys.argv[1:] = _for_hydra(typed, overrides)  # where Hydra reads them
        start = hydra.main(version_base="1.3", config_path=str(conf), config_name="config")(task)
        with _hydras_parser_mended():
            start()
    except (DistancingError, BrokenPipeError):  # the first in a sweep, before its first run
        raise
    except Exception as error:
        if error in bugs:
            raise
        raise ConfigError(composition_error(error, overrides, choices_in(conf))) from error
    return max(codes, default=0)


def _check_phases(settings: Any) -> None:
    """Raise ConfigError for an unknown phase. settings: Hydra's, of the composed run."""
    overrides: Any = OmegaConf.to_container(settings.overrides, resolve=False)  # they may have interpolations
    if changes := settings_of_phases(overrides["task"]):
        others = [*overrides["hydra"], *(text for text in overrides["task"] if text not in changes)]
        loader = GlobalHydra.instance().config_loader()
        without = loader.load_configuration(settings.job.config_name, others, RunMode.RUN)
        check_phases(changes, without.get("phases"), settings.runtime.choices.get("phases"))


@contextlib.contextmanager
def _hydras_parser_mended() -> Iterator[None]:
    """Let Hydra's parser refuse arguments in one line, and give it the text of each help.

    Python 3.14 refuses the object that Hydra 1.3 gives it instead of the text.
    """
    original, error = argparse.ArgumentParser.add_argument, argparse.ArgumentParser.error

    def add_argument(parser: argparse.ArgumentParser, *names: str, **settings: Any) -> argparse.Action:
        if not isinstance(settings.get("help"), str | None):
            settings["help"] = repr(settings["help"]).replace("%", "%%")
        return original(parser, *names, **settings)

    argparse.ArgumentParser.add_argument = add_argument  # type: ignore[method-assign, assignment]
    argparse.ArgumentParser.error = ArgumentParser.error  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        argparse.ArgumentParser.add_argument = original  # type: ignore[method-assign]
        argparse.ArgumentParser.error = error  # type: ignore[method-assign]


def _overrides(arguments: Sequence[str]) -> list[str]:
    """Return the arguments that are overrides: neither options nor their values."""
    before = ["", *arguments]
    return [
        text
        for option, text in zip(before, arguments, strict=False)
        if not text.startswith("-") and option not in WITH_VALUE
    ]


def _value(arguments: Sequence[str], names: Sequence[str]) -> str | None:
    """Return the value of the option with these names; None if it is not given."""
    for text, after in zip(arguments, [*arguments[1:], ""], strict=False):
        name, equals, value = text.partition("=")
        if name in names:
            return value if equals else after
    return None


def _for_hydra(arguments: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """Return the arguments in an order that Hydra accepts, with the options that complete a saved config.

    With `--cfg job`, the printed config has values instead of references to choices, so that it can be saved. A saved
    config that is read gets this program's settings of Hydra, which it does not contain.
    """
    options = [text for text in arguments if text not in overrides]
    if _value(arguments, ("--cfg", "-c")) == "job":
        options = ["--resolve", *(text for text in options if text != "--resolve")]
    saved = SAVED if _value(arguments, NAME) else ()
    return [*saved, *overrides, *options]

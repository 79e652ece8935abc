"""`distancing train [overrides]` trains one run; with `-m`, a run for each combination of the swept values."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from distancing.config import composition_error
from distancing.errors import ConfigError, DistancingError
from distancing.experiment import main as train
from distancing.process.command import command
from distancing.project import CONF


def main(arguments: Sequence[str] | None = None) -> int:
    """Train with the configs in conf/ of the current folder if there are any, else with those of this package."""
    here = Path("conf").resolve()
    return run(here if (here / "config.yaml").is_file() else CONF, arguments)


@command
def run(conf: Path, arguments: Sequence[str] | None = None) -> int:
    """Train what the arguments ask for, with the configs in `conf`; return the highest exit code of the runs."""
    codes: list[int] = []
    bugs: list[Exception] = []

    def task(cfg: DictConfig) -> float | None:
        try:
            code, result = train(cfg, HydraConfig.get().overrides.task, keep_crash=True)
        except Exception as bug:
            bugs.append(bug)
            raise
        codes.append(code)
        return result.objective if result else None

    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let Hydra's exceptions through, to be reported in one line
    try:
        if arguments is not None:
            sys.argv[1:] = arguments  # where Hydra reads them
        hydra.main(version_base="1.3", config_path=str(conf), config_name="config")(task)()
    except DistancingError:  # in a sweep, before its first run
        raise
    except Exception as error:
        if error in bugs:
            raise
        raise ConfigError(composition_error(error)) from error
    return max(codes, default=0)

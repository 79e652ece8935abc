"""`python train.py [overrides]` trains one run; with `-m`, a run for each combination of the swept values."""

import io
import os
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from distancing import crash
from distancing.config import composition_error
from distancing.errors import ConfigError, DatasetError, SweepError, refuse
from distancing.experiment import main

exit_codes: list[int] = []
bugs: list[Exception] = []


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def train(cfg: DictConfig) -> float | None:
    try:
        code, result = main(cfg, HydraConfig.get().overrides.task, keep_crash=True)
    except Exception as bug:
        bugs.append(bug)
        raise
    exit_codes.append(code)
    return result.objective if result else None


if __name__ == "__main__":
    crash.trace()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without θ gets a ? and no error after all the work
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let its exceptions through, to be said in one line
    try:
        train()
    except KeyboardInterrupt:  # before or after training, where it is only noted
        exit_codes.append(130)
    except (ConfigError, DatasetError, SweepError) as error:  # of a sweep, before its first run
        exit_codes.append(refuse(str(error)))
    except Exception as error:
        if error in bugs:
            raise
        exit_codes.append(refuse(composition_error(error)))
    sys.exit(max(exit_codes, default=0))

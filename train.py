"""`python train.py [overrides]` trains one run; with `-m`, a run for each combination of the swept values."""

import sys

import hydra
from omegaconf import DictConfig

from distancing.experiment import main

exit_codes: list[int] = []


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def train(cfg: DictConfig) -> None:
    exit_codes.append(main(cfg))


if __name__ == "__main__":
    train()
    sys.exit(max(exit_codes, default=0))

"""`python train.py [overrides]` is `distancing train` with the configs beside this file."""

import sys
from pathlib import Path

from distancing.train import run

if __name__ == "__main__":
    sys.exit(run(Path(__file__).resolve().parent / "conf"))

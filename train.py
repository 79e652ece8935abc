"""`python train.py [overrides]` is `distancing train` with the configs beside this file."""

import sys

from distancing.train import CONF, run

if __name__ == "__main__":
    sys.exit(run(CONF))

"""`distancing init|train|sweep|ensemble|landscape|report …`: all commands under one name."""

import argparse
import importlib
import sys
from importlib.metadata import PackageNotFoundError, version

from distancing.process.command import ArgumentParser

MODULES = {
    "init": "distancing.config.project",
    "train": "distancing.train",
    "sweep": "distancing.sweep.__main__",
    "ensemble": "distancing.ensemble.__main__",
    "landscape": "distancing.landscape.__main__",
    "report": "distancing.report.__main__",
}
HELP = """\
init       copy train.py and the configs into a folder, to be edited there
train      train one run; with -m, a run for each combination of the swept values
sweep      show, retry or cancel the runs of a sweep, or estimate their cost
ensemble   evaluate an ensemble of checkpoints, or compare ensembles
landscape  analyse the loss around and between checkpoints
report     summarise runs as tables, figures and one page

`distancing COMMAND --help` explains each of them."""


def main() -> int:
    parser = ArgumentParser(prog="distancing", description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"distancing {_version()}")
    parser.add_argument("command", choices=MODULES)
    name = parser.parse_args(sys.argv[1:2]).command
    code: int = importlib.import_module(MODULES[name]).main(sys.argv[2:])
    return code


def _version() -> str:
    try:
        return version("distancing")
    except PackageNotFoundError:
        return "of a folder that is not installed"


if __name__ == "__main__":
    sys.exit(main())

"""`distancing init FOLDER`: write train.py and the configs into a folder of the user's, to be edited there."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from distancing.errors import ConfigError
from distancing.process.command import ArgumentParser, command
from distancing.runs.files import export

PACKAGE = Path(__file__).parents[1]
# A wheel has conf/ inside the package, and a checkout has it beside the package.
CONF = next(folder for folder in (PACKAGE / "conf", PACKAGE.parent / "conf") if folder.is_dir())
TRAIN = '''\
"""`python train.py [overrides]` is `distancing train` with the configs beside this file."""

import sys
from pathlib import Path

from distancing.train import run

if __name__ == "__main__":
    sys.exit(run(Path(__file__).resolve().parent / "conf"))
'''


def argument_parser() -> ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = ArgumentParser(prog="distancing init", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="created if it does not exist")
    return parser


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files. Raise ConfigError if the folder has one of them already."""
    folder: Path = argument_parser().parse_args(arguments).folder
    script, conf = folder / "train.py", folder / "conf"
    if existing := [str(path) for path in (script, conf) if path.exists()]:
        raise ConfigError(f"{' and '.join(existing)} would be overwritten: give another folder, or move it away")
    export(script, TRAIN)
    shutil.copytree(CONF, conf)
    print(f"{folder} has train.py, and conf/ with a YAML file for each choice; conf/sweep/ has the sweeps")
    print(f"train with  cd {folder} && python train.py")
    return 0

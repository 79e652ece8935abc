"""`distancing landscape RUN…`: the loss around and between the checkpoints of runs and sweeps."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from distancing.component.analysis import Analysis
from distancing.config.checks import construct
from distancing.errors import LandscapeError
from distancing.landscape.barrier import Barrier
from distancing.landscape.gradients import Gradients
from distancing.landscape.outputs import analyse, record
from distancing.landscape.plane import Plane
from distancing.landscape.sharpness import Sharpness
from distancing.landscape.valley import Valley
from distancing.process import threads
from distancing.process.command import ArgumentParser, check_writable, command
from distancing.runs import RunDirectory
from distancing.runs.tracking import tracking
from distancing.stored import find_checkpoints
from distancing.training.settings import device_named

ANALYSES: dict[str, type[Analysis]] = {
    "barrier": Barrier,
    "valley": Valley,
    "plane": Plane,
    "sharpness": Sharpness,
    "gradients": Gradients,
}

NUMBER = r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"


class _Loader(yaml.SafeLoader):
    """Reads 1e-2 as a number, as Hydra does. YAML 1.1 takes it for text."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(NUMBER), list("-+.0123456789"))


def argument_parser() -> ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = ArgumentParser(prog="distancing landscape", description=__doc__)
    parser.add_argument("paths", nargs="+", metavar="RUN", help="directories of runs and sweeps, checkpoint files")
    parser.add_argument(
        "--only", default=",".join(ANALYSES), metavar="NAME,…", help="run these analyses only (default: %(default)s)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME.KEY=VALUE", help="change a setting of an analysis"
    )
    parser.add_argument("--folder", type=Path, help="write the results there (default for a single run: RUN/landscape)")
    parser.add_argument("--again", action="store_true", help="repeat analyses whose results are stored already")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    return parser


@command
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argument_parser()
    args = parser.parse_args(arguments)
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)
    device = device_named(args.device, "--device=")
    check_writable("folder", args.folder, folder=True)
    analyses = configured(args.only.split(","), args.set)
    checkpoints = find_checkpoints(args.paths)
    run = _single_run(args.paths)
    folder = args.folder or (run.landscape if run else None)
    if folder is None:
        raise LandscapeError("--folder=… is needed for checkpoints of several runs and for checkpoint files")
    # the run's own number of threads, for the same bits as at its end
    threads.use(((run and run.read_result()) or {}).get("threads"))
    # an analysis that is named with --only is an error if it can't be done; otherwise it is left out
    left_out: dict[str, str] | None = {} if args.only == parser.get_default("only") else None
    with tracking(console) as track:
        values, computed = analyse(analyses, checkpoints, folder, device, track, args.again, left_out)
    if not values:
        raise LandscapeError("; ".join((left_out or {}).values()))
    if run and folder == run.landscape and run.read_result():  # one that still trains records its own analyses
        with run:
            record(run, values, computed)
    for name, analysis_values in values.items():
        console.print(f"[bold]{name}[/]  {folder / name}.png" + ("" if name in computed else "  (stored before)"))
        for key, value in analysis_values.items():
            console.print(f"  {key:32} {'not finite' if value is None else f'{value:.5g}'}", markup=False)
    for name, reason in (left_out or {}).items():
        console.print(f"[bold]{name}[/]  left out: {reason}")
    return 0


def configured(names: Sequence[str], settings: Sequence[str]) -> dict[str, Analysis]:
    """Return the analyses of these names, with settings such as `barrier.points=11`.

    Raise LandscapeError for an unknown name or a malformed setting, ConfigError for a setting that does not fit.
    """
    options: dict[str, dict[str, Any]] = {name: {} for name in names}
    for name in names:
        if name not in ANALYSES:
            raise LandscapeError(f"--only={name} is no analysis; there are {', '.join(ANALYSES)}")
    for setting in settings:
        key, equals, value = setting.partition("=")
        name, dot, field = key.partition(".")
        if not equals or not dot or name not in options:
            raise LandscapeError(f"--set={setting}: write NAME.KEY=VALUE, with NAME one of {', '.join(options)}")
        try:
            options[name][field] = yaml.load(value, _Loader)
        except yaml.YAMLError:
            raise LandscapeError(f"--set={setting}: {value!r} is not a YAML value") from None
    return {name: construct(ANALYSES[name], values, name) for name, values in options.items()}


def _single_run(paths: Sequence[str]) -> RunDirectory | None:
    """Return the run if `paths` is the directory of one run, else None."""
    run = RunDirectory(paths[0])
    return run if len(paths) == 1 and run.config.exists() else None


if __name__ == "__main__":
    sys.exit(main())

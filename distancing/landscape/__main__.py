"""`python -m distancing.landscape RUN…`: what does the loss look like around and between these places?"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console

from distancing import threads
from distancing.analysis import Analysis
from distancing.config import ConfigError, construct
from distancing.datasets import DatasetError
from distancing.ensemble.members import EnsembleError, find
from distancing.landscape.barrier import Barrier
from distancing.landscape.gradients import Gradients
from distancing.landscape.outputs import analyse, record
from distancing.landscape.plane import Plane
from distancing.landscape.sharpness import Sharpness
from distancing.landscape.subject import LandscapeError
from distancing.landscape.valley import Valley
from distancing.logs import tracking
from distancing.storage import RunDirectory, StorageError, SweepError

ANALYSES: dict[str, type[Analysis]] = {
    "barrier": Barrier,
    "valley": Valley,
    "plane": Plane,
    "sharpness": Sharpness,
    "gradients": Gradients,
}
ERRORS = (LandscapeError, EnsembleError, ConfigError, DatasetError, StorageError, SweepError, OSError)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m distancing.landscape", description=__doc__)
    parser.add_argument("what", nargs="+", metavar="RUN", help="directories of runs and sweeps, files of checkpoints")
    parser.add_argument(
        "--only", default=",".join(ANALYSES), metavar="NAME,…", help="of these analyses (default: all): %(default)s"
    )
    parser.add_argument("--set", action="append", default=[], metavar="NAME.KEY=VALUE", help="a setting of an analysis")
    parser.add_argument("--folder", type=Path, help="for the results; default: RUN/landscape of a single run")
    parser.add_argument("--again", action="store_true", help="make what is there already, too")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda", "mps"))
    args = parser.parse_args(arguments)
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)
    try:
        analyses = chosen(args.only.split(","), args.set)
        members = find(args.what)
        run = _whole_run(args.what)
        folder = args.folder or (run.landscape if run else None)
        if folder is None:
            raise LandscapeError("--folder=… is needed for places of several runs, or for some of a run's")
        ended = run.read_result() if run else None
        threads.use(ended.get("threads") if ended else None)  # an analysis says what it says at the end of the run
        # what was asked for by name is done or refused
        left_out: dict[str, str] | None = {} if args.only == parser.get_default("only") else None
        with tracking(console) as track:
            device = torch.device(args.device)
            found, made = analyse(analyses, members, folder, device, track, again=args.again, left_out=left_out)
        if not found:
            raise LandscapeError("; ".join((left_out or {}).values()))
        if run and folder == run.landscape:
            with run:
                record(run, found, made)
        for name, values in found.items():
            console.print(f"[bold]{name}[/]  {folder / name}.png" + ("" if name in made else "  (made before)"))
            for key, value in values.items():
                console.print(f"  {key:32} {'not finite' if value is None else f'{value:.5g}'}", markup=False)
        for name, why in (left_out or {}).items():
            console.print(f"[bold]{name}[/]  left out: {why}")
    except ERRORS as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {error}", markup=False)
        return 2
    return 0


def chosen(names: Sequence[str], settings: Sequence[str]) -> dict[str, Analysis]:
    """The analyses of these names, with settings such as `barrier.points=11`. Raises LandscapeError, ConfigError."""
    asked: dict[str, dict[str, Any]] = {name: {} for name in names}
    for name in names:
        if name not in ANALYSES:
            raise LandscapeError(f"--only={name} is no analysis; there are {', '.join(ANALYSES)}")
    for setting in settings:
        key, equals, value = setting.partition("=")
        name, dot, field = key.partition(".")
        if not equals or not dot or name not in asked:
            raise LandscapeError(f"--set={setting}: NAME.KEY=VALUE, with NAME one of {', '.join(asked)}")
        try:
            asked[name][field] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise LandscapeError(f"--set={setting}: {value!r} is no value") from None
    return {name: construct(ANALYSES[name], each, name) for name, each in asked.items()}


def _whole_run(what: Sequence[str]) -> RunDirectory | None:
    """The run, if all that was named is one."""
    run = RunDirectory(what[0])
    return run if len(what) == 1 and run.config.exists() else None


if __name__ == "__main__":
    sys.exit(main())

"""`python -m distancing.ensemble RUN…`: are these networks worth more together? `--compare`: which kind is?"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from distancing.config import ConfigError
from distancing.datasets import DatasetError
from distancing.ensemble import compare, show
from distancing.ensemble.judge import Weights, judge
from distancing.ensemble.members import EnsembleError, find
from distancing.storage import StorageError, SweepError, find_sweep


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m distancing.ensemble", description=__doc__)
    parser.add_argument("what", nargs="+", metavar="RUN", help="directories of runs and sweeps, files of checkpoints")
    parser.add_argument(
        "--weights", default="equal", help="equal (default), likelihood (of the validation part), or 1,2,…"
    )
    parser.add_argument("--refresh-batch-norm", action="store_true", help="compute each member's statistics anew")
    parser.add_argument("--compare", action="store_true", help="the kinds of ensembles in a sweep, side by side")
    parser.add_argument("--members", type=int, metavar="K", help="with --compare: so many single runs together")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="write a PNG of growth and matrices there")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda", "mps"))
    args = parser.parse_args(arguments)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    try:
        device = torch.device(args.device)
        if args.compare:
            runs = [run for each in args.what for run in find_sweep(each).runs()]
            side_by_side = compare.compare(compare.ensembles(runs, args.members), device, _weights(args.weights))
            console.print(compare.table(side_by_side))
            numbers: Any = side_by_side
        else:
            found = judge(find(args.what), device, _weights(args.weights), args.refresh_batch_norm)
            console.print(show.table(found))
            if args.picture:
                show.write_picture(found, args.picture)
            numbers = found
        if args.json:
            args.json.write_text(json.dumps(numbers, indent=2) + "\n")
    except (EnsembleError, ConfigError, DatasetError, StorageError, SweepError, OSError) as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {error}", markup=False)
        return 2
    return 0


def _weights(text: str) -> Weights:
    """Raises EnsembleError."""
    if text in ("equal", "likelihood"):
        return text
    try:
        return [float(each) for each in text.split(",")]
    except ValueError:
        raise EnsembleError(f"--weights={text}: equal, likelihood, or one number for each member") from None


if __name__ == "__main__":
    sys.exit(main())

"""Fork the processes of runs from one process that has imported everything once.

That process computes nothing. At a fork it has neither threads of OpenMP nor a context on a GPU, which do not survive
one, so that a run computes the same bits as alone.
"""

import gc
import importlib
import multiprocessing
import os
import pkgutil
import sys
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path

from distancing.process import threads
from distancing.training.provenance import PACKAGE, provenance

# Apple's libraries do not survive a fork: on macOS, each run is a new process
CONTEXT = multiprocessing.get_context("fork") if sys.platform == "linux" else multiprocessing.get_context("spawn")
POLL = 0.5  # seconds; a run's sentinel is late if a process that the run has left behind holds it
# what runs import late, because other commands do not need it: the modules of these packages, and others
PACKAGES = ("data", "ensemble", "hills", "landscape", "models", "training")
LATE = ("distancing.experiment.main", "matplotlib.backends.backend_agg", "matplotlib.figure", "torch.utils.tensorboard",
        "torchvision")  # fmt: skip


def import_everything() -> None:
    """Import what runs need, and hash the code that was imported, which later edits do not change."""
    ours = (
        module.name
        for package in PACKAGES
        for module in pkgutil.iter_modules([str(PACKAGE / package)], f"distancing.{package}.")
        if not module.name.endswith("__main__")
    )
    for name in (*LATE, *ours):
        importlib.import_module(name)
    provenance(())
    gc.collect()
    gc.freeze()  # the collector would touch, and so copy, the memory that the runs share


def fork(target: Callable[[], int], log: Path, variables: Mapping[str, str]) -> BaseProcess:
    """Start a process that exits with what `target` returns.

    log: the file that its output is appended to. variables: its further environment variables.
    """
    process = CONTEXT.Process(target=_call, args=(target, log, variables))
    process.start()
    return process


def _call(target: Callable[[], int], log: Path, variables: Mapping[str, str]) -> None:
    with open(log, "ab") as file:
        for stdout_or_stderr in (1, 2):
            os.dup2(file.fileno(), stdout_or_stderr)
    os.environ |= variables
    threads.watch_from_now()
    sys.exit(target())

"""Train a network away from where it has been: hills on the loss at stored checkpoints push it to other minima.

`from distancing import Hills` puts them into a training loop of your own. The rest is a runner of experiments:

experiment    one run from its config to its result; `train.py` calls it
config        the YAML settings, checked and turned into objects
component     the classes that a config may name, and the modules of yours that may define some
callbacks     hills in the training loops of Lightning and Hugging Face
hills         the method: distances, kernels and the penalty that they add to the loss
training      the loop: phases, epochs, steps, checkpoints, and the state that a run resumes from
data, models  the images and the networks
runs          the files of a run: its directory, result.json, metrics.csv
ensemble      the checkpoints of one or several runs as an ensemble
landscape     analyses of the loss between and around checkpoints
report        tables and figures from many runs
sweep         many runs, on this machine or on a Slurm cluster
process       threads, signals, crashes and errors of a command
"""

import os
from typing import TYPE_CHECKING, Any

from distancing.process import threads

if TYPE_CHECKING:
    from distancing.hills import Hills, Penalty

__all__ = ["Hills", "Penalty"]

threads.bound_spin(os.environ)  # torch's OpenMP library reads the environment when torch is imported


def __getattr__(name: str) -> Any:
    """Import the library's classes when they are used, because most commands need no torch."""
    if name in __all__:
        from distancing import hills

        return getattr(hills, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

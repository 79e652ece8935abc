"""The ensemble of one run's own checkpoints."""

import dataclasses

from distancing.ensemble.judge import judge
from distancing.runs import RunDirectory
from distancing.runs.ensemble import EnsembleResult
from distancing.stored import Checkpoint
from distancing.training.trainer import Trainer


def judge_run(trainer: Trainer, directory: RunDirectory) -> EnsembleResult | None:
    """Return the scores of the run's checkpoints as an ensemble; None if the run has only one network.

    The final network is a member, too, unless it is the last checkpoint.
    """
    names = trainer.checkpoints.names
    if not names or trainer.checkpoints.infos[-1]["epoch"] < trainer.progress.epoch:
        names.append("final")
    if len(names) < 2:
        return None
    dataset, data = trainer.config.dataset, trainer.data
    if dataset.bootstrap:  # the members are scored on each image once
        data = dataclasses.replace(dataset, bootstrap=False).load(trainer.device, data.memory_format)
    members = [Checkpoint(name, directory.checkpoint(name), trainer.config) for name in names]
    return judge(members, trainer.device, common=data)

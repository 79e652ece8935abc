"""The ensemble of one run's own checkpoints."""

import dataclasses

from distancing.data.datasets import Dataset
from distancing.ensemble import show
from distancing.ensemble.judge import judge
from distancing.ensemble.off_data import is_changed
from distancing.ensemble.shift import Shift
from distancing.errors import EnsembleError
from distancing.runs import RunDirectory
from distancing.runs.ensemble import EnsembleResult
from distancing.runs.result import read_result
from distancing.runs.tracking import add_to_events
from distancing.stored import Checkpoint, find_checkpoints
from distancing.training.settings import Config, Evaluation
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


def not_evaluated(wanted: Evaluation, known: EnsembleResult | None, own: Dataset) -> Evaluation:
    """Return what the stored result lacks of what is wanted. Data sets are evaluated together.

    own: the run's data set. Raise EnsembleError or DatasetError for stored images that have changed and do not fit.
    """
    ood, corruptions = (known.ood or {}, known.corruptions) if known else ({}, None)
    ood_known = all(name in ood and not is_changed(name, ood[name], own) for name in wanted.ood)
    is_known = corruptions and wanted.corruptions in (None, "auto", corruptions.source)
    return Evaluation(ood=[] if ood_known else wanted.ood, corruptions=None if is_known else wanted.corruptions)


def checked(evaluation: Evaluation, config: Config) -> Shift:
    """Return the images of the evaluation. Raise EnsembleError or DatasetError for those that do not fit the run's."""
    return Shift.checked(evaluation.ood, evaluation.corruptions, config.dataset, "evaluate.")


def evaluate_run(evaluation: Evaluation, config: Config, directory: RunDirectory) -> EnsembleResult:
    """Return the scores of a finished run's ensemble, with those of the evaluation.

    Add the new ones to TensorBoard and to result.json. Hold the run's lock.
    """
    content, result = directory.read_result(), read_result(directory)
    if content is None or result is None or result.ensemble is None:
        raise EnsembleError(f"{directory.path} has no ensemble that evaluate could judge")
    members = find_checkpoints([directory.path])
    ensemble, figures = checked(evaluation, config).judge(members, config.torch_device, result.ensemble)
    scalars = {
        "ood": show.ood_scalars(ensemble.ood or {}),
        "corruptions": show.corruptions_scalars(ensemble.corruptions) if ensemble.corruptions else {},
    }
    for name, figure in figures.items():
        add_to_events(directory, name, scalars[name], {f"ensemble/{name}": show.pixels(figure())})
    directory.write_result({**content, "ensemble": ensemble.to_dict()})
    return ensemble

"""Score an ensemble on each split, beside its members, and measure how different these are."""

import dataclasses
import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from distancing.data.batches import Data
from distancing.ensemble import calibration, scores
from distancing.ensemble.calibration import Prediction
from distancing.errors import EnsembleError
from distancing.hills.theta import Theta
from distancing.models.evaluation import predict, refresh_batch_norm
from distancing.runs.ensemble import EnsembleResult, Scores, SplitResult
from distancing.stored import Checkpoint, evaluation_images

Weights = str | Sequence[float]  # `equal`, `likelihood`, or one number for each member


def judge(
    members: Sequence[Checkpoint],
    device: torch.device,
    weights: Weights = "equal",
    refresh: bool = False,
    common: Data | None = None,
) -> EnsembleResult:
    """Return the result of `scored`, with distances and the parameter average if all members have one architecture.

    common: the images, if the members are of one run, which normalises them alike; by default `evaluation_images`.
    """
    result = scored(members, device, weights, refresh, common)
    if len({member.config.model for member in members}) > 1:
        return result
    theta = Theta(members[0].network(torch.device("cpu")))  # MPS has no float64
    parameters = torch.stack([member.parameters(theta) for member in members])
    common = common or evaluation_images(members[0].config, device)
    return dataclasses.replace(
        result,
        distances=scores.distances(parameters).tolist(),
        cosines=_cosines(members, theta, parameters),
        parameter_average=_parameter_average(members[0], _mean(members, device), common, device),
    )


def scored(
    members: Sequence[Checkpoint],
    device: torch.device,
    weights: Weights = "equal",
    refresh: bool = False,
    common: Data | None = None,
    training: bool = True,
) -> EnsembleResult:
    """Return the scores on each split.

    The temperatures for the test images are found on the validation images, if there are any. Those for the validation
    images, and otherwise those for the test images, are found on halves of the same images (`calibration.calibrated`).

    refresh: recompute each member's batch-norm statistics. common: as in `judge`. training: score the training images,
    too. Raise EnsembleError for weights that do not fit, DatasetError for images that can't be read, StorageError for
    a damaged checkpoint.
    """
    same_run, common = common is not None, common or evaluation_images(members[0].config, device)
    logits: list[dict[str, Tensor]] = []
    for member in members:  # one network at a time is in memory
        data = common
        if member.config.dataset.folds and not same_run:  # a member of a fold normalises by its own training images
            own = evaluation_images(member.config, device)
            data = dataclasses.replace(common, mean=own.mean, std=own.std)
        logits.append(member.logits(data, device, refresh, training))
    labels = {name: split.labels.cpu() for name, split in common.splits.items() if name in logits[0]}
    p = {name: scores.probabilities(torch.stack([splits[name] for splits in logits])) for name in labels}
    w = _weights(weights, p, labels, len(members))
    validation = (p["validation"], labels["validation"]) if "validation" in p else None
    splits = {
        name: on_split(p[name], labels[name], w, validation if name == "test" else None, calibrate=name != "train")
        for name in labels
    }
    return EnsembleResult(members=[member.name for member in members], weights=w.tolist(), splits=splits)


def on_split(
    p: Tensor, labels: Tensor, weights: Tensor, validation: Prediction | None = None, calibrate: bool = True
) -> SplitResult:
    """Return the scores and the diversity of members with probabilities p [M, N, C] on one split.

    calibrate: add the scores at the optimal temperature. validation: the members' probabilities [M, N', C] on the
    images on which the temperatures are found, and the labels of these. Without it, they are found on halves of the
    split.
    """
    on_validation, known = validation or (p, None)

    def score_all(predictions: Iterable[Tensor], others: Iterable[Tensor]) -> list[Scores]:
        return [
            _scores((q, labels), None if known is None else (other, known), calibrate)
            for q, other in zip(predictions, others, strict=True)
        ]

    v, c = scores.variance_and_covariance(p, labels)
    growth = score_all(scores.averages(p, weights), scores.averages(on_validation, weights))
    return SplitResult(
        members=score_all(p, on_validation),
        ensemble=growth[-1],
        growth=growth,
        variance=v,
        covariance=None if math.isnan(c) else c,
        correlation=None if math.isnan(c) or not v else scores.error_correlation(v, c),
        predicted_reduction=scores.predicted_reduction(v, c, len(p)) if v else None,
        measured_reduction=scores.brier(scores.average(p), labels) / v if v else None,
        disagreement=scores.disagreement(p).tolist(),
        chance_disagreement=scores.chance_disagreement(p, labels).tolist(),
        mutual_information=scores.mutual_information(p, weights),
        temperature_from=("halves" if known is None else "validation") if calibrate else None,
    )


def _cosines(members: Sequence[Checkpoint], theta: Theta, parameters: Tensor) -> list[list[float]] | None:
    """Return the cosines between the directions from the members' initial parameters to their parameters [M, P]."""
    seeds = [member.initial_seed for member in members]
    if None in seeds:
        return None
    starts = [member.initial_parameters(theta, seed) for member, seed in zip(members, seeds, strict=True)]
    cosines: list[list[float]] = scores.cosines(parameters - torch.stack(starts)).tolist()
    return cosines


def _scores(prediction: Prediction, validation: Prediction | None, calibrate: bool) -> Scores:
    calibrated = calibration.calibrated(prediction, validation) if calibrate else {}
    return Scores(**scores.scores(*prediction), **calibrated)


def _weights(weights: Weights, p: dict[str, Tensor], labels: dict[str, Tensor], members: int) -> Tensor:
    """Return the weights [M] with sum 1. Raise EnsembleError if they do not fit."""
    if weights == "equal":
        return torch.full((members,), 1 / members, dtype=torch.float64)
    if weights == "likelihood":
        if "validation" not in p:
            raise EnsembleError("--weights=likelihood needs validation images: set dataset.validation_fraction > 0")
        try:
            return scores.likelihood_weights(p["validation"], labels["validation"])
        except ValueError as error:
            raise EnsembleError(str(error)) from error
    w = torch.tensor([float(weight) for weight in weights], dtype=torch.float64)
    try:
        scores.average(next(iter(p.values())), w)
    except ValueError as error:
        raise EnsembleError(str(error)) from error
    return w / w.sum()


def _mean(members: Sequence[Checkpoint], device: torch.device) -> dict[str, Tensor]:
    """Return the mean of the members' floating-point parameters and buffers, in float64."""
    mean: dict[str, Tensor] = {}
    for member in members:
        for name, value in member.network(device).state_dict().items():
            if value.is_floating_point():
                share = value.cpu().double() / len(members)
                mean[name] = mean[name] + share if name in mean else share
    return mean


def _parameter_average(
    member: Checkpoint, mean: dict[str, Tensor], data: Data, device: torch.device
) -> dict[str, Scores]:
    """Return the scores on each split of the network at the members' mean (Izmailov et al. 2018), with batch-norm
    statistics recomputed. Such a network costs as much as one member."""
    network = member.network(device)
    state = network.state_dict()
    network.load_state_dict(state | {name: value.to(state[name].dtype) for name, value in mean.items()})
    autocast = member.config.autocast_of_stored(device)
    refresh_batch_norm(network, data, autocast)
    predictions = {
        name: (scores.probabilities(predict(network, data, split, autocast)), split.labels.cpu())
        for name, split in data.splits.items()
    }
    validation = predictions.get("validation")
    return {
        name: _scores(prediction, validation if name == "test" else None, calibrate=name != "train")
        for name, prediction in predictions.items()
    }

"""Score an ensemble on each split, beside its members, and measure how different these are."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from distancing.data.batches import Data
from distancing.ensemble import calibration, scores
from distancing.errors import EnsembleError
from distancing.hills.theta import Theta
from distancing.models.evaluation import predict, refresh_batch_norm
from distancing.stored import Checkpoint, evaluation_images

Weights = str | Sequence[float]  # `equal`, `likelihood`, or one number for each member


def judge(
    members: Sequence[Checkpoint],
    device: torch.device,
    weights: Weights = "equal",
    refresh: bool = False,
    common: Data | None = None,
) -> dict[str, Any]:
    """Return the result of `scored`, and these fields if all members have one architecture:

    distances: the matrix of ‖θ_i − θ_j‖ between the members.
    cosines: the matrix of the cosines between the members' directions θ_i − θ_0.
    parameter_average: the scores on each split of the network at the mean of the members' parameters.

    common: the images, if the members are of one run, which normalises them alike; by default `evaluation_images`.
    """
    result = scored(members, device, weights, refresh, common)
    if len({member.config.model for member in members}) == 1:
        theta = Theta(members[0].network(device))
        parameters = torch.stack([member.parameters(theta) for member in members])
        directions = parameters - torch.stack([member.initial_parameters(theta) for member in members])
        result["distances"] = scores.distances(parameters).tolist()
        result["cosines"] = scores.cosines(directions, torch.zeros_like(directions[0])).tolist()
        common = common or evaluation_images(members[0].config, device)
        result["parameter_average"] = _parameter_average(members[0], _mean(members, device), common, device)
    return result


def scored(
    members: Sequence[Checkpoint],
    device: torch.device,
    weights: Weights = "equal",
    refresh: bool = False,
    common: Data | None = None,
) -> dict[str, Any]:
    """Return these fields:

    members: the names of the ensemble members.
    weights: the weights of the members, with sum 1.
    splits: the scores on each split.

    refresh: recompute each member's batch-norm statistics. common: as in `judge`. Raises EnsembleError for weights that
    do not fit, DatasetError for images that can't be read, StorageError for a damaged checkpoint.
    """
    same_run, common = common is not None, common or evaluation_images(members[0].config, device)
    logits: list[dict[str, Tensor]] = []
    for member in members:  # one network at a time is in memory
        data = common
        if member.config.dataset.folds and not same_run:  # a member of a fold normalises by its own training images
            own = evaluation_images(member.config, device)
            data = dataclasses.replace(common, mean=own.mean, std=own.std)
        logits.append(member.logits(data, device, refresh))
    labels = {name: split.labels.cpu() for name, split in common.splits.items()}
    p = {name: scores.probabilities(torch.stack([splits[name] for splits in logits])) for name in labels}
    w = _weights(weights, p, labels, len(members))
    splits = {name: on_split(p[name], labels[name], w) for name in labels if name != "test"}
    validation = (p["validation"], labels["validation"]) if "validation" in p else None
    splits["test"] = on_test(p["test"], labels["test"], w, validation)
    return {"members": [member.name for member in members], "weights": w.tolist(), "splits": splits}


def on_split(p: Tensor, labels: Tensor, weights: Tensor) -> dict[str, Any]:
    """Return the scores and the diversity of members with probabilities p [M, N, C] on one split:

    members: the scores of each member.
    ensemble: the scores of the weighted average of the members' probabilities.
    growth: the scores of the averages of the first 1, 2, … members.
    variance: v of (1.14), the mean squared error p − y of a member, which is its Brier score.
    covariance: c of (1.14), the mean product of two members' errors.
    correlation: c/v.
    predicted_reduction: the ensemble's squared error relative to v, by (1.14).
    measured_reduction: the same as measured.
    disagreement: the matrix of the shares of images for which two members predict different classes.
    chance_disagreement: the matrix of the disagreements of members with these accuracies, if errors are independent.
    mutual_information (nats): between the prediction and the member, mean over the images.

    Values that are undefined are None: c for a single member, ratios if v = 0.
    """
    v, c = scores.variance_and_covariance(p, labels)
    growth = scores.growth(p, labels, weights)
    return {
        "members": [scores.scores(q, labels) for q in p],
        "ensemble": growth[-1],
        "growth": growth,
        "variance": v,
        "covariance": None if math.isnan(c) else c,
        "correlation": None if math.isnan(c) or not v else scores.error_correlation(v, c),
        "predicted_reduction": scores.predicted_reduction(v, c, len(p)) if v else None,
        "measured_reduction": scores.brier(scores.average(p), labels) / v if v else None,
        "disagreement": scores.disagreement(p).tolist(),
        "chance_disagreement": scores.chance_disagreement(p, labels).tolist(),
        "mutual_information": scores.mutual_information(p, weights),
    }


def on_test(p: Tensor, labels: Tensor, weights: Tensor, validation: tuple[Tensor, Tensor] | None) -> dict[str, Any]:
    """Return `on_split` of the test split, the scores of `calibration.calibrated` beside the others, and this field:

    temperature_from: the images on which the temperatures were found: `validation`, or `halves` of the test split.

    validation: the members' probabilities [M, N, C] on the validation split, and its labels.
    """
    result = on_split(p, labels, weights)
    on_validation, known = validation or (p, None)

    def add_calibrated(rows: list[dict[str, float]], *predictions: Iterable[Tensor]) -> None:
        for row, q, q_validation in zip(rows, *predictions, strict=True):
            row |= calibration.calibrated((q, labels), None if known is None else (q_validation, known))

    add_calibrated(result["members"], p, on_validation)
    add_calibrated(result["growth"], scores.averages(p, weights), scores.averages(on_validation, weights))
    return {**result, "temperature_from": "validation" if validation else "halves"}


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


def _parameter_average(member: Checkpoint, mean: dict[str, Tensor], data: Data, device: torch.device) -> dict[str, Any]:
    """Return the scores on each split of the network at the members' mean (Izmailov et al. 2018), with batch-norm
    statistics recomputed. Such a network costs as much as one member."""
    network = member.network(device)
    state = network.state_dict()
    network.load_state_dict(state | {name: value.to(state[name].dtype) for name, value in mean.items()})
    autocast = member.config.autocast(device)
    refresh_batch_norm(network, data, autocast)
    predictions = {
        name: (scores.probabilities(predict(network, data, split, autocast)), split.labels.cpu())
        for name, split in data.splits.items()
    }
    result = {name: scores.scores(*prediction) for name, prediction in predictions.items()}
    result["test"] |= calibration.calibrated(predictions["test"], predictions.get("validation"))
    return result

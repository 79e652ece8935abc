"""What an ensemble is worth: its scores on each split, beside its members', and how different these are."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from distancing.data.batches import Data
from distancing.ensemble import scores
from distancing.errors import EnsembleError
from distancing.hills.theta import Theta
from distancing.models.evaluation import predict, refresh_batch_norm
from distancing.stored import Checkpoint, evaluation_images

Weights = str | Sequence[float]  # `equal`, `likelihood`, or one for each member


def judge(
    members: Sequence[Checkpoint],
    device: torch.device,
    weights: Weights = "equal",
    refresh: bool = False,
    common: Data | None = None,
) -> dict[str, Any]:
    """The ensemble of these members, as `scored` judges it, and where its members are; README.md documents all of it.

    common: the images, where all members are of one run and see them alike; None: as `images` gives them.
    """
    found = scored(members, device, weights, refresh, common)
    if len({member.config.model for member in members}) == 1:
        theta = Theta(members[0].network(device))
        places = torch.stack([member.parameters(theta) for member in members])
        ways = places - torch.stack([member.initial_parameters(theta) for member in members])
        found["distances"] = scores.distances(places).tolist()
        found["cosines"] = scores.cosines(ways, torch.zeros_like(ways[0])).tolist()
        common = common or evaluation_images(members[0].config, device)
        found["parameter_average"] = _parameter_average(members[0], _mean(members, device), common, device)
    return found


def scored(
    members: Sequence[Checkpoint],
    device: torch.device,
    weights: Weights = "equal",
    refresh: bool = False,
    common: Data | None = None,
) -> dict[str, Any]:
    """The members' names and weights, and on each split what they say alone and together.

    refresh: judge each member with batch-norm statistics computed anew. Raises EnsembleError for weights that
    don't fit, DatasetError for images that can't be read, StorageError for a damaged checkpoint.
    """
    alike, common = common is not None, common or evaluation_images(members[0].config, device)
    logits: list[dict[str, Tensor]] = []
    for member in members:  # one network at a time: only its logits stay
        data = common
        if member.config.dataset.folds and not alike:  # each sees the images as its own training images made it
            own = evaluation_images(member.config, device)
            data = dataclasses.replace(common, mean=own.mean, std=own.std)
        logits.append(member.logits(data, device, refresh))
    labels = {name: split.labels.cpu() for name, split in common.splits.items()}
    p = {name: scores.probabilities(torch.stack([each[name] for each in logits])) for name in labels}
    w = _weights(weights, p, labels, len(members))
    return {
        "members": [member.name for member in members],
        "weights": [float(each) for each in w],
        "splits": {name: of_split(p[name], labels[name], w) for name in labels},
    }


def of_split(p: Tensor, labels: Tensor, weights: Tensor) -> dict[str, Any]:
    """Of the members' probabilities [M, N, C] on one split."""
    each = [scores.scores(one, labels) for one in p]
    v, c = scores.variance_and_covariance(p, labels)
    growth = scores.growth(p, labels, weights)
    return {
        "members": each,
        "ensemble": growth[-1],
        "growth": growth,
        "variance": v,
        "covariance": None if math.isnan(c) else c,  # of a single member
        "correlation": None if math.isnan(c) or not v else scores.error_correlation(v, c),
        "predicted_reduction": scores.predicted_reduction(v, c, len(p)) if v else None,
        "measured_reduction": scores.brier(scores.average(p), labels) / v if v else None,
        "disagreement": scores.disagreement(p).tolist(),
        "mutual_information": scores.mutual_information(p, weights),
    }


def _weights(asked: Weights, p: dict[str, Tensor], labels: dict[str, Tensor], members: int) -> Tensor:
    if asked == "equal":
        return torch.full((members,), 1 / members, dtype=torch.float64)
    if asked == "likelihood":
        if "validation" not in p:
            raise EnsembleError("weights by likelihood need a validation part: dataset.validation_fraction > 0")
        return scores.likelihood_weights(p["validation"], labels["validation"])
    weights = torch.tensor([float(each) for each in asked], dtype=torch.float64)
    try:
        scores.average(next(iter(p.values())), weights)
    except ValueError as error:
        raise EnsembleError(str(error)) from error
    return weights / weights.sum()


def _mean(members: Sequence[Checkpoint], device: torch.device) -> dict[str, Tensor]:
    """The mean of all numbers in the members' state_dicts, in float64."""
    mean: dict[str, Tensor] = {}
    for member in members:
        for name, value in member.network(device).state_dict().items():
            if value.is_floating_point():
                share = value.cpu().double() / len(members)
                mean[name] = mean[name] + share if name in mean else share
    return mean


def _parameter_average(
    member: Checkpoint, average: dict[str, Tensor], data: Data, device: torch.device
) -> dict[str, Any]:
    """(Izmailov et al. 2018) Of the network at the mean of the members' parameters, which costs one network's time:
    its scores on each split, its batch-norm statistics computed anew."""
    network = member.network(device)
    state = network.state_dict()
    network.load_state_dict(state | {name: value.to(state[name].dtype) for name, value in average.items()})
    autocast = member.config.autocast(device)
    refresh_batch_norm(network, data, autocast)
    found = {}
    for name, split in data.splits.items():
        found[name] = scores.scores(scores.probabilities(predict(network, data, split, autocast)), split.labels.cpu())
    return found

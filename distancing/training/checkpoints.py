"""A run's stored checkpoints: their files, and their parameters as one matrix that the hills read."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from distancing.data.batches import Data
from distancing.errors import StorageError
from distancing.hills.theta import Theta
from distancing.models.evaluation import loss_and_accuracy, predict
from distancing.runs import RunDirectory, load, save


class Checkpoints:
    """infos: name, phase, epoch and metrics of each. parameters: θ_c [K, P].

    capacity: how many the run will store, so that their memory is allocated once.
    """

    def __init__(self, theta: Theta, capacity: int) -> None:
        self.infos: list[dict[str, Any]] = []
        self._theta = theta
        self._bank = theta.vector.new_empty(capacity, len(theta))

    def __len__(self) -> int:
        return len(self.infos)

    @property
    def names(self) -> list[str]:
        return [info["name"] for info in self.infos]

    @property
    def parameters(self) -> Tensor:
        return self._bank[: len(self)]

    def add(self, info: dict[str, Any], parameters: Tensor) -> None:
        """Add a checkpoint with these parameters [P]."""
        if len(self) == len(self._bank):  # a run that is resumed with more than its phases store
            self._bank = torch.cat((self._bank, parameters[None]))
        self._bank[len(self)] = parameters
        self.infos.append(info)

    def load(self, infos: list[dict[str, Any]], directory: RunDirectory, config_hash: str) -> None:
        """Add those of a resumed run. Raises StorageError if a file is damaged or of another run."""
        for info in infos:
            stored = load(directory.checkpoint(info["name"]), self._bank.device)
            if stored["config_hash"] != config_hash:
                raise StorageError(f"{directory.checkpoint(info['name'])} is the checkpoint of another run")
            self.add(info, self._theta.flatten(stored["network"]))


def save_checkpoint(
    directory: RunDirectory,
    network: nn.Module,
    data: Data,
    autocast: torch.autocast,
    about: Mapping[str, Any],
    config_hash: str,
) -> dict[str, Any]:
    """Store the network's `state_dict` with what is known of it, and its logits beside it for the ensemble.

    about: the checkpoint's name, phase and epoch. Return it with the metrics of each split; if the training loss is
    not finite, store nothing.
    """
    logits = {name: predict(network, data, split, autocast) for name, split in data.splits.items()}
    metrics = {name: loss_and_accuracy(logits[name], split.labels.cpu()) for name, split in data.splits.items()}
    info = {**about, "metrics": metrics}
    if math.isfinite(metrics["train"]["loss"]):
        tensors = {key: value.cpu().contiguous().clone() for key, value in network.state_dict().items()}
        save(directory.checkpoint(info["name"]), {**info, "config_hash": config_hash, "network": tensors})
        directory.save_logits(info["name"], {split.fingerprint: logits[name] for name, split in data.splits.items()})
    return info

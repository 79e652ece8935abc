"""The stored checkpoints of a run: their files, and their parameters as one matrix, which the hills read."""

import math
from typing import TypedDict

import torch
from torch import Tensor, nn

from distancing.data.batches import Data
from distancing.errors import StorageError
from distancing.hills.theta import Theta
from distancing.models.evaluation import loss_and_accuracy, predict
from distancing.runs import RunDirectory, load, save


class About(TypedDict):
    """The position in the run at which a checkpoint was stored; see `runs.result.CheckpointInfo`."""

    name: str
    phase: str
    epoch: int
    initial_seed: int | None
    forward: float
    backward: float


class Info(About):
    """The data that a checkpoint's file holds beside its tensors. metrics: loss (nats) and accuracy of each split."""

    metrics: dict[str, dict[str, float]]


class Checkpoints:
    """The stored checkpoints of a run.

    infos: the data about each of them. parameters: θ_c [K, P].
    capacity: the number of checkpoints that the run will store, so that their memory is allocated once.
    """

    def __init__(self, theta: Theta, capacity: int) -> None:
        self.infos: list[Info] = []
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

    def add(self, info: Info, parameters: Tensor) -> None:
        """Add a checkpoint with these parameters [P]."""
        if len(self) == len(self._bank):  # the resumed run stored more of them than its phases do now
            self._bank = torch.cat((self._bank, parameters[None]))
        self._bank[len(self)] = parameters
        self.infos.append(info)

    def load(self, infos: list[Info], directory: RunDirectory, config_hash: str) -> None:
        """Add the checkpoints of a resumed run. Raise StorageError if a file is damaged or belongs to another run."""
        for info in infos:
            file = directory.checkpoint(info["name"])
            content = load(file, self._bank.device)
            if content["config_hash"] != config_hash:
                raise StorageError(f"{file} is the checkpoint of another run")
            self.add(info, self._theta.flatten(content["network"]))


def save_checkpoint(
    directory: RunDirectory,
    network: nn.Module,
    data: Data,
    autocast: torch.autocast,
    about: About,
    config_hash: str,
) -> Info:
    """Store the network as a checkpoint, with its logits for the ensemble; return what is stored about it.

    about: the position in the run. Nothing is stored if the training loss is not finite.
    """
    logits = {name: predict(network, data, split, autocast) for name, split in data.splits.items()}
    metrics = {name: loss_and_accuracy(logits[name], split.labels.cpu()) for name, split in data.splits.items()}
    info = Info(**about, metrics=metrics)
    if math.isfinite(metrics["train"]["loss"]):
        tensors = {key: value.cpu().contiguous().clone() for key, value in network.state_dict().items()}
        save(directory.checkpoint(info["name"]), {**info, "config_hash": config_hash, "network": tensors})
        directory.save_logits(info["name"], {split.fingerprint: logits[name] for name, split in data.splits.items()})
    return info

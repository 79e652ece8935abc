"""The members of an ensemble, from wherever they are: runs, sweeps and single checkpoint files."""

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from distancing.config import read_config
from distancing.data.batches import Data
from distancing.errors import EnsembleError, StorageError
from distancing.hills.theta import Theta
from distancing.models.evaluation import predict, refresh_batch_norm
from distancing.runs import RunDirectory, SweepDirectory, load
from distancing.runs.result import read_result
from distancing.training.settings import Config


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A stored network. name: the checkpoint's, with its run's before it where they are of several runs."""

    name: str
    file: Path
    config: Config

    def network(self, device: torch.device) -> nn.Module:
        """Raises StorageError if the file is damaged, or of another network than its run's config says."""
        network = self.config.build_network(device)
        try:
            stored = load(self.file, device)
            if stored["config_hash"] != self.config.hash:
                raise KeyError(f"made with the config {stored['config_hash']}, and not {self.config.hash}")
            network.load_state_dict(stored["network"])
        except (KeyError, RuntimeError, TypeError) as error:
            raise StorageError(f"{self.file} is no network of its run's: {str(error).splitlines()[0]}") from error
        return network

    def parameters(self, theta: Theta) -> Tensor:
        """Return the parameters [P] in the order and on the device of `theta`, whatever their run's own layout."""
        return theta.flatten(self.network(theta.vector.device).state_dict())

    def initial_parameters(self, theta: Theta) -> Tensor:
        """Return θ_0, its run's initial parameters [P], in the order and on the device of `theta`."""
        with torch.random.fork_rng([]):
            torch.manual_seed(self.config.seed)
            return theta.flatten(self.config.build_network(theta.vector.device).state_dict())

    def logits(self, data: Data, device: torch.device, refresh: bool = False) -> dict[str, Tensor]:
        """Of each split, float32 [N, C] on the CPU; computed once and kept beside the checkpoint.

        refresh: with the batch norms' statistics computed anew, which is not kept.
        """
        directory, name = RunDirectory(self.file.parent.parent), self.file.stem
        known = {} if refresh else directory.load_logits(name)
        missing = {name: split for name, split in data.splits.items() if split.fingerprint not in known}
        if missing:
            network, autocast = self.network(device), self.config.autocast(device)
            if refresh:
                refresh_batch_norm(network, data, autocast)
            known |= {split.fingerprint: predict(network, data, split, autocast) for split in missing.values()}
        if missing and not refresh:
            with contextlib.suppress(OSError):  # a folder that can't be written to is no reason not to judge
                directory.save_logits(name, known)
        return {name: known[split.fingerprint] for name, split in data.splits.items()}


def evaluation_images(config: Config, device: torch.device) -> Data:
    """The images on which members of this config are judged: the training images each once, as they are. What is
    trained with, and what is held out, differ from fold to fold: there, all but the test images together."""
    whole = dataclasses.replace(config.dataset, augment=False, bootstrap=False, fold=None, folds=None).load(
        device, config.memory_format(device)
    )
    if not config.dataset.folds:
        return whole
    own = dataclasses.replace(config.dataset, augment=False, bootstrap=False).load(device, config.memory_format(device))
    return dataclasses.replace(whole, mean=own.mean, std=own.std)


def find_checkpoints(what: Sequence[str | Path]) -> list[Checkpoint]:
    """The members in these runs, in all runs of these sweeps, and in these checkpoint files, in this order, each once.

    Of a run: its stored checkpoints, and the final network where that is another one. Raises EnsembleError for
    what is none of these or does not fit, StorageError for a damaged file, ConfigError for a config that isn't one.
    """
    files: dict[Path, None] = {}
    for each in map(Path, what):
        if each.suffix == ".pt" and each.is_file():
            files[each] = None
        elif (each / "runs.jsonl").exists():
            files |= dict.fromkeys(file for run in SweepDirectory(each).runs() for file in checkpoint_files(run.path))
        elif (each / ".hydra/config.yaml").exists():
            files |= dict.fromkeys(checkpoint_files(each))
        else:
            raise EnsembleError(f"{each} is neither a run's directory, nor a sweep's, nor a checkpoint's file")
    configs = {run: read_config(run / ".hydra/config.yaml") for run in {file.parent.parent for file in files}}
    alone = len(configs) == 1
    members = [
        Checkpoint(file.stem if alone else f"{file.parent.parent.name}/{file.stem}", file, configs[file.parent.parent])
        for file in files
    ]
    if not members:
        raise EnsembleError(f"there is no stored network in {', '.join(map(str, what))}")
    fit(members)
    return members


def checkpoint_files(run: Path) -> list[Path]:
    """A run's stored networks: as its result lists them, or where it is not done by the epochs that the files say."""
    directory = RunDirectory(run)
    if result := read_result(directory):
        networks = result.networks
        if len(networks) > 1 and networks[-1].epoch == networks[-2].epoch:
            networks.pop()  # the final network is the last checkpoint
        return [directory.checkpoint(network.name) for network in networks]
    found = [(load(file)["epoch"], file.name, file) for file in (run / "checkpoints").glob("*.pt")]
    return [file for *_, file in sorted(found)]


def fit(members: Sequence[Checkpoint]) -> None:
    """Raises EnsembleError unless all members have learned the same task from the same division of the images."""
    first = members[0]
    for other in members[1:]:
        for key in ("train_images", "validation_fraction", "folds", "seed"):
            a, b = (getattr(member.config.dataset, key) for member in (first, other))
            if type(first.config.dataset) is not type(other.config.dataset):
                key, a, b = "_target_", *(type(member.config.dataset).__name__ for member in (first, other))
            if a != b:
                raise EnsembleError(f"{first.name} has dataset.{key}={a}, but {other.name} has {b}: they don't fit")

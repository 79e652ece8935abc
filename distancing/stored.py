"""Stored checkpoints, found in runs, in sweeps or as single files, and the images to evaluate them on."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from distancing.config.checks import read_config
from distancing.data.batches import Data, Split
from distancing.data.datasets import Dataset, Torchvision
from distancing.errors import EnsembleError, StorageError, first_line
from distancing.hills.theta import Theta
from distancing.models.evaluation import predict, refresh_batch_norm
from distancing.runs import RunDirectory, SweepDirectory, load
from distancing.runs.files import seal
from distancing.runs.result import read_result
from distancing.training.plan import unroll
from distancing.training.settings import Config

# the settings of a data set that all networks of an ensemble must share, if it has them
SAME = ("train_images", "validation_fraction", "folds", "seed", "split", "test_fraction", "image_size", "colours")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A stored network. name: the checkpoint's name, after that of its run if there are several runs."""

    name: str
    file: Path
    config: Config

    def network(self, device: torch.device) -> nn.Module:
        """Return the network. Raise StorageError if the file is damaged or does not fit the run's config."""
        network = self.config.build_network(device)
        try:
            content = load(self.file, device)
            if content["config_hash"] != self.config.hash:
                raise KeyError(f"made with the config {content['config_hash']}, and not {self.config.hash}")
            network.load_state_dict(content["network"])
        except (KeyError, RuntimeError, TypeError) as error:
            raise StorageError(f"{self.file} does not fit its run's config: {first_line(error)}") from error
        return network

    def parameters(self, theta: Theta) -> Tensor:
        """Return the parameters [P] in the order and on the device of `theta`, whatever the layout of their run."""
        return theta.flatten(self.network(theta.vector.device).state_dict())

    def initial_parameters(self, theta: Theta, seed: int | None = None) -> Tensor:
        """Return θ_0 [P] in the order and on the device of `theta`. It is drawn with this seed, or else the run's."""
        with torch.random.fork_rng([]):
            torch.manual_seed(self.config.seed if seed is None else seed)
            return theta.flatten(self.config.build_network(theta.vector.device).state_dict())

    @property
    def initial_seed(self) -> int | None:
        """The seed of the initial parameters from which the network was trained; None if a run of an older version drew
        some anew."""
        reinitialises = any(phase.reinitialise for phase in unroll(self.config.phases).values())
        known: int | None = load(self.file).get("initial_seed", None if reinitialises else self.config.seed)
        return known

    def predictor(self, common: Data, device: torch.device, refresh: bool = False) -> Callable[[Split], Tensor]:
        """Return a function that gives the logits [N, C] of any images, as float32 on the CPU.

        common: the images of the ensemble, whose mean and variance normalise the others. A member of a fold has its
        own. refresh: recompute the batch norms' statistics first.
        """
        data = evaluation_images(self.config, device) if self.config.dataset.folds else common
        network, autocast = self.network(device), self.config.autocast_of_stored(device)
        if refresh:
            refresh_batch_norm(network, data, autocast)
        return lambda split: predict(network, data, split, autocast)

    def logits(
        self, data: Data, device: torch.device, refresh: bool = False, training: bool = True
    ) -> dict[str, Tensor]:
        """Return the logits of each split, float32 [N, C] on the CPU. They are computed once and stored in the run.

        refresh: recompute the batch norms' statistics first. These logits are not stored.
        training: include the training images, which are most of the work.
        """
        directory, name = RunDirectory(self.file.parent.parent), self.file.stem
        known = {} if refresh else self._known_logits(data)
        splits = {name: split for name, split in data.splits.items() if training or name != "train"}
        missing = {name: split for name, split in splits.items() if split.fingerprint not in known}
        if missing:
            network, autocast = self.network(device), self.config.autocast_of_stored(device)
            if refresh:
                refresh_batch_norm(network, data, autocast)
            known |= {split.fingerprint: predict(network, data, split, autocast) for split in missing.values()}
        if missing and not refresh:
            with contextlib.suppress(OSError):  # the folder may be read-only
                directory.save_logits(name, known)
        return {name: known[split.fingerprint] for name, split in splits.items()}

    def check_images(self, data: Data) -> None:
        """Raise StorageError if the run scored this network on other images.

        The training images of a bag or of a fold are its own, so that only the test images are compared.
        """
        self._known_logits(data)

    def _known_logits(self, data: Data) -> dict[str, Tensor]:
        """Return the stored logits [N, C] by the fingerprints of their images. Raise as `check_images`."""
        known = RunDirectory(self.file.parent.parent).load_logits(self.file.stem)
        own = self.config.dataset.bootstrap or self.config.dataset.folds
        common = [data.test] if own else [data.test, data.train]
        # the logits of the training images may be missing: a comparison stores only those of the other images
        others = known.keys() - {split.fingerprint for split in data.splits.values()}
        if others and any(split.fingerprint not in known for split in common):  # the run stored those of its images
            raise StorageError(
                f"{self.name} was scored on other images: restore them, or take networks of one data set; to "
                f"score it on these, delete {self.file.parent / 'logits'}"
            )
        return known


def evaluation_images(config: Config, device: torch.device) -> Data:
    """Return the images on which the networks of this config are evaluated: each image once, without augmentation.

    Training and validation images differ from fold to fold. With folds, both together are therefore the training split.
    """
    dataset, memory_format = on_this_machine(config.dataset), config.memory_format(device)
    whole = dataclasses.replace(dataset, augment=False, bootstrap=False, fold=None, folds=None).load(
        device, memory_format
    )
    if not dataset.folds:
        return whole
    own = dataclasses.replace(dataset, augment=False, bootstrap=False).load(device, memory_format)
    return dataclasses.replace(whole, mean=own.mean, std=own.std)


def on_this_machine(dataset: Dataset) -> Dataset:
    """Return the data set. It is read from $DISTANCING_DATA if this machine lacks the folder that the run used."""
    here = os.environ.get("DISTANCING_DATA")
    if here and isinstance(dataset, Torchvision) and not Path(dataset.root).is_dir():
        return dataclasses.replace(dataset, root=here)
    return dataset


def find_checkpoints(paths: Sequence[str | Path]) -> list[Checkpoint]:
    """Return the checkpoints of these runs, of the runs of these sweeps, and in these files, in this order, each once.

    A run's final network is left out if it is the last checkpoint. Raise EnsembleError if a path is none of these, the
    networks do not fit together or one is a copy of another, StorageError for a damaged file, ConfigError for a wrong
    config.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.suffix == ".pt" and path.is_file():
            found.append(path)
        elif (path / "runs.jsonl").exists():
            found += [file for run in SweepDirectory(path).runs() for file in checkpoint_files(run.path)]
        elif (path / ".hydra/config.yaml").exists():
            found += checkpoint_files(path)
        else:
            raise EnsembleError(f"{path} is not the directory of a run or a sweep, nor a checkpoint file")
    spellings: dict[Path, Path] = {}
    for file in found:
        spellings.setdefault(file.resolve(), file)
    files = [file for file in spellings.values() if not _is_given_again(file, spellings)]
    configs = {run: read_config(run / ".hydra/config.yaml") for run in {file.parent.parent for file in files}}
    one_run = len(configs) == 1
    checkpoints = [
        Checkpoint(
            file.stem if one_run else f"{file.parent.parent.name}/{file.stem}", file, configs[file.parent.parent]
        )
        for file in files
    ]
    if not checkpoints:
        raise EnsembleError(f"there is no checkpoint in {', '.join(map(str, paths))}")
    check_same_data(checkpoints)
    _check_no_copies(files)
    return checkpoints


def _is_given_again(file: Path, given: Collection[Path]) -> bool:
    """Return whether the file holds a run's final network, which the file of the last checkpoint holds, too.

    given: the resolved paths of all files.
    """
    if file.stem != "final":
        return False
    files = [path.resolve() for path in checkpoint_files(file.parent.parent)]
    return file.resolve() not in files and files[-1] in given


def _check_no_copies(files: Sequence[Path]) -> None:
    """Raise EnsembleError if a file is a copy of another one, because its network would count twice."""
    originals: dict[str, Path] = {}
    for file in filter(Path.exists, files):  # one that is missing is named when it is read
        if (original := originals.setdefault(seal(file), file)) != file:
            raise EnsembleError(f"{file} is a copy of {original}: leave one of them out")


def checkpoint_files(run: Path) -> list[Path]:
    """Return the checkpoint files of a run in the order of its result, or of their epochs if the run has not ended."""
    directory = RunDirectory(run)
    if result := read_result(directory):
        networks = result.networks
        if result.final and len(networks) > 1 and networks[-1].epoch == networks[-2].epoch:
            networks.pop()  # the final network is the last checkpoint
        return [directory.checkpoint(network.name) for network in networks]
    return sorted((run / "checkpoints").glob("*.pt"), key=lambda file: (load(file)["epoch"], file.name))


def check_same_data(checkpoints: Sequence[Checkpoint]) -> None:
    """Raise EnsembleError unless all networks have learned the same task from the same split of the images."""
    first, *others = checkpoints
    for other in others:
        for key in SAME:
            a, b = (getattr(checkpoint.config.dataset, key, None) for checkpoint in (first, other))
            if type(first.config.dataset) is not type(other.config.dataset):
                key, a, b = "_target_", *(type(checkpoint.config.dataset).__name__ for checkpoint in (first, other))
            if a != b:
                raise EnsembleError(f"{first.name} has dataset.{key}={a}, but {other.name} has {b}: they don't fit")

"""From the composed YAML to the settings of a run: everything is checked here, before any work."""

import dataclasses
import hashlib
import importlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Lt
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt, ValidationError, model_validator
from typing_extensions import Self
from yaml import YAMLError

from distancing.analysis import Analysis
from distancing.component import component
from distancing.datasets import Dataset, Torchvision
from distancing.distances import Distance
from distancing.kernels import Kernel
from distancing.models import Model
from distancing.optimizers import Optimizer
from distancing.penalty import Penalty
from distancing.phases import Cycle, Phase, share, stored, unroll
from distancing.schedules import Schedule

# what can't change a run's numbers, and so isn't part of its name
NOT_HASHED = (
    "name",
    "analysis",
    "threads",  # but for last digits
    "verify",
    "runs",
    "overwrite",
    "checkpoint_every",
    "dataset.root",
    "dataset.download",
)

SMALL, LARGE, LONG = 1e-38, 1e38, 2**32  # what a float32 holds, with room for a factor; and the largest integer
LONGEST = 10**6  # epochs and steps: states are named by six digits of each


class ConfigError(Exception):
    """A setting is wrong; the message is one line: which key, which value, what is allowed."""


def _threads(value: object) -> object:
    if value != "auto" and (type(value) is not int or value < 1):
        raise ValueError(f"threads={value!r}: auto belongs here, or an integer from 1 to the number of cores")
    return value


@component
class Config:
    """All settings of one run; conf/config.yaml says what each is for."""

    dataset: Dataset
    model: Model
    optimizer: Optimizer
    scheduler: Schedule
    penalty: Penalty | None
    phases: dict[str, Phase | Cycle]
    analysis: dict[str, Analysis] = Field(default_factory=dict)  # not in the frozen configs of older runs
    seed: Annotated[NonNegativeInt, Lt(2**32)]
    epochs: Annotated[PositiveInt, Lt(LONGEST)]
    batch_size: PositiveInt
    label_smoothing: Annotated[float, Ge(0), Lt(1)]
    device: Literal["auto", "cpu", "cuda", "mps"]
    threads: Annotated[PositiveInt | Literal["auto"], BeforeValidator(_threads)] = "auto"  # nor this
    precision: Literal["fp32", "bf16"]
    channels_last: bool
    compile: bool
    evaluate_every: PositiveInt
    checkpoint_every: PositiveInt
    name: str
    runs: str
    overwrite: bool
    verify: bool = False  # nor this
    hash: str  # of all settings that can change the numbers

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not re.fullmatch(r"[\w.+-]{1,100}", self.name):
            raise ValueError(f"name={self.name!r} may have 1 to 100 letters, digits and . _ + -")
        if not self.runs.strip() or not self.runs.isprintable():
            raise ValueError(f"runs={self.runs!r} is no folder's name")
        if self.batch_size > self.dataset.available:
            raise ValueError(f"batch_size={self.batch_size} is above the {self.dataset.available} training images")
        for name, cycle in self.phases.items():
            if isinstance(cycle, Cycle) and cycle.times > self.epochs:
                raise ValueError(f"phases.{name}.times={cycle.times} does not fit into epochs={self.epochs}")
        plan = unroll(self.phases)
        if not plan:
            raise ValueError("phases is empty: a run needs one phase at least")
        for name, phase in plan.items():
            if not re.fullmatch(r"[\w-]{1,50}", name) or name == "final":
                raise ValueError(f"phases.{name}: a phase's name may have letters, digits, _ and -, and not be 'final'")
            if phase.patience and not self.dataset.held_out:
                raise ValueError(
                    f"phases.{name}.patience={phase.patience} needs dataset.validation_fraction > 0, or dataset.folds"
                )
        for name, analysis in self.analysis.items():
            if not re.fullmatch(r"[\w-]{1,50}", name):
                raise ValueError(f"analysis.{name}: an analysis's name may have letters, digits, _ and -")
            if (places := len(stored(plan))) < analysis.least:
                raise ValueError(
                    f"analysis.{name} needs {analysis.least} places at least, and these phases leave {places}"
                )
        if all(phase.epochs for phase in plan.values()):
            total = sum(phase.epochs or 0 for phase in plan.values())
            if total != self.epochs:
                raise ValueError(
                    f"epochs={self.epochs}, but the phases' own epochs are {total} in all: "
                    "change it, or leave one phase's epochs null for the rest"
                )
        try:
            share(list(plan.values()), self.epochs)
        except ValueError as error:
            raise ValueError(f"epochs={self.epochs}: the {error}") from None
        if self.label_smoothing > (most := 1 - 1 / self.dataset.classes):
            raise ValueError(f"label_smoothing={self.label_smoothing} is above 1 − 1/classes = {most:.4g}")
        if self.dataset.size % self.batch_size == 1:
            raise ValueError(
                f"batch_size={self.batch_size} leaves a last batch of one of the {self.dataset.size} training "
                "images, which batch norm can't normalise"
            )
        return self

    @property
    def directory(self) -> str:
        """The run's directory: named by its config alone."""
        return f"{self.runs}/{self.name}-{self.hash}"

    def autocast(self, device: torch.device) -> torch.autocast:
        """What a network computes in."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def operations(self) -> float:
        """Return the floating-point operations of a forward pass of one batch."""
        return self.batch_size * self.model.operations(self.dataset.image_shape, self.dataset.classes)

    @property
    def memory_format(self) -> torch.memory_format:
        """Of images and convolutions."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    @property
    def torch_device(self) -> torch.device:
        """The device to train on. Raises ConfigError if it isn't there."""
        there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        if self.device == "auto":
            return torch.device(next(name for name, available in there.items() if available))
        if not there[self.device]:
            found = ", ".join(name for name, available in there.items() if available)
            raise ConfigError(f"device={self.device} is not on this machine, which has {found}")
        return torch.device(self.device)


# Hydra refuses a key that no YAML names, in words about structs. Within the groups it may let anything pass:
# `check` refuses it, and says what is allowed; and phases can be added on the command line.
GROUPS = ("dataset", "model", "optimizer", "scheduler", "penalty", "phases", "analysis")
ConfigStore.instance().store(
    name="open_groups", node=DictConfig({group: DictConfig({}, flags={"struct": False}) for group in GROUPS})
)

# Where a `_target_` may stand, and what it must be there: nothing else is ever constructed from a config.
TARGETS: dict[str, type] = {
    "dataset": Dataset,
    "model": Model,
    "optimizer": Optimizer,
    "scheduler": Schedule,
    "penalty": Penalty,
    "penalty.distance": Distance,
    "penalty.kernel": Kernel,
}
ABSTRACT = {Torchvision, Analysis, *TARGETS.values()} - {Penalty}  # what a component is, but none itself


def check(cfg: DictConfig) -> Config:
    """The settings of a composed config. Raises ConfigError for the first wrong key, value or combination."""
    try:
        tree = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).split("\n")[0]) from error
    assert isinstance(tree, dict)
    _plain(tree, "")
    settings: dict[str, Any] = {str(key): value for key, value in tree.items()}
    settings["hash"] = config_hash(settings)
    for key, value in settings.items():
        if key in TARGETS and not (key == "penalty" and value is None):
            settings[key] = _component(value, key, TARGETS[key])
    if "phases" in settings:
        settings["phases"] = _phases(settings["phases"])
    if isinstance(asked := settings.get("analysis"), dict):
        settings["analysis"] = {name: _component(each, f"analysis.{name}", Analysis) for name, each in asked.items()}
    config: Config = construct(Config, settings, "")
    return config


def _plain(node: Any, path: str) -> None:
    """Raises ConfigError for what is neither text, nor a truth value, nor a number that the arithmetic can hold."""
    if isinstance(node, (dict, list)):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            _plain(value, f"{path}.{key}".lstrip("."))
    elif isinstance(node, (int, float)):
        size = abs(node)
        if size > LONG if isinstance(node, int) else SMALL > size > 0 or math.inf > size > LARGE:
            shown = repr(node) if size < 10**50 or isinstance(node, float) else "…"
            limit = LONG if isinstance(node, int) else f"{SMALL} to {LARGE}"
            raise ConfigError(f"{path}={shown}: no number here may be as large or as small as that: {limit}")
    elif not isinstance(node, (str, type(None))):
        raise ConfigError(f"{path}={node!r}: a number, text, true, false or null belongs here")


def read_config(path: Path) -> Config:
    """The settings that a run was frozen with. Raises ConfigError if they can't be read, or aren't any."""
    try:
        cfg = OmegaConf.load(path)
    except (OSError, ValueError, RecursionError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path} can't be read: {(str(error).splitlines() or ['?'])[0]}") from error
    if not isinstance(cfg, DictConfig):
        raise ConfigError(f"{path} is no config")
    try:
        return check(cfg)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def composition_error(error: Exception) -> str:
    """Why Hydra or OmegaConf refused an override or a YAML, in one line."""
    cause = error.__cause__
    if isinstance(cause, OmegaConfBaseException) and cause.full_key and "." not in str(cause.full_key):
        return f"{cause.full_key} is not a setting; allowed here: {_allowed(Config)}"
    lines = [line.strip() for each in (error, cause) if each for line in str(each).splitlines()]
    if "Config search path:" in lines:
        lines = lines[: lines.index("Config search path:")]
    about = ("full_key", "object_type", "To append", "See https")
    return " ".join(line for line in lines if line and not line.startswith(about))


def config_hash(tree: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits that name a resolved config; equal numbers are equal, 1 and 1.0 too."""

    def canonical(value: Any, path: str) -> Any:
        if isinstance(value, Mapping):
            items = ((k, canonical(v, f"{path}.{k}".lstrip("."))) for k, v in value.items())
            kept = [(k, v) for k, v in items if f"{path}.{k}".lstrip(".") not in NOT_HASHED]
            if path == "phases":  # their order is their meaning
                return kept
            return dict(sorted(kept, key=lambda item: str(item[0])))
        if isinstance(value, list):
            return [canonical(v, path) for v in value]
        return float(value) if isinstance(value, int) and not isinstance(value, bool) else value

    return hashlib.sha256(json.dumps(canonical(tree, "")).encode()).hexdigest()[:8]


def _component(node: Any, path: str, base: type) -> Any:
    """The component that `node` describes: a class of this package that is a `base`."""
    if not isinstance(node, dict) or not isinstance(node.get("_target_"), str):
        raise ConfigError(f"{path}={node!r}: a component with a _target_ belongs here")
    for key, below in ((key, TARGETS.get(f"{path}.{key}")) for key in node):
        if below:
            node = {**node, key: _component(node[key], f"{path}.{key}", below)}
    target = node["_target_"]
    try:
        module, _, name = target.rpartition(".")
        if not module.startswith("distancing."):
            raise ImportError(target)
        cls = getattr(importlib.import_module(module), name)
        if not issubclass(cls, base) or cls in ABSTRACT:
            raise TypeError(target)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path}._target_={target}: only a {base.__name__} of this package may be constructed here"
        ) from error
    return construct(cls, {key: value for key, value in node.items() if key != "_target_"}, path)


def _phases(node: Any) -> Any:
    if not isinstance(node, dict):
        raise ConfigError(f"phases={node!r}: a dict of named phases belongs here")
    phases = {}
    for name, settings in node.items():
        path = f"phases.{name}"
        if not isinstance(settings, dict):
            raise ConfigError(f"{path}={settings!r}: a phase's settings belong here")
        if isinstance(settings.get("phases"), dict):
            inner = {k: construct(Phase, v, f"{path}.phases.{k}") for k, v in settings["phases"].items()}
            settings = {**settings, "phases": inner}
        phases[name] = construct(Cycle if {"times", "phases"} & set(settings) else Phase, settings, path)
    return phases


def construct(cls: type, settings: Any, path: str) -> Any:
    """cls(**settings), with what pydantic refuses said in one line."""
    if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
        raise ConfigError(f"{path}={settings!r}: named settings belong here")
    try:
        return cls(**settings)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join([path, *map(str, first["loc"])]).strip(".")
        raise ConfigError(
            {
                "unexpected_keyword_argument": f"{key} is not a setting; allowed here: {_allowed(cls)}",
                "missing": f"{key} is missing",
                "value_error": f"{path}: ".lstrip(": ") + str(first.get("ctx", {}).get("error")),
            }.get(first["type"], f"{key}={first['input']!r}: {_lower(first['msg'])}")
        ) from None


def _allowed(cls: type) -> str:
    return ", ".join(field.name for field in dataclasses.fields(cls) if field.name != "hash")


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]

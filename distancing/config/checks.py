"""Turn the composed YAML into the settings of a run, and check all of them before any work."""

import hashlib
import importlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, MissingMandatoryValue, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from yaml import YAMLError

from distancing.component import trust
from distancing.component.analysis import Analysis
from distancing.component.decorator import names, refusal
from distancing.data.datasets import Dataset, Torchvision
from distancing.errors import ConfigError, DatasetError, first_line
from distancing.hills.distances import Distance, FunctionSpace
from distancing.hills.kernels import Kernel
from distancing.hills.penalty import Penalty
from distancing.models import Model
from distancing.models.factory import Factory, is_factory
from distancing.runs import RunDirectory
from distancing.runs.flat import NOT_HASHED, Leaf, flat, typed
from distancing.training.optimizers import Optimizer
from distancing.training.plan import Cycle, Phase, checkpoints, stored, unroll, with_hills
from distancing.training.schedules import Schedule
from distancing.training.settings import LARGE, Config, Evaluation
from distancing.training.trial import decay_problem, try_out

Tree = dict[str, Any]  # a config as plain dicts and lists, not yet checked
SMALL, LONG = 1e-38, 2**32  # the smallest float (LARGE is the largest) and the largest integer
# The settings that may have a `_target_`, and its base class. Nothing else is constructed from a config.
TARGETS: dict[str, type] = {
    "dataset": Dataset,
    "model": Model,
    "optimizer": Optimizer,
    "scheduler": Schedule,
    "penalty": Penalty,
    "penalty.distance": Distance,
    "penalty.kernel": Kernel,
}
# A run's config names settings and modules as they were in the version that started it; here are their new names.
RENAMED = {"checkpoint_every": "save_every"}
MOVED = {
    "distancing.datasets": "distancing.data.datasets",
    "distancing.distances": "distancing.hills.distances",
    "distancing.kernels": "distancing.hills.kernels",
    "distancing.optimizers": "distancing.training.optimizers",
    "distancing.penalty": "distancing.hills.penalty",
    "distancing.schedules": "distancing.training.schedules",
}
FGE = ["rise", "fall"]  # a cycle in this order or in the alphabetical one hashes as in earlier versions, without it
LIBRARIES = "distancing.models.libraries"  # the module whose functions make networks
ABSTRACT = {Torchvision, Analysis, *TARGETS.values()} - {Penalty}  # base classes, which cannot be used themselves


def check(cfg: DictConfig) -> Config:
    """Return the settings of a composed config. Raise ConfigError for the first wrong key, value or combination."""
    return check_resolved(resolved(cfg))


def resolved(cfg: DictConfig) -> Tree:
    """Return a config as a dict, without references. Raise ConfigError if a value is missing or refers to nothing."""
    try:
        tree = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key} is missing: add {error.full_key}=VALUE") from error
    except OmegaConfBaseException as error:
        raise ConfigError(first_line(error)) from error
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


def check_resolved(tree: Mapping[str, Any]) -> Config:
    """Return the settings of a resolved config. Raise ConfigError for the first wrong key, value or combination."""
    _check_values(dict(tree), "")
    if "hash" in tree:
        raise ConfigError("hash is not a setting: it follows from the others")
    settings = {**tree, "hash": config_hash(tree)}
    settings = {RENAMED.get(key, key): value for key, value in settings.items()}
    for key, value in settings.items():
        if key in TARGETS and not (key == "penalty" and value is None):
            settings[key] = _component(value, key, TARGETS[key])
    if "phases" in settings:
        settings["phases"] = _phases(settings["phases"])
    if isinstance(analyses := settings.get("analysis"), dict):
        settings["analysis"] = {
            name: _component(analysis, f"analysis.{name}", Analysis) for name, analysis in analyses.items()
        }
    if "evaluate" in settings:
        settings["evaluate"] = construct(Evaluation, settings["evaluate"], "evaluate")
    config: Config = construct(Config, settings, "")
    return config


def check_new(config: Config, overrides: Sequence[str]) -> None:
    """Raise ConfigError for an analysis that the run's phases or network do not allow, and for settings without effect.

    Stored runs are not checked, because earlier versions accepted such configs.
    """
    plan = unroll(config.phases)
    is_pushed = config.penalty is not None and bool(with_hills(plan))
    network = config.model, config.dataset.image_shape, config.dataset.classes
    for name, analysis in config.analysis.items():
        if problem := analysis.problem(stored(plan), is_pushed) or analysis.network_problem(*network):
            raise ConfigError(f"analysis.{name} {problem}")
    try:
        try_out("optimizer", config.optimizer, partial(decay_problem, config.optimizer))
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if config.penalty:
        _check_penalty(config, config.penalty, plan, overrides)


def _check_penalty(config: Config, penalty: Penalty, plan: Mapping[str, Phase], overrides: Sequence[str]) -> None:
    """Raise ConfigError for settings of the penalty that have no effect or no meaning in these phases."""
    hills, distance = with_hills(plan), penalty.distance
    if isinstance(distance, FunctionSpace) and distance.probe and distance.probe > config.dataset.size:
        images = f"the {config.dataset.size} training images"
        raise ConfigError(f"penalty.distance.probe={distance.probe} is above {images}")
    begun_anew = dict(itertools.dropwhile(lambda named: not named[1].reinitialise, plan.items()))
    if penalty.sigma_unit == "travelled" and set(hills) & set(checkpoints(begun_anew)):
        raise ConfigError(
            "penalty.sigma_unit=travelled is the distance from the run's first parameters, but a phase with a hill "
            "begins at others (reinitialise=true): take norm or absolute"
        )
    for override in overrides:
        if not hills and typed(override)[0].partition(".")[0] == "penalty":
            raise ConfigError(
                f"{override} would have no effect, because no hill acts in these phases: take penalty=none, or "
                "give penalty=true to a phase that follows a checkpoint"
            )


def _check_values(node: Any, path: str) -> None:
    """Raise ConfigError for a leaf that is not text, a boolean, null, or a number within the range of float32."""
    if isinstance(node, (dict, list)):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            _check_values(value, f"{path}.{key}".lstrip("."))
    elif isinstance(node, (int, float)):
        size = abs(node)
        if size > LONG if isinstance(node, int) else SMALL > size > 0 or math.inf > size > LARGE:
            shown = repr(node) if size < 10**50 or isinstance(node, float) else "…"
            limit = f"at most {LONG}" if isinstance(node, int) else f"0, or from {SMALL} to {LARGE}"
            raise ConfigError(f"{path}={shown}: the absolute value must be {limit}")
    elif not isinstance(node, (str, type(None))):
        raise ConfigError(f"{path}={node!r}: expected a number, text, true, false or null")


def read_config(path: Path) -> Config:
    """Return the settings in a run's config file.

    Raise ConfigError if it cannot be read or is wrong, and DatasetError if the files of its data set can't be read.
    """
    cfg = _load(path)
    if not isinstance(cfg, DictConfig):
        raise ConfigError(f"{path} is not a config")
    try:
        return check(cfg)
    except (ConfigError, DatasetError) as error:
        raise type(error)(f"{path}: {error}") from error


def hyperparameters(directory: RunDirectory) -> dict[str, Leaf]:
    """Return the settings that can change a run's numbers, and the typed group choices, by their dotted names.

    A choice such as `penalty=none` may leave no setting behind it. Raise ConfigError if a file cannot be read.
    """
    tree: Any = OmegaConf.to_container(_load(directory.config))
    overrides: Any = OmegaConf.to_container(_load(directory.overrides), resolve=False)  # they may refer to settings
    settings: dict[str, Leaf] = {
        key: value for key, value in flat(tree).items() if not {key, key.partition(".")[0]} & {*NOT_HASHED}
    }
    choices = dict(map(typed, overrides))
    ignored = {"sweep", *NOT_HASHED}
    return settings | {k: v for k, v in choices.items() if settings.get(k) is None and k not in ignored}


def _load(path: Path) -> DictConfig | ListConfig:
    """Return the content of a YAML file of a run. Raise ConfigError if it cannot be read."""
    try:
        return OmegaConf.load(path)
    except (OSError, ValueError, RecursionError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path} can't be read: {first_line(error)}") from error


def config_hash(tree: Mapping[str, Any]) -> str:
    """Return a hash, 8 hexadecimal digits, of a resolved config. Equal numbers, such as 1 and 1.0, hash the same."""

    def canonical(value: Any, path: str) -> Any:
        if isinstance(value, Mapping):
            items = ((k, canonical(v, f"{path}.{k}".lstrip("."))) for k, v in value.items())
            kept = [(k, v) for k, v in items if f"{path}.{k}".lstrip(".") not in NOT_HASHED]
            ordered = dict(sorted(kept, key=lambda item: str(item[0])))
            in_cycle = path.endswith(".phases") and [k for k, _ in kept] not in ([*ordered], FGE)
            return kept if path == "phases" or in_cycle else ordered  # the order of phases matters
        if isinstance(value, list):
            return [canonical(v, path) for v in value]
        return float(value) if isinstance(value, int) and not isinstance(value, bool) else value

    return hashlib.sha256(json.dumps(canonical(tree, "")).encode()).hexdigest()[:8]


def _component(node: Any, path: str, base: type) -> Any:
    """Return the component that `node` describes, an instance of a subclass of `base` in this package."""
    if not isinstance(node, dict) or not isinstance(node.get("_target_"), str):
        raise ConfigError(f"{path}={node!r}: expected a component with a _target_")
    for key, inner_base in ((key, TARGETS.get(f"{path}.{key}")) for key in node):
        if inner_base:
            node = {**node, key: _component(node[key], f"{path}.{key}", inner_base)}
    cls = _component_class(node["_target_"], path, base)
    settings = {key: value for key, value in node.items() if key != "_target_"}
    if base is Model and not issubclass_of(cls, Model):
        return Factory(factory=cls, settings=settings)
    return construct(cls, settings, path)


def _component_class(target: str, path: str, base: type) -> type:
    """Return the class that `target` names: a subclass of `base`, of this package or of a module that the user trusts.

    A model may also be a class of modules, or a function that returns one. Raise ConfigError for anything else.
    """
    module, _, name = target.rpartition(".")
    module = MOVED.get(module, module)
    own = not module.startswith("distancing.") and trust.is_trusted(module)
    makes_networks = base is Model and (own or module == LIBRARIES)
    try:
        if not module.startswith("distancing.") and not own:
            raise ImportError(target)
        cls: type = getattr(trust.load(module) if own else importlib.import_module(module), name)
        wanted = issubclass_of(cls, base) and cls not in ABSTRACT
        if not wanted and not (makes_networks and is_factory(cls)):
            raise TypeError(target)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        reason = f"only a {base.__name__} of this package may be constructed here"
        if own:
            networks = ", torch.nn.Module, or function with the annotation -> torch.nn.Module" if base is Model else ""
            wrong = f"{module} has no such {base.__name__}{networks}"
            reason = str(error) if isinstance(error, ImportError) else wrong
        elif module and not module.startswith("distancing."):
            reason += f", or of a module that you trust; {trust.how_to_trust(module)}"
        raise ConfigError(f"{path}._target_={target}: {reason}") from error
    return cls


def issubclass_of(item: Any, base: type) -> bool:
    """Return whether `item` is a class, and a subclass of `base`."""
    return isinstance(item, type) and issubclass(item, base)


def settings_at(path: Sequence[str], node: Mapping[str, Any]) -> list[str]:
    """Return the names of the settings that the node at this path of a config may have, whether it sets them or not."""
    if not path:
        return names(Config)
    if path[0] == "phases" and len(path) in (2, 4):
        return names(Cycle if {"times", "phases"} & set(node) else Phase)
    try:
        return names(_component_class(str(node["_target_"]), ".".join(path), object))
    except (ConfigError, KeyError, TypeError):
        return []


def _phases(node: Any) -> dict[str, Phase | Cycle]:
    if not isinstance(node, dict):
        raise ConfigError(f"phases={node!r}: expected named phases")
    phases: dict[str, Phase | Cycle] = {}
    for name, settings in node.items():
        path = f"phases.{name}"
        if not isinstance(settings, dict):
            raise ConfigError(f"{path}={settings!r}: expected a phase's settings")
        if isinstance(settings.get("phases"), dict):
            inner = {k: construct(Phase, v, f"{path}.phases.{k}") for k, v in settings["phases"].items()}
            settings = {**settings, "phases": inner}
        phases[name] = construct(Cycle if {"times", "phases"} & set(settings) else Phase, settings, path)
    return phases


def construct(cls: type, settings: Any, path: str) -> Any:
    """Return cls(**settings). Raise ConfigError, in one line, for what pydantic refuses."""
    if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
        raise ConfigError(f"{path}={settings!r}: expected named settings")
    try:
        return cls(**settings)
    except ValidationError as error:
        raise ConfigError(refusal(error, cls, path)) from None

"""One run from its config to its result: build, go on or begin, train, sum up."""

import dataclasses
import math
import os
import resource
import signal
import sys
import time
import types
from collections.abc import Sequence
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from distancing import threads
from distancing.config import check
from distancing.data.batches import Data
from distancing.ensemble import show
from distancing.ensemble.judge import judge
from distancing.errors import (
    DIVERGED,
    NOT_THE_SAME,
    ConfigError,
    DistancingError,
    StorageError,
    print_error,
)
from distancing.flat import NOT_HASHED, flat, typed
from distancing.landscape.outputs import analyse, record
from distancing.runs import RunDirectory
from distancing.runs.provenance import provenance
from distancing.runs.summary import summary
from distancing.runs.tracking import Metrics, ProgressBar, tracking
from distancing.stored import Checkpoint, find_checkpoints
from distancing.training.gradient_check import check_gradient
from distancing.training.loop import Request, train
from distancing.training.metrics import distances
from distancing.training.progress import Diverged
from distancing.training.settings import Config
from distancing.training.trainer import Trainer
from distancing.training.verify import difference

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


def main(cfg: DictConfig, overrides: Sequence[str] = (), keep_crash: bool = False) -> tuple[int, dict[str, Any] | None]:
    """Run what `cfg` asks for: the exit code, and the result if there is one. What a user can mend is said in a line.

    overrides: what was typed. keep_crash: see RunDirectory. Raises SystemExit when a signal stopped the run, so that
    a sweep in this process stops too.
    """
    try:
        config = check(cfg)
        typed = OmegaConf.to_yaml(OmegaConf.create(list(overrides)))
        frozen = OmegaConf.to_yaml(cfg, resolve=True), typed
        result = run(config, RunDirectory(config.directory, keep_crash=keep_crash), frozen)
    except (DistancingError, OSError) as error:
        return print_error(error, resumable=True), None
    if config.verify and not result["verified"]:
        return NOT_THE_SAME, result
    return DIVERGED if result["status"] == "diverged" else 0, result


def run(
    config: Config, directory: RunDirectory, frozen: tuple[str, str] | None = None, save_only: Sequence[int] = ()
) -> dict[str, Any]:
    """The result of the run that `config` names: read if it has ended, trained to its end if not; then analysed.

    frozen: its resolved config and what was typed, to be written down; None if they lie there already.
    save_only: signals on which the run saves its state and goes on.
    """
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)
    if not config.overwrite and (result := directory.read_result()):
        threads.use(result.get("threads"))  # None in a result of an older version
        result = _verify(config, directory, console, _look(config, directory, console, result))
        _tell(result, directory, console, "already ended; overwrite=true starts over")
        return result
    device = config.torch_device
    reproducible()
    number, why = _threads(config, directory)
    threads.use(number)
    trainer = _trainer(config, config.dataset.load(device, config.memory_format(device)), device)
    if unsafe := config.channels_last and config.unsafe_layers(device):
        console.print(f"note: this run computes in the contiguous layout, because oneDNN computes wrong gradients of "
                      f"{unsafe[0]} in channels_last", markup=False)  # fmt: skip
    with directory:
        if config.overwrite:
            directory.clear()
        elif result := directory.read_result():  # another process has ended it meanwhile
            _tell(result, directory, console, "already ended; overwrite=true starts over")
            return result
        if frozen:
            directory.freeze(*frozen)
        if state := directory.load_state(device, lambda line: console.print(f"warning: {line}", markup=False)):
            trainer = _go_on(trainer, state, directory, console)
        elif why:
            console.print(f"threads={number}: {why}", markup=False)
        result = _train(trainer, directory, console, StopSignal(save_only))
        directory.write_result(result)
        result = directory.read_result() or result  # said now as it will be said again
        if result["status"] == "finished":
            directory.drop_states()
    result = _verify(config, directory, console, _look(config, directory, console, result))
    _tell(result, directory, console)
    return result


def _threads(config: Config, directory: RunDirectory) -> tuple[int, str]:
    """Return the number of threads for a new run, and why it is lower than it could be ("" if it isn't).

    Raises ConfigError for more threads than this process may use cores; a run that goes on may have begun with more.
    """
    if config.threads == "auto":
        return threads.auto(config.operations)
    goes_on = not config.overwrite and directory.states()
    if config.threads > (most := threads.usable()) and not goes_on:
        raise ConfigError(
            f"threads={config.threads}: auto belongs here, or an integer from 1 to {most}, the cores that this process "
            "may use"
        )
    return config.threads, ""


def _trainer(config: Config, data: Data, device: torch.device) -> Trainer:
    """Return the trainer of a new run, whose gradient has been checked with the threads that are set.

    Raises ConfigError for a network that doesn't fit into the memory, GradientError for a wrong gradient.
    """
    try:
        trainer = Trainer(config, data, device)
        trainer.gradient_check = check_gradient(config, data, trainer.network, trainer.stepper.forward)
        return trainer
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error):
            raise ConfigError(f"model: {config.model} doesn't fit into the memory of this machine") from error
        raise


def _look(config: Config, directory: RunDirectory, console: Console, result: dict[str, Any]) -> dict[str, Any]:
    """The result with what the config's analyses find, where that isn't known yet."""
    if not config.analysis or result["status"] != "finished":
        return result
    with directory, tracking(console) as track:
        members = find_checkpoints([directory.path])
        found, made = analyse(config.analysis, members, directory.landscape, config.torch_device, track)
        if any(found[name] != (result["analysis"] or {}).get(name) for name in found):
            record(directory, found, made)
    return directory.read_result() or result


def _verify(config: Config, directory: RunDirectory, console: Console, result: dict[str, Any]) -> dict[str, Any]:
    """The result with whether the run was the same a second time, if that is asked, and wasn't answered before."""
    if not config.verify or result.get("verified") is not None:
        return result
    device = config.torch_device
    reproducible()
    data = config.dataset.load(device, config.memory_format(device))
    different = difference(config, data, device, directory, result)
    console.print(f"verified: not the same a second time: {different}" if different else "verified: the same a second "
                  "time, bit for bit", markup=False)  # fmt: skip
    with directory:
        directory.write_result({**(directory.read_result() or result), "verified": not different})
    return directory.read_result() or result


def objective(result: dict[str, Any]) -> float:
    """What an optimising sweeper minimises: the validation loss, or without a validation part the training loss.

    Infinite for a run that diverged. The test set decides nothing.
    """
    if not result["metrics"]:
        return math.inf
    return float(result["metrics"].get("validation", result["metrics"]["train"])["loss"])


def reproducible() -> None:
    """The same numbers from the same command, on the same machine: no autotuning, no racing sums."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a slow debugging aid
    torch.backends.cudnn.benchmark = False


def _go_on(trainer: Trainer, state: dict[str, Any], directory: RunDirectory, console: Console) -> Trainer:
    """Return a trainer in this state, which computes with the threads that the run began with.

    Raises ConfigError if another number was asked for, StorageError if this is no state of this run.
    """
    config, number = trainer.config, torch.get_num_threads()
    begun = state.get("threads", number)  # not in the states of older versions
    if config.threads not in ("auto", begun):
        raise ConfigError(
            f"threads={config.threads}, but this run began with {begun}, and another number changes its last digits: "
            "leave it away, or overwrite=true starts over"
        )
    try:
        if begun != number:
            threads.use(begun)
            trainer = _trainer(config, trainer.data, trainer.device)  # so many also sum up the first parameters' norm
        made_by = state.pop("provenance")
        trainer.load_state_dict(state, directory)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        line = (str(error).splitlines() or ["?"])[0]
        raise StorageError(f"{directory.path}/state holds no state of this run ({line}); overwrite=true starts over") \
            from error  # fmt: skip
    progress = trainer.progress
    console.print(f"{directory.path}: goes on after epoch {progress.epoch}, step {progress.step}")
    _tell_changes(made_by, console)
    return trainer


def _train(trainer: Trainer, directory: RunDirectory, console: Console, stop: "StopSignal") -> dict[str, Any]:
    """The result of training to the end, or to a divergence. Raises SystemExit if a signal came."""
    config = trainer.config
    metrics = Metrics(directory, trainer.columns, trainer.rows)
    bar = ProgressBar(console, config.epochs, trainer.progress.epoch)

    begun: float | None = time.perf_counter() if config.compile else None

    def on_step(done: float, phase: str) -> Request:
        nonlocal begun
        if begun:
            console.print(f"the first step took {time.perf_counter() - begun:.0f} s: the network was compiled")
            begun = None
        bar.step(done, phase)
        return stop.request()

    def on_epoch(row: dict[str, Any]) -> None:
        metrics.add(row)
        bar.epoch(row)

    diverged: Diverged | None = None
    ensemble: dict[str, Any] | None = None
    ended = False
    try:
        with stop, bar:
            ended = train(trainer, directory, on_step, on_epoch, metrics.flush)
        if ended and (ensemble := _ensemble(trainer, directory)):
            metrics.add_result(show.scalars(ensemble), {"ensemble": show.pixels(show.picture(ensemble))})
    except Diverged as error:
        diverged, ended = error, True
    finally:
        if ended:
            metrics.add_hparams(_hparams(directory), trainer.final, trainer.progress.epoch)
        metrics.close()
    if not ended:
        assert stop.received is not None
        console.print(
            f"stopped by {stop.received.name} after epoch {trainer.progress.epoch}, step {trainer.progress.step}; "
            "the same command goes on from there"
        )
        raise SystemExit(128 + stop.received)
    return {**_result(trainer, diverged), "ensemble": ensemble, "analysis": None, "verified": None}


def _hparams(directory: RunDirectory) -> dict[str, Any]:
    """The resolved settings that can change the numbers, and the choices behind them that were typed (penalty=none)."""
    tree: Any = OmegaConf.to_container(OmegaConf.load(directory.config))
    settings: dict[str, Any] = {
        k: v for k, v in flat(tree).items() if k.partition(".")[0] not in NOT_HASHED and k not in NOT_HASHED
    }
    choices = dict(map(typed, OmegaConf.load(directory.overrides)))
    return settings | {k: v for k, v in choices.items() if settings.get(k) is None and k not in ("sweep", *NOT_HASHED)}


def _ensemble(trainer: Trainer, directory: RunDirectory) -> dict[str, Any] | None:
    """Of the run's checkpoints, and its final network where that is another one; None if it has only one network."""
    names = trainer.checkpoints.names
    if not names or trainer.checkpoints.infos[-1]["epoch"] < trainer.progress.epoch:
        names.append("final")
    if len(names) < 2:
        return None
    dataset, common = trainer.config.dataset, trainer.data
    if dataset.bootstrap:  # judged on each image once
        common = dataclasses.replace(dataset, bootstrap=False).load(trainer.device, common.memory_format)
    members = [Checkpoint(name, directory.checkpoint(name), trainer.config) for name in names]
    return judge(members, trainer.device, common=common)


class StopSignal:
    """Within its `with`, the first SIGINT, SIGTERM or SIGUSR2 is only noted; a second one acts as ever.

    save_only: those of them that ask for no more than a saved state, however often.
    """

    def __init__(self, save_only: Sequence[int] = ()) -> None:
        self.received: signal.Signals | None = None
        self._save_only, self._save = save_only, False
        self._before: dict[signal.Signals, Any] = {}

    def request(self) -> Request:
        """What the signals so far ask of the run; a state is asked for once."""
        save, self._save = self._save, False
        return "stop" if self.received else "save" if save else None

    def _note(self, number: int, _: types.FrameType | None) -> None:
        if number in self._save_only:
            self._save = True
        else:
            self.received = signal.Signals(number)
            self._restore()

    def _restore(self) -> None:
        for each, handler in self._before.items():
            if each not in self._save_only:
                signal.signal(each, handler)

    def __enter__(self) -> "StopSignal":
        self._before = {each: signal.signal(each, self._note) for each in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)


def _result(trainer: Trainer, diverged: Diverged | None) -> dict[str, Any]:
    """What result.json says; README.md documents it."""
    config, progress = trainer.config, trainer.progress
    places, found = [*trainer.checkpoints.parameters], [dict(info) for info in trainer.checkpoints.infos]
    final = dict(trainer.final) if trainer.final else None
    if final:
        places, found = [*places, trainer.theta.vector], [*found, final]
    for info, place in zip(found, places, strict=True):
        info["file"] = f"checkpoints/{info['name']}.pt"
        away = distances(place, torch.stack(places))
        info["distances"] = {other["name"]: d for other, d in zip(found, away, strict=True)}
    where = {"phase": diverged.phase, "epoch": diverged.epoch, "step": diverged.step} if diverged else None
    images = len(trainer.data.train) * progress.epoch
    return {
        "status": "diverged" if diverged else "finished",
        "diverged": where,
        "name": config.name,
        "config_hash": config.hash,
        "seed": config.seed,
        "epochs": progress.epoch,
        "seconds": progress.seconds,
        "images_per_second": images / progress.training_seconds if progress.training_seconds else 0.0,
        "peak_memory": _peak_memory(trainer.device),
        "parameters": len(trainer.theta),
        "threads": torch.get_num_threads(),
        "gradient_check": dataclasses.asdict(trainer.gradient_check) if trainer.gradient_check else None,
        "metrics": final["metrics"] if final else None,
        "checkpoints": found[: len(trainer.checkpoints)],
        "final": final,
        "device": _device_name(trainer.device),
        **provenance(),
    }


def _peak_memory(device: torch.device) -> int:
    """Bytes that were in use at once: of the GPU, by this run; or of the whole process, by all that it has run."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _tell(result: dict[str, Any], directory: RunDirectory, console: Console, note: str = "") -> None:
    if note:
        console.print(f"{directory.path}: {note}", markup=False)
        _tell_changes(result, console)
    if where := result["diverged"]:
        console.print(
            f"diverged: the loss is not finite in phase {where['phase']}, epoch {where['epoch']}, step "
            f"{where['step']}; the last good state is in {directory.path}/state", markup=False, soft_wrap=True
        )  # fmt: skip
    console.print(summary(result, str(directory.path)), soft_wrap=True)


def _tell_changes(made_by: dict[str, Any], console: Console) -> None:
    """Say so if this code is not the code that made a state or a result."""
    now = provenance()
    for what in ("source", "git_commit"):
        if made_by[what] != now[what]:
            label = {"source": "the source code", "git_commit": "the commit"}[what]
            console.print(f"note: {label} has changed since: {made_by[what]} then, {now[what]} now", markup=False)

"""Train one run in its directory: build or resume the trainer, report the progress, store the result."""

import time
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from rich.console import Console

from distancing.config.checks import hyperparameters
from distancing.ensemble import show
from distancing.ensemble.of_run import judge_run
from distancing.process import threads
from distancing.process.signals import Request, StopSignal
from distancing.runs import RunDirectory
from distancing.runs.metrics_file import Row
from distancing.runs.result import Result, read_result
from distancing.runs.tracking import Metrics, ProgressBar, quiet_writer
from distancing.training.loop import train
from distancing.training.progress import Diverged
from distancing.training.provenance import provenance
from distancing.training.result import compose
from distancing.training.settings import Config
from distancing.training.setup import (
    choose_threads,
    emulation_note,
    new_trainer,
    reproducible,
    resumed_trainer,
    speed_note,
    use_precision,
)
from distancing.training.trainer import Trainer


def ended_result(config: Config, directory: RunDirectory, console: Console) -> Result | None:
    """Return the result of a run that has ended and is not to be overwritten; None if there is none.

    Print a note on it, and use the number of threads that the run was trained with.
    """
    result = None if config.overwrite else read_result(directory)
    if result:
        threads.use(result.threads)  # None in a result of an older version
        console.print(f"{directory.path}: already ended; overwrite=true starts over", markup=False)
        _print_changes(vars(result), config, console)
    return result


def train_run(
    config: Config, directory: RunDirectory, frozen: tuple[str, str] | None, stop: StopSignal, console: Console
) -> Result:
    """Train a run, or resume it from its saved state, and store its result. Raise SystemExit if a signal stopped it.

    frozen: the resolved config and the overrides, as YAML to store; None if the directory holds them already.
    """
    device = config.torch_device
    reproducible(config.compile)
    use_precision(config, device)
    number, reason = choose_threads(config, directory)
    threads.use(number)
    trainer = new_trainer(config, config.dataset.load(device, config.memory_format(device)), device)
    if unsafe := config.channels_last and config.unsafe_layers(device):
        line = f"oneDNN computes wrong gradients of {unsafe[0]} in channels_last"
        console.print(f"note: this run computes in the contiguous layout, because {line}", markup=False)
    if note := emulation_note(config, device):
        console.print(note, markup=False, soft_wrap=True)
    with directory:
        if result := ended_result(config, directory, console):  # another process has ended it meanwhile
            return result
        if config.overwrite:
            directory.clear()
        if frozen:
            directory.freeze(*frozen)
        if state := directory.load_state(device, lambda line: console.print(f"warning: {line}", markup=False)):
            trainer = resumed_trainer(trainer, state, directory)
            console.print(f"{directory.path}: resumes after {_position(trainer)}")
            _print_changes(state.get("provenance", {}), config, console)
            if trainer.devices[:-1]:
                console.print(f"note: this run has trained on {', then '.join(trainer.devices)}", markup=False)
        elif reason:
            console.print(f"threads={number}: {reason}", markup=False)
        result = _train_to_the_end(trainer, directory, stop, console)
        if note := speed_note(config, device, trainer.progress.training_seconds, trainer.replay.reason):
            console.print(note, markup=False, soft_wrap=True)
        directory.write_result(result.to_dict())
        if result.status == "finished":
            directory.drop_states()
        return read_result(directory) or result  # as it will be read again


def _train_to_the_end(trainer: Trainer, directory: RunDirectory, stop: StopSignal, console: Console) -> Result:
    """Train to the end of the plan, or until the loss diverges. Raise SystemExit if a signal stopped the run."""
    config, settings = trainer.config, hyperparameters(directory)
    bar = ProgressBar(console, config.epochs, trainer.progress.epoch)
    compiling_since: float | None = time.perf_counter() if config.compile else None

    def on_step(done: float, phase: str) -> Request:
        nonlocal compiling_since
        if compiling_since is not None:
            seconds, compiling_since = time.perf_counter() - compiling_since, None
            console.print(f"the first step took {seconds:.0f} s: the network was compiled")
        bar.step(done, phase)
        return stop.request()

    def on_epoch(row: Row) -> None:
        metrics.add(row)
        bar.epoch(row)

    is_over, diverged, ensemble = False, None, None
    with quiet_writer(), closing(Metrics(directory, trainer.columns, trainer.rows)) as metrics:
        try:
            with stop, bar:
                is_over = train(trainer, directory, on_step, on_epoch, metrics.flush)
            if is_over and (ensemble := judge_run(trainer, directory)):
                metrics.add_result(show.scalars(ensemble), {"ensemble": show.pixels(show.picture(ensemble))})
        except Diverged as error:
            is_over, diverged = True, error
        except OSError:
            directory.check_there()  # a file could not be written because the directory is gone
            raise
        if is_over:
            final = trainer.final["metrics"] if trainer.final else None
            metrics.add_hparams(settings, final, trainer.progress.epoch)
    if not is_over:
        assert stop.received is not None
        console.print(f"stopped by {stop.received.name} after {_position(trainer)}; run the same command to resume")
        raise SystemExit(128 + stop.received)
    return compose(trainer, diverged, ensemble)


def _position(trainer: Trainer) -> str:
    return f"epoch {trainer.progress.epoch}, step {trainer.progress.step}"


def _print_changes(made_by: Mapping[str, Any], config: Config, console: Console) -> None:
    """Print a note if this code or PyTorch is not the one that made a state or a result."""
    now: Mapping[str, Any] = provenance(config.own_modules)
    for label, before, after in (
        ("the source code", made_by.get("source"), now["source"]),
        ("the commit", made_by.get("git_commit"), now["git_commit"]),
        ("PyTorch", made_by.get("versions", {}).get("torch"), now["versions"]["torch"]),
    ):
        if before != after:
            console.print(f"note: {label} has changed since: {before} then, {after} now", markup=False)

"""Take one run from its config to its result: train it, analyse it, verify it, and print the result."""

import sys
from collections.abc import Sequence

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from distancing.config.checks import check, check_new
from distancing.ensemble import show
from distancing.ensemble.of_run import checked, evaluate_run, not_evaluated
from distancing.errors import DIVERGED, NOT_THE_SAME, ConfigError, DistancingError, LandscapeError, print_error
from distancing.experiment.train_run import ended_result, train_run
from distancing.landscape.outputs import analyse, record
from distancing.process.signals import StopSignal
from distancing.runs import RunDirectory
from distancing.runs.files import named_in_errors
from distancing.runs.result import Result, read_result
from distancing.runs.summary import summary
from distancing.runs.tracking import tracking
from distancing.stored import find_checkpoints
from distancing.training.provenance import device_name
from distancing.training.settings import Config
from distancing.training.setup import reproducible, use_precision
from distancing.training.verify import difference


def main(cfg: DictConfig, overrides: Sequence[str] = (), keep_crash: bool = False) -> tuple[int, Result | None]:
    """Run the experiment of `cfg`; return the exit code, and the result if there is one. Print user errors in one line.

    overrides: the overrides as typed. keep_crash: see RunDirectory. Raise SystemExit if a signal stopped the run, so
    that a sweep in this process stops, too.
    """
    try:
        config = check(cfg)
        check_new(config, overrides)
    except (DistancingError, OSError) as error:
        return print_error(error), None
    directory = RunDirectory(config.directory, keep_crash=keep_crash)
    try:
        frozen = OmegaConf.to_yaml(cfg, resolve=True), OmegaConf.to_yaml(OmegaConf.create(list(overrides)))
        result = run(config, directory, frozen)
    except (DistancingError, OSError) as error:
        return print_error(error, directory.resumable), None
    if config.verify and not result.verified:
        return NOT_THE_SAME, result
    return DIVERGED if result.status == "diverged" else 0, result


def run(
    config: Config, directory: RunDirectory, frozen: tuple[str, str] | None = None, save_only: Sequence[int] = ()
) -> Result:
    """Return the run's result: read it if the run has ended, otherwise train to the end; then run the analyses and the
    evaluation.

    frozen: the resolved config and the overrides, as YAML to store; None if the directory holds them already.
    save_only: signals on which the run saves its state and continues.
    """
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)
    result = ended_result(config, directory, console)
    if not result:
        checked(config.evaluate, config)  # refused before the training
        with named_in_errors(directory.path):  # TensorBoard's errors name no file
            result = train_run(config, directory, frozen, StopSignal(save_only), console)
    result = _evaluate(config, directory, console, _analyse(config, directory, console, result))
    result = _verify(config, directory, console, result)
    for note in result.notes:
        console.print(f"note: {note}", markup=False)
    if result.diverged:
        kept = f"the last good state is in {directory.path}/state"
        console.print(f"diverged: the loss is not finite in {result.diverged}; {kept}", markup=False)
    console.print(summary(result, str(directory.path)), soft_wrap=True)
    return result


def _analyse(config: Config, directory: RunDirectory, console: Console, result: Result) -> Result:
    """Return the result with the values of the config's analyses; compute those that are not stored yet.

    Raise LandscapeError for analyses that the checkpoints do not allow, after the others have been stored.
    """
    if not config.analysis or result.status != "finished":
        return result
    left_out: dict[str, str] = {}
    with directory, tracking(console) as track:
        checkpoints = find_checkpoints([directory.path])
        device = config.torch_device
        values, computed = analyse(config.analysis, checkpoints, directory.landscape, device, track, left_out=left_out)
        if any(values[name] != (result.analysis or {}).get(name) for name in values):
            record(directory, values, computed)
    if left_out:
        raise LandscapeError("; ".join(left_out.values()))
    return read_result(directory) or result


def _evaluate(config: Config, directory: RunDirectory, console: Console, result: Result) -> Result:
    """Return the result with what `evaluate` asks for; compute what is not stored yet."""
    missing = not_evaluated(config.evaluate, result.ensemble, config.dataset)
    if result.status != "finished" or not (missing.ood or missing.corruptions):
        return result
    with directory:
        ensemble = evaluate_run(missing, config, directory)
    for table in show.shift_tables(ensemble):
        console.print(table)
    return read_result(directory) or result


def _verify(config: Config, directory: RunDirectory, console: Console, result: Result) -> Result:
    """Return the result with `verified`, for which the run is trained a second time unless it has been already."""
    if not config.verify or result.verified is not None:
        return result
    device = config.torch_device
    trained, here = (result.device, result.versions.get("torch")), (device_name(device), str(torch.__version__))
    older = device.type, here[1]  # which named no instruction set
    if trained not in (here, older):
        places = [f"{name} with PyTorch {version}" for name, version in (trained, here)]
        raise ConfigError(f"verify=true: the run was trained on {places[0]}, and this is {places[1]}: verify it there")
    reproducible(config.compile)
    use_precision(config, device)
    data = config.dataset.load(device, config.memory_format(device))
    mismatch = difference(config, data, device, directory, result)
    outcome = f"not the same a second time: {mismatch}" if mismatch else "the same a second time, bit for bit"
    console.print(f"verified: {outcome}", markup=False)
    with directory:
        directory.write_result({**(directory.read_result() or result.to_dict()), "verified": not mismatch})
    return read_result(directory) or result

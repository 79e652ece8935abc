"""Set up a run: reproducible arithmetic, the number of threads, and a trainer that is new or resumed."""

import os

import torch
from torch.optim.optimizer import StateDict

from distancing.component.trust import line_of
from distancing.data.batches import Data
from distancing.errors import ConfigError, StorageError, first_line
from distancing.process import threads
from distancing.runs import RunDirectory
from distancing.training.gradient_check import check_gradient
from distancing.training.settings import Config
from distancing.training.trainer import Trainer

SLOW = 60  # seconds of training on a GPU from which a note on faster settings is worth its line


def reproducible(compiled: bool = False) -> None:
    """Let the same command compute the same numbers on the same machine, without autotuning or racing sums.

    compiled: the network will be compiled.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if compiled:
        torch.use_deterministic_algorithms(True, warn_only=True)
    else:
        torch.set_deterministic_debug_mode("warn")  # the same, without importing the compiler for a setting of its own
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a slow debugging aid
    torch.backends.cudnn.benchmark = False


def use_precision(config: Config, device: torch.device) -> None:
    """Let the device round products as `config.precision` says. Raise ConfigError if it cannot."""
    tf32 = config.precision == "tf32"
    if tf32 and device.type != "cuda":
        raise ConfigError(f"precision=tf32 needs an NVIDIA GPU, and the device is {device}: set precision=fp32 or bf16")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32


def emulation_note(config: Config, device: torch.device) -> str:
    """Return in one line that the run computes in bf16 on a CPU that only emulates it; "" if it does not."""
    emulated = device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"
    if config.precision != "bf16" or not emulated:
        return ""
    return "note: this CPU has no instructions for bf16 and emulates it slowly; precision=fp32 is many times as fast"


def speed_note(config: Config, device: torch.device, seconds: float, reason: str) -> str:
    """Return in one line what would have made a run faster on a GPU, or which setting had no effect; "" for neither.

    seconds: the time of its training steps. reason: why its steps were not captured; "" if nothing prevented it.
    """
    if device.type != "cuda":
        return (
            f"note: graph=true had no effect, because CUDA graphs do not exist on {device.type}" if config.graph else ""
        )
    if config.graph and reason:
        return f"note: the steps were not captured as a CUDA graph: {reason}"
    if seconds >= SLOW and not (config.compile and config.precision == "bf16" and config.channels_last):
        return f"note: the training steps took {seconds:.0f} s; speed=fast is faster on a GPU, with other last digits"
    return ""


def choose_threads(config: Config, directory: RunDirectory) -> tuple[int, str]:
    """Return the number of threads for a new run, and the reason if it is lower than it could be ("" if it is not).

    Raise ConfigError if `config` asks for more threads than this process has cores. A resumed run may have begun with
    more.
    """
    if config.threads == "auto":
        return threads.auto(config.operations)
    is_resumed = not config.overwrite and directory.states()
    if config.threads > (cores := threads.usable()) and not is_resumed:
        raise ConfigError(
            f"threads={config.threads}: expected auto, or an integer from 1 to {cores}, the cores that this "
            "process may use"
        )
    return config.threads, ""


def new_trainer(config: Config, data: Data, device: torch.device) -> Trainer:
    """Return the trainer of a new run, after a check of its gradient with the current number of threads.

    Raise ConfigError if the network does not fit into the memory or its code fails, GradientError if the gradient is
    wrong.
    """
    try:
        trainer = Trainer(config, data, device)
        trainer.gradient_check = check_gradient(config, data, trainer.network, trainer.stepper.forward)
        return trainer
    except Exception as error:
        if "more than 1 value per channel" in str(error):
            raise ConfigError(
                f"batch_size={config.batch_size}: batch norm can't normalise the single value that a channel has in a "
                "batch of one image: take a larger batch_size, or a network without batch norm"
            ) from error
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error):
            raise ConfigError(f"model: {config.model} doesn't fit into the memory of this machine") from error
        if line := line_of(error, config.model):
            raised = f"raises {type(error).__name__}{line}"
            raise ConfigError(f"model: {config.model} {raised}: {first_line(error)}") from error
        raise


def resumed_trainer(trainer: Trainer, state: StateDict, directory: RunDirectory) -> Trainer:
    """Return a trainer in this state, which computes with the number of threads that the run began with.

    Raise ConfigError if `config` asks for another number, StorageError if `state` is not a state of this run.
    """
    config, number = trainer.config, torch.get_num_threads()
    first_number = state.get("threads", number)  # missing from the states of older versions
    if config.threads not in ("auto", first_number):
        raise ConfigError(
            f"threads={config.threads}, but this run began with {first_number}, and another number changes its last "
            "digits: leave threads out to resume, or set overwrite=true to start over"
        )
    try:
        if first_number != number:
            threads.use(first_number)
            trainer = new_trainer(config, trainer.data, trainer.device)  # θ_0's norm depends on the number, too
        trainer.load_state_dict(state, directory)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = f"holds no state of this run ({first_line(error)})"
        raise StorageError(f"{directory.path}/state {reason}; overwrite=true starts over") from error
    return trainer

"""Hills in the training loop of Hugging Face's Trainer. Needs the extra `[transformers]`."""

import hashlib
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import StateDict
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from distancing.callbacks import placement
from distancing.hills.hills import Hills

FILE = "hills.pt"  # in the folder of each of the Trainer's checkpoints


class HillsCallback(TrainerCallback):
    """Push the model away from the checkpoints that are stored at the ends of the epochs `place_after`.

    The hills' gradient is added after the Trainer has clipped gradients. The hills are saved with the Trainer's
    checkpoints.

    place_after: epochs, counted from 1. settings: the settings of `Hills`. `hills` is None before the training starts.

    Raise ValueError for epochs that are not integers from 1, and warn at the end of those that the training did not
    reach.
    """

    def __init__(self, place_after: Collection[int], **settings: Any) -> None:
        self.place_after, self.settings = placement.checked(place_after), settings
        self.hills: Hills | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.deepspeed:
            raise ValueError("HillsCallback does not work with deepspeed, which keeps the gradients to itself")
        if args.fp16 and not args.max_grad_norm:
            raise ValueError("fp16=True needs max_grad_norm > 0 with HillsCallback: clipping unscales the gradients")
        steps = _steps_per_epoch(kwargs.get("train_dataloader"), args.gradient_accumulation_steps)
        self.hills = Hills(kwargs["model"], **{"steps_per_epoch": steps, **self.settings})
        if state.global_step:  # resumed
            self.hills.load_state_dict(_saved(self.hills, args, state))

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        if self.hills is not None:
            self.hills.push()

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        if self.hills is not None:
            self.hills.keep_norm()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        epoch = state.epoch or 0.0  # whole at the last step of an epoch, after which the Trainer may save
        if self.hills is not None and math.isclose(epoch, round(epoch)) and round(epoch) in self.place_after:
            self.hills.place()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        placement.warn_of_missed(self.place_after, int(state.epoch or 0))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.hills is not None and state.is_world_process_zero:
            saved = {**self.hills.state_dict(), "fingerprint": _fingerprint(self.hills)}
            torch.save(saved, _folder(args, state) / FILE)


def _steps_per_epoch(batches: Any, accumulated: int) -> int | None:
    """Return the number of the optimiser's steps in an epoch, or None if the data have no length."""
    try:
        return max(1, math.ceil(len(batches) / accumulated))
    except TypeError:
        return None


def _saved(hills: Hills, args: TrainingArguments, state: TrainerState) -> StateDict:
    """Return the state that was saved with the model's present parameters. Raise ValueError if it is not there.

    The Trainer does not tell callbacks which checkpoint it resumes.
    """
    folders = [Path(args.resume_from_checkpoint)] if args.resume_from_checkpoint else []
    folders.append(_folder(args, state))
    for file in (folder / FILE for folder in folders):
        if file.is_file():
            saved: StateDict = torch.load(file, hills.start.device, weights_only=True)
            if saved.get("fingerprint") == _fingerprint(hills):
                return saved
    raise ValueError(
        f"no {FILE} that was saved with the resumed parameters in {' or '.join(map(str, folders))}: name the "
        "checkpoint's folder also in TrainingArguments(resume_from_checkpoint=...)"
    )


def _fingerprint(hills: Hills) -> str:
    """Return a hash of the model's parameters."""
    return hashlib.sha256(hills.theta.vector.cpu().numpy().data).hexdigest()


def _folder(args: TrainingArguments, state: TrainerState) -> Path:
    """Return the folder of the Trainer's checkpoint at this step."""
    return Path(args.output_dir or ".") / f"checkpoint-{state.global_step}"

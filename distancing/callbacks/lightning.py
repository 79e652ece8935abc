"""Hills in Lightning's training loop. Needs the extra `[lightning]`."""

import math
from collections.abc import Collection
from typing import Any

import lightning
import torch
from torch.optim.optimizer import StateDict

from distancing.callbacks import placement
from distancing.hills.hills import Hills


class HillsCallback(lightning.Callback):
    """Push the module away from the checkpoints that are stored at the ends of the epochs `place_after`.

    The hills' gradient is added before Lightning clips gradients. The hills are part of Lightning's checkpoints. They
    stay if a further `trainer.fit` goes on with the training.

    place_after: epochs, counted from 1. settings: the settings of `Hills`. `hills` is None before the training starts.

    Raise ValueError for epochs that are not integers from 1, and warn at the end of those that the training did not
    reach.
    """

    def __init__(self, place_after: Collection[int], **settings: Any) -> None:
        self.place_after, self.settings = placement.checked(place_after), settings
        self.hills: Hills | None = None
        self._state: StateDict | None = None  # what the next training starts with
        self._placed = 0  # the epoch of the newest hill

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if not pl_module.automatic_optimization or len(trainer.optimizers) != 1:
            raise ValueError("HillsCallback needs automatic optimization with one optimizer")
        batches = trainer.num_training_batches  # infinite if the data have no length
        steps = math.ceil(batches / trainer.accumulate_grad_batches) if math.isfinite(batches) else None
        state = (self._state or self.state_dict()) if trainer.global_step else {}
        self.hills = Hills(pl_module, **{"steps_per_epoch": steps, **self.settings})
        if state:
            self.hills.load_state_dict(state)
        self._placed, self._state = state.get("placed", 0), None

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if self.hills is not None:
            self.hills.push()  # a GradScaler's factor has been removed before this hook

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if self.hills is not None:
            self.hills.keep_norm()
        if trainer.is_last_batch:
            self._place(trainer)  # before Lightning saves the last step of the epoch

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._place(trainer)  # an epoch may end before its last batch

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        placement.warn_of_missed(self.place_after, trainer.current_epoch)

    def _place(self, trainer: lightning.Trainer) -> None:
        """Place a hill if this epoch is one of `place_after`, and has none yet."""
        epoch = trainer.current_epoch + 1
        if self.hills is not None and epoch in self.place_after and epoch > self._placed:
            self.hills.place()
            self._placed = epoch

    def state_dict(self) -> StateDict:
        return {**self.hills.state_dict(), "placed": self._placed} if self.hills is not None else self._state or {}

    def load_state_dict(self, state_dict: StateDict) -> None:
        self._state = state_dict or None

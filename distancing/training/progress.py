"""The position of a run: its step, epoch and phase, and the start and length of its learning-rate schedule."""

from collections.abc import Sequence
from dataclasses import dataclass

from distancing.training.plan import Phase, share


class Diverged(Exception):
    """The loss or the parameters are no longer finite. `step` counts from 1 within the epoch."""

    def __init__(self, phase: str, epoch: int, step: int) -> None:
        super().__init__(f"the loss is not finite in phase {phase}, epoch {epoch}, step {step}")
        self.phase, self.epoch, self.step = phase, epoch, step


@dataclass
class Progress:
    """The position of a run. epoch: epochs done. step: steps done of the next epoch."""

    epoch: int = 0
    step: int = 0
    phase: int = 0  # index into the plan; the plan's length once all phases are done
    initial_seed: int | None = None  # of the initial parameters; unknown in the states of older versions
    phase_start: int = 0  # epochs done when the phase began
    phase_epochs: int = 0  # the largest number of epochs of the phase
    schedule_start: int = 0  # epochs done when the learning-rate schedule (re)started
    schedule_epochs: int = 0  # epochs until its next restart
    forward: int = 0  # images in the forward passes of training; evaluations do not count
    backward: int = 0  # images in the backward passes
    seconds: float = 0.0  # the time of all work
    training_seconds: float = 0.0  # the time of training steps alone

    def begin_phase(self, coming: Sequence[Phase], epochs: int) -> None:
        """Begin the first of the `coming` phases, and share the rest of the run's `epochs` among them all.

        If an earlier phase ended early, a schedule that continues becomes as long as the phases up to its next restart.
        """
        shares = share(coming, epochs - self.epoch)
        self.phase_start, self.phase_epochs = self.epoch, shares[0]
        if self.phase == 0 or coming[0].restart_schedule:
            self.schedule_start = self.epoch
        restarts = [i for i, phase in enumerate(coming) if (phase.restart_schedule or phase.lr) and i > 0]
        rest = sum(shares[: restarts[0] if restarts else None])
        self.schedule_epochs = self.epoch - self.schedule_start + rest

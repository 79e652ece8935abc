"""The loop of Algorithm 3: the phases of a run, their epochs, and the steps of each epoch."""

from collections.abc import Callable

from distancing.process.signals import Request
from distancing.runs import RunDirectory
from distancing.runs.metrics_file import Row
from distancing.training.trainer import Trainer


def train(
    trainer: Trainer,
    directory: RunDirectory,
    on_step: Callable[[float, str], Request],
    on_epoch: Callable[[Row], None],
    before_save: Callable[[], None],
) -> bool:
    """Train to the end of the plan, and save states on the way; return False if `on_step` asked to stop earlier.

    on_step: receives the number of epochs done, a fraction, and the name of the phase. It may ask to save the state
        after this step, or to save it and stop.
    on_epoch: receives the new row of metrics. before_save: called before a state with these rows is written.
    Raise Diverged if the loss or the parameters are not finite; the last good state is kept. Raise StorageError if the
    directory was moved or deleted.
    """

    def save_state() -> None:
        directory.check_there()
        before_save()
        directory.save_state(trainer.state_dict(), trainer.progress.epoch, trainer.progress.step)

    if trainer.progress.epoch == trainer.progress.step == 0:
        save_state()  # fail before any work if the disk cannot be written to
    while not trainer.done:
        phase_is_over = False
        while not phase_is_over:
            request: Request = None
            with trainer.training_time():
                trainer.begin_epoch()
                while trainer.progress.step < trainer.steps:  # the rest of the epoch, if the run was resumed within it
                    trainer.step()  # (2.9), (2.11)
                    if request := on_step(trainer.epochs_done, trainer.phase_name):
                        break
                trainer.check_finite()
            if epoch_is_over := trainer.progress.step == trainer.steps:
                phase_is_over = trainer.end_epoch()
                directory.check_there()
                on_epoch(trainer.rows[-1])
            if phase_is_over:
                trainer.end_phase(directory)  # its checkpoint becomes a hill (2.8); the next phase begins
            due = epoch_is_over and trainer.progress.epoch % trainer.config.save_every == 0
            if phase_is_over or request or due:
                save_state()
            if request == "stop" and not trainer.done:
                return False
    trainer.final = trainer.save_checkpoint(directory, "final")
    return True

"""The plan of a run: its phases by name, and their shares of its epochs."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated

from annotated_types import Ge, Len, MinLen
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from typing_extensions import Self

from distancing.component import component


@component
class Phase:
    """A phase of a run.

    epochs (epochs): the largest length of the phase; null for an equal share of the epochs that other phases leave.
    penalty: let the hills at the checkpoints stored so far act.
    reinitialise: begin with new initial parameters, as an independent network. This is the control for phases that
        begin at a checkpoint.
    jump (‖Δθ‖): begin with one step of this length in a random direction, each filter in proportion to its norm. This
        is the control for a hill: does it matter where the hill pushes, or only how far?
    checkpoint: store a checkpoint at the end, named after the phase.
    restart_schedule: restart the learning-rate schedule.
    lr: two learning rates of the phase's own, instead of the schedule. The rate moves linearly from the first, and the
        last step of the phase has the second. With `average`, it starts again after each averaged network.
    average (epochs): average the parameters at the beginning of the phase and then after every so many epochs. At the
        end of the phase, move to the average, and recompute the batch-norm statistics.
    rank: SWAG's K, the number of deviations from the average whose directions its Gaussian has.
    temperature: sample from the posterior instead of minimising the loss: Langevin noise of this temperature T is added
        to each step, so that θ tends to the density exp(−N · loss / T), with N training images. T = 1 is the posterior
        itself. The velocity starts again at zero after the phase.
    samples: store this many networks drawn from SWAG's Gaussian at the end of the phase, as NAME-sample-1, …
    until_loss (nats): end once the mean training cross entropy of an epoch is below this (the "sufficiently low error"
        of Algorithm 3).
    patience (epochs): early stopping (section 1.1.4): end once the validation loss has not improved for this many
        epochs. At the end of the phase, early or not, restore the phase's best parameters.
    """

    epochs: PositiveInt | None = None
    penalty: bool = False
    reinitialise: bool = False
    jump: PositiveFloat | None = None
    checkpoint: bool = False
    restart_schedule: bool = False
    lr: Annotated[list[NonNegativeFloat], Len(2, 2)] | None = None
    average: PositiveInt | None = None
    rank: Annotated[int, Ge(2)] | None = None
    samples: PositiveInt | None = None
    temperature: PositiveFloat | None = None
    until_loss: PositiveFloat | None = None
    patience: PositiveInt | None = None

    @model_validator(mode="after")
    def _has_one_schedule(self) -> Self:
        if self.lr and self.restart_schedule:
            raise ValueError("lr replaces the schedule and would ignore restart_schedule=true: set only one of them")
        return self

    @model_validator(mode="after")
    def _can_average(self) -> Self:
        if self.average and (self.until_loss or self.patience):
            raise ValueError("average needs the whole phase: set until_loss and patience to null")
        if (self.rank or self.samples) and not (self.average and self.rank and self.samples):
            raise ValueError("SWAG needs all three of average, rank and samples")
        return self

    @property
    def least(self) -> int:
        """The smallest number of epochs that the phase needs."""
        return (self.average or 1) * (self.rank or 1)

    def stored(self, name: str) -> list[str]:
        """Return the names of the checkpoints of the phase of this name."""
        samples = [f"{name}-sample-{i}" for i in range(1, (self.samples or 0) + 1)]
        return [*samples, *([name] if self.checkpoint else [])]

    def own_lr(self, t: float, epochs: int) -> float | None:
        """Return the phase's own learning rate after t of its epochs; None if it has none."""
        if self.lr is None:
            return None
        period = self.average or epochs
        share = 1 - -t % period / period  # 1 at the end of a period, and not 0
        return self.lr[0] + (self.lr[1] - self.lr[0]) * share


@component
class Cycle:
    """Phases that are repeated in their order. `escape` becomes `escape-1`, `escape-2`, …

    times: the number of repetitions.
    phases: the phases by name.
    """

    times: PositiveInt
    phases: Annotated[dict[str, Phase], MinLen(1)]


def unroll(phases: Mapping[str, Phase | Cycle]) -> dict[str, Phase]:
    """Return the phases in the order in which they run, with cycles unrolled. Raise ValueError if two share a name."""
    plan = [(name, phase) for name, _, phase in _unrolled(phases)]
    counts = Counter(name for name, _ in plan)
    if duplicates := {name for name in counts if counts[name] > 1}:
        raise ValueError(f"two phases are named {', '.join(sorted(duplicates))}")
    return dict(plan)


def keys(phases: Mapping[str, Phase | Cycle]) -> dict[str, str]:
    """Return the setting's key of each phase of `unroll`, for messages."""
    return {name: key for name, key, _ in _unrolled(phases)}


def _unrolled(phases: Mapping[str, Phase | Cycle]) -> Iterator[tuple[str, str, Phase]]:
    """Yield the name, the setting's key and the settings of each phase, with cycles unrolled."""
    for name, phase in phases.items():
        if isinstance(phase, Phase):
            yield name, f"phases.{name}", phase
        else:
            for i in range(1, phase.times + 1):
                for inner_name, inner in phase.phases.items():
                    yield f"{inner_name}-{i}", f"phases.{name}.phases.{inner_name}", inner


def size(phases: Mapping[str, Phase | Cycle]) -> tuple[int, int]:
    """Return the number of phases, with cycles unrolled, and the smallest number of epochs that they need."""
    number = epochs = 0
    for phase in phases.values():
        times, inner = (phase.times, phase.phases.values()) if isinstance(phase, Cycle) else (1, [phase])
        number += times * len(inner)
        epochs += times * sum(part.epochs or part.least for part in inner)
    return number, epochs


def stored(plan: Mapping[str, Phase]) -> list[str]:
    """Return the names of the networks that a run stores: its checkpoints, and `final` if that is another network."""
    names = checkpoints(plan)
    last, phase = list(plan.items())[-1]
    return names if phase.stored(last) else [*names, "final"]


def checkpoints(plan: Mapping[str, Phase]) -> list[str]:
    """Return the names of the checkpoints that these phases store, in their order."""
    return [checkpoint for name, phase in plan.items() for checkpoint in phase.stored(name)]


def with_hills(plan: Mapping[str, Phase]) -> list[str]:
    """Return the names of the checkpoints whose hills act in a later phase."""
    last = max((i for i, phase in enumerate(plan.values()) if phase.penalty), default=0)
    return checkpoints(dict(list(plan.items())[:last]))


def share(phases: Sequence[Phase], left: int) -> list[int]:
    """Return the epochs of each remaining phase, out of the run's `left` epochs.

    Phases without a number of their own share equally, and the earlier ones get one epoch more if there is a remainder.
    If a phase ends early, they share its rest, too. Raise ValueError if there are too few epochs.
    """
    rest, sharing = left - sum(phase.epochs or 0 for phase in phases), sum(not phase.epochs for phase in phases)
    if rest < sharing:
        raise ValueError(f"{len(phases)} phases need at least {left - rest + sharing} epochs, but there are {left}")
    epochs = []
    for phase in phases:
        epochs.append(phase.epochs or -(-rest // sharing))
        if not phase.epochs:
            rest, sharing = rest - epochs[-1], sharing - 1
    return epochs

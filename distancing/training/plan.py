"""The plan of a run: a named dict of phases, and how they share its epochs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated

from annotated_types import MinLen
from pydantic import PositiveFloat, PositiveInt

from distancing.component import component


@component
class Phase:
    """epochs: at most this many; None for an equal share of what is left of the run's epochs.
    penalty: the hills at the checkpoints stored so far act.
    reinitialise: begin with other initial parameters, as an independent network: the control for all that goes on from
        a place.
    jump: begin with a single step of this length ‖Δθ‖ in a random direction, each filter in proportion to its norm:
        the control for a hill, which says whether it matters where a hill pushes, or only how far.
    checkpoint: store a checkpoint at the end, named after the phase.
    restart_schedule: the learning-rate schedule begins anew with this phase.
    until_loss: end once the mean training cross entropy of an epoch is below this (Algorithm 3's
        "sufficiently low error"), in nats.
    patience: early stopping (1.1.4): end once the validation loss has not improved for this many epochs; at
        the end of the phase, early or not, go back to the phase's best parameters.
    """

    epochs: PositiveInt | None = None
    penalty: bool = False
    reinitialise: bool = False
    jump: PositiveFloat | None = None
    checkpoint: bool = False
    restart_schedule: bool = False
    until_loss: PositiveFloat | None = None
    patience: PositiveInt | None = None


@component
class Cycle:
    """These phases, in their order, `times` times; `escape` becomes `escape-1`, `escape-2`, …"""

    times: PositiveInt
    phases: Annotated[dict[str, Phase], MinLen(1)]


def unroll(phases: Mapping[str, Phase | Cycle]) -> dict[str, Phase]:
    """The phases in the order in which they run, cycles written out. Raises ValueError if two share a name."""
    plan: list[tuple[str, Phase]] = []
    for name, phase in phases.items():
        if isinstance(phase, Phase):
            plan.append((name, phase))
        else:
            rounds = range(1, phase.times + 1)
            plan += [(f"{inner}-{i}", each) for i in rounds for inner, each in phase.phases.items()]
    times = Counter(name for name, _ in plan)
    if twice := {name for name in times if times[name] > 1}:
        raise ValueError(f"two phases are named {', '.join(sorted(twice))}")
    return dict(plan)


def stored(plan: Mapping[str, Phase]) -> list[str]:
    """The names of the places that a run leaves: its checkpoints, and `final` if the last phase stores none."""
    names = [name for name, phase in plan.items() if phase.checkpoint]
    return names if list(plan)[-1] in names else [*names, "final"]


def share(phases: Sequence[Phase], left: int) -> list[int]:
    """Epochs of each of the phases still to come, of the `left` that are left of the run.

    Phases without a number of their own share equally; where that leaves a remainder, the earlier ones get
    one more. A phase that ends early leaves its rest to those. Raises ValueError if the phases don't fit.
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

"""The base class of the analyses in distancing/landscape, which study checkpoints and the loss around them."""

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import NonNegativeInt, PositiveInt

from distancing.component import component


@component
class Analysis:
    """An analysis. It leaves its subject unchanged, and always returns the same findings.

    images (images): the largest number of images of each split; they are evenly spaced in it.
    seed: the seed of everything that is drawn at random.
    """

    least: ClassVar[int] = 2  # the smallest number of checkpoints
    # the unit and the description of each value, for the generated reference; capitals stand for any name
    VALUES: ClassVar[dict[str, tuple[str, str]]] = {}

    images: PositiveInt = 2000
    seed: NonNegativeInt = 0

    def problem(self, checkpoints: Sequence[str], hills_act: bool) -> str | None:  # noqa: ARG002
        """Return why a run can't be analysed, before it is trained; None if it can.

        checkpoints: the names of the networks that it will store. hills_act: whether hills act in it.
        """
        if len(checkpoints) < self.least:
            return f"needs at least {self.least} checkpoints, but these phases store {len(checkpoints)}"
        return None

    def network_problem(self, model: Any, image_shape: tuple[int, int, int], classes: int) -> str | None:  # noqa: ARG002
        """Return why the networks of a `Model` can't be analysed, before any is trained; None if they can.

        image_shape: (C, H, W).
        """
        return None

    def __call__(self, subject: Any, track: Any) -> Any:
        """Return the `landscape.subject.Findings` about a `Subject`; `track` shows the progress.

        Raise LandscapeError if the subject does not allow this analysis.
        """
        raise NotImplementedError

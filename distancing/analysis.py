"""What every analysis of a run's checkpoints shares; the analyses themselves are in distancing/landscape."""

from typing import Any, ClassVar

from pydantic import NonNegativeInt, PositiveInt

from distancing.component import component


@component
class Analysis:
    """images: use at most this many of each split, the first ones. seed: of whatever is drawn at random.

    An analysis leaves its subject as it was, and finds the same whenever it is asked.
    """

    least: ClassVar[int] = 2  # places that it needs

    images: PositiveInt = 2000
    seed: NonNegativeInt = 0

    def __call__(self, subject: Any, track: Any) -> Any:
        """Return the `landscape.subject.Findings` about a `Subject`; `track` shows the progress.

        Raises LandscapeError where the subject doesn't allow it.
        """
        raise NotImplementedError

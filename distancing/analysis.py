"""What can be asked of the places that a run has left behind; the answers are in distancing/landscape."""

from typing import TYPE_CHECKING, ClassVar

from pydantic import NonNegativeInt, PositiveInt

from distancing.component import component

if TYPE_CHECKING:
    from distancing.landscape.subject import Findings, Subject, Track


@component
class Analysis:
    """images: at most this many of each split, the first ones. seed: of whatever is drawn at random.

    Called with a subject, it leaves that as it was, and says the same whenever it is asked.
    """

    least: ClassVar[int] = 2  # places that it needs

    images: PositiveInt = 2000
    seed: NonNegativeInt = 0

    def __call__(self, subject: "Subject", track: "Track") -> "Findings":
        """Raises LandscapeError where the subject doesn't allow it."""
        raise NotImplementedError

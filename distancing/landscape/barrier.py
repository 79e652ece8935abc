"""The straight line between two places: what lies between them?"""

from typing import Annotated, Any

from annotated_types import Ge
from torch import Tensor

from distancing.analysis import Analysis
from distancing.component import component
from distancing.landscape import lines
from distancing.landscape.matching import groups, match
from distancing.landscape.path import Pairs, lerp, pairs, passes, profile
from distancing.landscape.subject import Findings, Subject, Track


@component
class Barrier(Analysis):
    """Loss and accuracy on the straight line between two places, and its height over the line between the ends' losses
    (Frankle et al. 2020).

    points: on each line, its ends included. pairs: each place and the next (`successive`), the `first` and each other
    one, `all`, or the first and the last (`ends`). matching: also with the second place's units in the order of the
    first's (Ainsworth et al. 2023).
    """

    images: Annotated[int, Ge(2)] = 1000  # 2,000 with those of the test set
    points: Annotated[int, Ge(3)] = 25
    pairs: Pairs = "successive"
    matching: bool = True

    def __call__(self, subject: Subject, track: Track[Any]) -> Findings:
        places, names = subject.parameters, subject.names
        wanted = pairs(self.pairs, len(names))
        values: dict[str, float] = {}
        matched: dict[tuple[int, int], Tensor] = {}  # where that is another network
        for i, j in track(wanted, "barrier: matching", len(wanted)):
            pair = lines.tag(names[i], names[j])
            values[f"distance/{pair}"] = float((places[i] - places[j]).norm())
            if self.matching:
                found = groups(subject.network, subject.config.dataset.image_shape)
                end, moved = match(found, places[i], places[j], subject.theta, self.seed)
                values[f"distance_matched/{pair}"] = float((places[i] - end).norm())
                values[f"units_moved/{pair}"] = moved
                matched |= {(i, j): end} if moved else {}
        profiles = {}
        with subject.progress(track, "barrier", (len(wanted) + len(matched)) * passes(subject, self.points)):
            for i, j in wanted:
                along = {"line": profile(subject, lerp(places[i], places[j]), self.points)}
                if (i, j) in matched:
                    along["matched"] = profile(subject, lerp(places[i], matched[i, j]), self.points)
                elif self.matching:
                    along["matched"] = along["line"]
                profiles[names[i], names[j]] = along
        return Findings(lines.heights(profiles) | values, lines.rows(profiles), lines.picture(profiles))

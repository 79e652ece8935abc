"""The barrier between two checkpoints: the loss on the straight line between them."""

from typing import Annotated, Any, ClassVar

from annotated_types import Ge
from torch import Tensor

from distancing.component import component
from distancing.component.analysis import Analysis
from distancing.landscape import lines
from distancing.landscape.matching import graph_problem, match, permutation_groups
from distancing.landscape.path import Pairs, lerp, line, pairs, passes, profile
from distancing.landscape.subject import Findings, Subject, Track
from distancing.models import Model


@component
class Barrier(Analysis):
    """Loss and accuracy on the straight line between two checkpoints, and how high the loss rises above the chord
    between its ends (Entezari et al. 2022).

    points (points): the number of points on each line, its ends included.
    pairs: the pairs of checkpoints: each checkpoint and the next (`successive`), the `first` and each other, `all`, or
        the first and the last (`ends`).
    matching: also permute the second network's hidden units to match those of the first (Ainsworth et al. 2023).
    """

    VALUES: ClassVar[dict[str, tuple[str, str]]] = {
        **lines.VALUES,
        "distance_matched/PAIR": ("", "‖θ − θ′‖ after the second network's hidden units were matched to the first's"),
        "units_moved/PAIR": ("", "the share of hidden units that matching permutes, from 0 to 1"),
    }

    images: Annotated[int, Ge(2)] = 1000  # per split: 2,000 with the test images
    points: Annotated[int, Ge(3)] = 25
    pairs: Pairs = "successive"
    matching: bool = True

    def network_problem(self, model: Model, image_shape: tuple[int, int, int], classes: int) -> str | None:
        if not self.matching or model.takes_all_images or not (reason := graph_problem(model, image_shape, classes)):
            return None
        return f"needs matching=false, because the graph of this network can't be read ({reason})"

    def __call__(self, subject: Subject, track: Track[Any]) -> Findings:
        theta, names = subject.parameters, subject.names
        selected = pairs(self.pairs, len(names))
        values: dict[str, float] = {}
        matched: dict[tuple[int, int], Tensor] = {}  # θ_j with its units permuted, where that changes it
        groups = permutation_groups(subject.network, subject.config.dataset.image_shape) if self.matching else []
        for i, j in track(selected, "barrier: matching", len(selected)):
            pair = lines.tag(names[i], names[j])
            values[f"distance/{pair}"] = float((theta[i] - theta[j]).norm())
            if self.matching:
                end, moved = match(groups, theta[i], theta[j], subject.theta, self.seed)
                values[f"distance_matched/{pair}"] = float((theta[i] - end).norm())
                values[f"units_moved/{pair}"] = moved
                if moved:
                    matched[i, j] = end
        profiles = {}
        with subject.progress(track, "barrier", (len(selected) + len(matched)) * passes(subject, self.points)):
            for i, j in selected:
                paths = {"line": line(subject, i, j, self.points)}
                if (i, j) in matched:
                    paths["matched"] = profile(subject, lerp(theta[i], matched[i, j]), self.points)
                elif self.matching:
                    paths["matched"] = paths["line"]
                profiles[names[i], names[j]] = paths
        return Findings(lines.heights(profiles) | values, lines.rows(profiles), lines.picture(profiles))

"""The straight line between two places: what lies between them?"""

from typing import Annotated, Any

import torch
from annotated_types import Ge
from matplotlib.figure import Figure

from distancing.analysis import Analysis
from distancing.component import component
from distancing.landscape.subject import Findings, Subject, Track


@component
class Barrier(Analysis):
    """points: on the line from each place to the next, its ends included."""

    points: Annotated[int, Ge(3)] = 25

    def __call__(self, subject: Subject, track: Track[Any]) -> Findings:
        rows: list[dict[str, float | str]] = []
        t = torch.linspace(0, 1, self.points).tolist()
        for x in track(t, "barrier", len(t)):
            with subject.standing(subject.places[0].lerp(subject.places[1], x)):
                losses, right = subject.losses("test")
            rows.append({"t": x, "test/loss": float(losses.mean()), "test/accuracy": float(right.mean())})
        losses_on_line = torch.tensor([float(row["test/loss"]) for row in rows])
        chord = losses_on_line[0].lerp(losses_on_line[-1], torch.tensor(t))
        figure = Figure()
        figure.subplots().plot(t, losses_on_line)
        return Findings({"test_height": float((losses_on_line - chord).max())}, rows, figure)

"""An ensemble beyond the test images: on other data sets, and under corruptions."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from distancing.data.datasets import Dataset
from distancing.ensemble import corruptions, off_data, show
from distancing.runs.ensemble import EnsembleResult
from distancing.stored import Checkpoint

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Shift:
    """The images beyond the test images, checked before any work.

    ood: the images [N, H, W, C] of other data sets by name. corrupted: whether the test images are corrupted. folder:
    the corrupted images; None if they are made.
    """

    ood: Mapping[str, off_data.Images]
    corrupted: bool
    folder: Path | None

    @classmethod
    def checked(cls, ood: Sequence[str], corrupted: str | None, own: Dataset, prefix: str) -> "Shift":
        """Return the images of these settings.

        ood, corrupted: as in `training.settings.Evaluation`. own: the data set of the networks. prefix: of the names of
        both in messages. Raise EnsembleError for images that do not fit, and DatasetError for those that can't be read.
        """
        images = off_data.images_of(ood, own, f"{prefix}ood")
        folder = corruptions.source(corrupted, own, f"{prefix}corruptions") if corrupted else None
        return cls(images, bool(corrupted), folder)

    def judge(
        self, members: Sequence[Checkpoint], device: torch.device, result: EnsembleResult, refresh: bool = False
    ) -> tuple[EnsembleResult, dict[str, Callable[[], "Figure"]]]:
        """Return the result with `ood` and `corruptions`, and what draws each that was asked for, by these names."""
        figures: dict[str, Callable[[], Figure]] = {}
        if self.ood:
            test, others = off_data.uncertainties_of(members, self.ood, device, result.weights, refresh)
            prints = {name: off_data.fingerprint(images) for name, images in self.ood.items()}
            ood = {name: off_data.detection(test, values, prints[name]) for name, values in others.items()}
            result = dataclasses.replace(result, ood={**(result.ood or {}), **ood})
            measures = {name: values.measures for name, values in others.items()}
            figures["ood"] = partial(show.ood_picture, test.measures, measures)
        if self.corrupted:
            corrupted = corruptions.judge_corruptions(members, self.folder, device, result.weights, refresh)
            result = dataclasses.replace(result, corruptions=corrupted)
            figures["corruptions"] = partial(show.corruptions_picture, corrupted)
        return result, figures

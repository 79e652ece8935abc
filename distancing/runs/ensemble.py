"""The schema of an ensemble's result, in result.json and in the file of `distancing ensemble --json`.

Numbers that are not finite are stored as null, and are read as NaN. Fields with a default are missing from the results
of older versions.
"""

import dataclasses
import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator
from pydantic.dataclasses import dataclass

from distancing.runs.files import with_nulls

Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
Matrix = list[list[Number]]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The scores of a prediction on a split. Those at the optimal temperature are null on the training images.

    accuracy: the share of images whose class is predicted, from 0 to 1.
    nll (nats): the negative log-likelihood.
    brier: the Brier score, Σ_c (p_c − y_c)², mean over the images.
    ece: the expected calibration error, from 0 to 1.
    adaptive_ece: the same with bins of equal numbers of images.
    classwise_ece: the calibration error of each class's probability, mean over the classes.
    aurc: the area under the risk-coverage curve, from 0 to 1: the mean error of the most confident images, over all
        numbers of them.
    coverage80_accuracy: the accuracy of the most confident 80 % of the images.
    temperature: the optimal temperature.
    calibrated_nll (nats): the negative log-likelihood at the optimal temperature.
    calibrated_ece: the expected calibration error at the optimal temperature, from 0 to 1.
    """

    accuracy: Number
    nll: Number
    brier: Number
    ece: Number
    adaptive_ece: float | None = None
    classwise_ece: float | None = None
    aurc: float | None = None
    coverage80_accuracy: float | None = None
    temperature: float | None = None
    calibrated_nll: float | None = None
    calibrated_ece: float | None = None


@dataclass(frozen=True, kw_only=True)
class SplitResult:
    """The scores and the diversity of an ensemble on a split.

    members: the scores of each member.
    ensemble: the scores of the weighted average of the members' probabilities.
    growth: the scores of the averages of the first 1, 2, … members.
    variance: v of (1.14), the mean squared error p − y of a member, which is its Brier score.
    covariance: c of (1.14), the mean product of two members' errors; null for a single member.
    correlation: c/v; null without c, or if v = 0.
    predicted_reduction: the ensemble's squared error relative to v, by (1.14); null if v = 0.
    measured_reduction: the same as measured.
    disagreement: the matrix of the shares of images for which two members predict different classes.
    chance_disagreement: the matrix of the disagreements of members with these accuracies, if errors are independent.
    mutual_information (nats): between the prediction and the member, mean over the images.
    temperature_from: the images on which the temperatures were found: those of `validation`, or the other one of two
        `halves` of this split; null on the training images.
    """

    members: list[Scores]
    ensemble: Scores
    growth: list[Scores]
    variance: Number
    covariance: float | None
    correlation: float | None
    predicted_reduction: float | None
    measured_reduction: float | None
    disagreement: Matrix
    chance_disagreement: Matrix | None = None
    mutual_information: Number
    temperature_from: Literal["validation", "halves"] | None = None


@dataclass(frozen=True, kw_only=True)
class Detection:
    """How well a measure of uncertainty tells out-of-distribution images, which are positive, from test images.

    auroc: the area under the curve of true positives over false positives, from 0 to 1.
    aupr: the average precision, which depends on the numbers of images.
    fpr95: the share of test images above the threshold that 95 % of the out-of-distribution images reach.
    """

    auroc: Number
    aupr: Number
    fpr95: Number


@dataclass(frozen=True, kw_only=True)
class OodResult:
    """The detection of the images of another data set.

    images: the number of these images.
    max_probability: by 1 − max_c q_c of the average q of the members' probabilities (Hendrycks & Gimpel 2017).
    entropy: by the entropy of q.
    mutual_information: by the mutual information between the prediction and the member.
    members: by each member alone, with the entropy of its prediction.
    fingerprint: a hash of the images, 16 hexadecimal digits.
    """

    images: int
    max_probability: Detection
    entropy: Detection
    mutual_information: Detection
    members: list[Detection] | None = None
    fingerprint: str | None = None


@dataclass(frozen=True, kw_only=True)
class CorruptedScores:
    """The scores of an ensemble on corrupted test images, or their means over corruptions.

    error: the share of images whose class is not predicted, from 0 to 1.
    nll (nats): the negative log-likelihood.
    ece: the expected calibration error, from 0 to 1.
    calibrated_nll (nats): the negative log-likelihood at the temperature that is optimal without corruptions.
    calibrated_ece: the expected calibration error at this temperature, from 0 to 1.
    """

    error: Number
    nll: Number
    ece: Number
    calibrated_nll: Number
    calibrated_ece: Number


@dataclass(frozen=True, kw_only=True)
class CorruptionsResult:
    """The scores of an ensemble under the corruptions of Hendrycks & Dietterich 2019.

    source: the folder with the corrupted images; null if they were made from the test images.
    temperature_from: the images without corruptions on which the temperature was found: those of `validation`, or the
        other one of two `halves` of the test images.
    severity: the means over the 15 corruptions by severity, from 0, without corruptions, to 5.
    corruptions: the scores by corruption, of severity 1 to 5. The 4 further ones are in no mean.
    """

    source: str | None
    temperature_from: Literal["validation", "halves"]
    severity: dict[str, CorruptedScores]
    corruptions: dict[str, list[CorruptedScores]]


@dataclass(frozen=True, kw_only=True)
class EnsembleResult:
    """The result of an ensemble. Distances, cosines and the average of the parameters need a common architecture.

    members: the names of the ensemble members.
    weights: the weights of the members, with sum 1.
    splits: the scores on each split.
    distances: the matrix of ‖θ_i − θ_j‖ between the members.
    cosines: the matrix of the cosines between the members' directions θ_i − θ_0, each from its own initial parameters.
    parameter_average: the scores on each split of the network at the mean of the members' parameters.
    ood: the detection of the images of other data sets, by the names of these; null if none were asked for.
    corruptions: the scores under corruptions; null if none were asked for.
    """

    members: list[str]
    weights: list[float]
    splits: dict[str, SplitResult]
    distances: Matrix | None = None
    cosines: Matrix | None = None
    parameter_average: dict[str, Scores] | None = None
    ood: dict[str, OodResult] | None = None
    corruptions: CorruptionsResult | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        content: dict[str, Any] = with_nulls(dataclasses.asdict(self))
        return content

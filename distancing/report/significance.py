"""Compare groups with a baseline. Runs are paired by seed, because runs with equal seeds begin alike."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TEST = "scipy.stats.ttest_rel"  # paired by seed, two-sided
ROUNDING = 1e-12  # relative standard deviations below this are nothing but rounding


@dataclass(frozen=True)
class Comparison:
    """The paired comparison of a group with a baseline.

    n: the number of seeds that both have. difference: the mean difference, group minus baseline. sd: the standard
        deviation of the differences.
    p: None for fewer than two pairs, for equal differences, and for values that are not finite. holm: p corrected for
        all comparisons.
    """

    n: int
    difference: float
    sd: float | None
    p: float | None
    holm: float | None = None


def paired(values: Mapping[Any, float], baseline: Mapping[Any, float]) -> Comparison | None:
    """Compare values with a baseline, seed by seed. Return None if no seed is in both."""
    seeds = [seed for seed in values if seed in baseline]
    if not seeds:
        return None
    differences = [values[seed] - baseline[seed] for seed in seeds]
    mean, sd = mean_sd(differences)
    if sd is None:
        return Comparison(len(seeds), mean, None, None)
    if sd <= ROUNDING * max(abs(mean), *(abs(values[seed]) for seed in seeds)):
        return Comparison(len(seeds), mean, sd, None)
    from scipy.stats import ttest_rel  # slow to import

    p = ttest_rel([values[seed] for seed in seeds], [baseline[seed] for seed in seeds]).pvalue
    return Comparison(len(seeds), mean, sd, float(p))


def unpaired(values: Sequence[float], baseline: Sequence[float]) -> tuple[float, float | None]:
    """Return the difference of the means, and the two-sided p of Welch's t-test, for values that have no pairs.

    p is None if there are fewer than two values in either group, or if neither group varies by more than rounding.
    """
    difference = statistics.fmean(values) - statistics.fmean(baseline)
    sds = [mean_sd(group)[1] for group in (values, baseline)]
    if None in sds or all(sd <= ROUNDING * max(map(abs, [*values, *baseline])) for sd in sds if sd is not None):
        return difference, None
    from scipy.stats import ttest_ind  # slow to import

    p = float(ttest_ind(values, baseline, equal_var=False).pvalue)
    return difference, p if math.isfinite(p) else None


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Return the p-values after Holm's step-down correction. None and NaN stay, and do not count as comparisons."""
    known = sorted((value, i) for i, value in enumerate(p) if value is not None and not math.isnan(value))
    corrected = list(p)
    largest = 0.0
    for rank, (value, i) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * value))
        corrected[i] = largest
    return corrected


def mean_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean, and the standard deviation of the sample if it has two values or more and all are finite.

    The mean of values that are not all finite is their sum: infinite or NaN. Raise StatisticsError for no values.
    """
    if not all(map(math.isfinite, values)):
        return sum(values), None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None

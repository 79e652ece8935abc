"""Scores of a prediction, and of an ensemble: its average, the diversity of its members, and the gain from averaging.

p: the members' probabilities [M, N, C], of M members on N images of C classes; q: one prediction [N, C]; labels: the
true classes [N], int64. All in float64; no temporary is larger than p. Functions raise ValueError for no members, no
images, labels that do not fit, and weights of the wrong number, negative, not finite or all 0. A number that depends on
a NaN is NaN.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

LOG_FLOOR = math.log(math.ulp(0.0))  # −744.44: the logarithm of the smallest positive float64
PIECE = 2**12, 2**16  # images and parameters at a time when members are compared
BINS = 15  # the number of bins of each calibration error


def probabilities(logits: Tensor) -> Tensor:
    """Return the softmax over the last dimension, in float64, of logits [.., C] of any precision."""
    return torch.softmax(logits, -1, dtype=torch.float64)


def average(p: Tensor, weights: Tensor | None = None) -> Tensor:
    """(1.2.4) Return Σ_i w_i p_ci / Σ_i w_i, [N, C], for weights [M] ≥ 0 (None: equal ones)."""
    *_, last = averages(p, weights)
    return last


def scores(q: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the fields of `distancing.runs.ensemble.Scores` that need no temperature."""
    return {
        "accuracy": accuracy(q, labels),
        "nll": negative_log_likelihood(q, labels),
        "brier": brier(q, labels),
        "ece": expected_calibration_error(q, labels),
        "adaptive_ece": adaptive_calibration_error(q, labels),
        "classwise_ece": classwise_calibration_error(q, labels),
        "aurc": area_under_risk_coverage(q, labels),
        "coverage80_accuracy": 1 - risk_at_coverage(q, labels, 0.8),
    }


def accuracy(q: Tensor, labels: Tensor) -> float:
    """Return the share of images whose most probable class (the first of several) is the true one."""
    _check(q, labels)
    right = (q.argmax(1) == labels).double()
    return float(right.masked_fill(q.isnan().any(1), math.nan).mean())


def negative_log_likelihood(q: Tensor, labels: Tensor) -> float:
    """Return the mean of −log q_y over the images, in nats.

    A q_y that underflowed to 0 counts as the smallest positive float64, 5e-324. No image costs more than 744.44.
    """
    _check(q, labels)
    return 0.0 - float(q.gather(1, labels[:, None]).log().clamp(min=LOG_FLOOR).mean())  # 0.0 −: of certainty 0, not −0


def brier(q: Tensor, labels: Tensor) -> float:
    """Return the mean of Σ_c (q_c − y_c)² over the images, for the one-hot y: between 0 and 2 (Brier 1950)."""
    _check(q, labels)
    return float((q - F.one_hot(labels, q.shape[1])).square_().sum(1).mean())


def expected_calibration_error(q: Tensor, labels: Tensor) -> float:
    """Return Σ_b n_b/N · |accuracy − mean confidence| over 15 bins b (Guo et al. 2017).

    The confidence is the largest probability. Bins have equal width and are (lo, hi], with correctly rounded edges: a
    confidence of 1/3 is in (4/15, 5/15].
    """
    _check(q, labels)
    confidence, predicted = q.max(1)
    return _calibration_error(confidence, predicted == labels)


def classwise_calibration_error(q: Tensor, labels: Tensor) -> float:
    """Return the calibration error of q_c as the probability of class c, mean over c (Nixon et al. 2019).

    The bins are those of `expected_calibration_error`.
    """
    _check(q, labels)
    errors = [_calibration_error(q_c, labels == c) for c, q_c in enumerate(q.T.contiguous())]
    return sum(errors) / len(errors)


def adaptive_calibration_error(q: Tensor, labels: Tensor) -> float:
    """Return Σ_b n_b/N · |accuracy − mean confidence| over 15 bins of equally many images (Nixon et al. 2019).

    Images are sorted by their confidence; equal ones keep their order. The first N mod 15 bins have one image more.
    """
    _check(q, labels)
    confidence, predicted = q.max(1)
    confidence, order = confidence.sort(stable=True)
    excess = confidence - (predicted == labels)[order].to(q.dtype)
    return float(torch.stack([part.sum().abs() for part in excess.tensor_split(BINS)]).sum() / len(q))


def area_under_risk_coverage(q: Tensor, labels: Tensor) -> float:
    """Return the mean over n of the share of errors among the n most confident images (AURC, Geifman et al. 2019)."""
    errors = _errors_by_confidence(q, labels)
    return float((errors / torch.arange(1, len(errors) + 1, device=q.device)).mean())


def risk_at_coverage(q: Tensor, labels: Tensor, coverage: float) -> float:
    """Return the share of errors among the most confident images, of which ⌈coverage · N⌉ count."""
    count = math.ceil(coverage * len(labels))
    return float(_errors_by_confidence(q, labels)[count - 1] / count)


def _calibration_error(probability: Tensor, is_right: Tensor) -> float:
    """Return Σ_b n_b/N · |share of right ones − mean probability| over BINS bins of equal width, (lo, hi]."""
    edges = torch.arange(1, BINS, dtype=probability.dtype, device=probability.device) / BINS
    excess = probability - is_right.to(probability.dtype)
    totals = probability.new_zeros(BINS).index_add_(0, torch.bucketize(probability, edges), excess)
    return float(totals.abs().sum() / len(probability))


def _errors_by_confidence(q: Tensor, labels: Tensor) -> Tensor:
    """Return the number of errors among the n most confident images [N], expected for a random order of equal ones."""
    _check(q, labels)
    confidence, predicted = q.max(1)
    confidence, order = confidence.sort(descending=True)
    wrong = (predicted != labels)[order].to(q.dtype).masked_fill(confidence.isnan(), math.nan)
    _, group, sizes = confidence.unique_consecutive(return_inverse=True, return_counts=True)
    shares = wrong.new_zeros(len(sizes)).index_add_(0, group, wrong) / sizes
    return shares[group].cumsum(0)


def error_covariance(p: Tensor, labels: Tensor) -> Tensor:
    """Return E[e_i · e_j] [M, M] of the members' errors e_i = p_i − y for the one-hot y.

    E is the mean over the images, · the sum over the classes. The errors are not centred: (1.14) assumes a mean of 0.
    So the diagonal holds the members' Brier scores, and the mean of all entries, which is the variance of the equal
    average's error, is that average's Brier score.
    """
    _check(p, labels, members=True)
    total = p.new_zeros(len(p), len(p))
    for part, true in zip(p.split(PIECE[0], 1), labels.split(PIECE[0]), strict=True):
        errors = (part - F.one_hot(true, p.shape[2])).flatten(1)
        total += errors @ errors.T
    return total / len(labels)


def variance_and_covariance(p: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return v and c of (1.14): the means of `error_covariance` on and off its diagonal. One member has c = NaN."""
    matrix = error_covariance(p, labels)
    return float(matrix.diagonal().mean()), float(matrix[~torch.eye(len(p), dtype=torch.bool, device=p.device)].mean())


def predicted_reduction(v: float, c: float, k: int) -> float:
    """Return (v/k + (k − 1)/k · c) / v of (1.14), the share of v that averaging k members leaves; 1 for one member.

    The measured share is the Brier score of the members' equal average over their mean Brier score. On the images from
    which v and c are computed, both are the same number, by `error_covariance`. Raise ZeroDivisionError for v = 0.
    """
    return (v / k + ((k - 1) / k * c if k > 1 else 0.0)) / v


def error_correlation(v: float, c: float) -> float:
    """Return c/v: 1 if averaging gains nothing, 0 if it divides v by k. Raise ZeroDivisionError for v = 0."""
    return c / v


def disagreement(p: Tensor) -> Tensor:
    """Return the share of images for which the most probable classes of two members differ [M, M]."""
    _check(p, members=True)
    predicted = p.argmax(2).to(p.dtype).masked_fill(p.isnan().any(2), math.nan)
    return torch.stack([(predicted - row).abs().clamp(max=1).mean(1) for row in predicted])


def chance_disagreement(p: Tensor, labels: Tensor) -> Tensor:
    """Return the disagreement that members of these accuracies would have by chance [M, M], with 0 on the diagonal.

    By chance means: whether a member with accuracy a_i is right does not depend on the other member, and it errs to
    each of the C − 1 wrong classes with the same probability. Two members then disagree on
    1 − a_i a_j − (1 − a_i)(1 − a_j) / (C − 1) of the images. It stands beside the measured
    disagreement in the diversity–accuracy plane (Fort et al. 2019).
    """
    _check(p, labels, members=True)
    right = p.new_tensor([accuracy(q, labels) for q in p])
    wrong = 1 - right
    chance = 1 - right * right[:, None] - wrong * wrong[:, None] / max(p.shape[2] - 1, 1)
    return chance.fill_diagonal_(0)


def mutual_information(p: Tensor, weights: Tensor | None = None) -> float:
    """Return the mean of H(Σ_i w_i p_i) − Σ_i w_i H(p_i) ≥ 0 over the images, in nats (Depeweg et al. 2018; BALD)."""
    w = _weights(p, weights)
    w = w / w.sum()
    entropies = torch.stack([torch.special.entr(q).sum(1).mean() for q in (average(p, w), *p)])
    return float((entropies[0] - w @ entropies[1:]).clamp(min=0))  # rounding can leave −1e-16


def likelihood_weights(p: Tensor, labels: Tensor) -> Tensor:
    """Return the weights [M] ≥ 0 with sum 1 that minimise the negative log likelihood of Σ_i w_i p_i.

    Runs EM for the weights of a mixture, from equal ones: w_i ← mean_n w_i p_i[n, y_n] / Σ_j w_j p_j[n, y_n]. The
    problem is convex. Each step stays on the simplex and makes nothing worse, with no step size to choose. Ends when a
    step gains less than 1e-10 nats, about 1e-5 to 1e-4 from the minimum, or after 10,000 steps. Deterministic.
    Likelihoods have no floor here, and images for which all members have likelihood 0 are ignored. Raise ValueError
    for a NaN.
    """
    _check(p, labels, members=True)
    if p.isnan().any():
        raise ValueError("a member's probabilities are NaN: they have no likelihood")
    likelihood = p[:, torch.arange(len(labels), device=p.device), labels]
    best = likelihood.amax(0)  # only ratios matter, and these don't underflow
    likelihood = (likelihood / best)[:, best != 0]
    weights, last = p.new_full((len(p),), 1 / len(p)), math.inf
    for _ in range(10_000):
        mixture = weights @ likelihood
        nll = -float(mixture.log().mean())
        if not last - nll >= 1e-10:
            break
        weights, last = weights * (likelihood @ mixture.reciprocal()), nll
        weights /= weights.sum()
    return weights


def cosines(directions: Tensor) -> Tensor:
    """Return the cosines [M, M] between directions [M, P]; 0 with a direction that is 0."""
    products = torch.zeros(len(directions), len(directions), dtype=torch.float64, device=directions.device)
    for part in directions.split(PIECE[1], 1):
        products += part.double() @ part.double().T
    lengths = products.diagonal().sqrt().clamp(min=torch.finfo(torch.float64).tiny)
    return (products / lengths / lengths[:, None]).clamp(-1, 1)


def distances(theta: Tensor) -> Tensor:
    """Return ‖θ_i − θ_j‖ [M, M] for θ [M, P], from direct differences (see `distancing.hills.distances.Euclidean`)."""
    squares = torch.zeros(len(theta), len(theta), dtype=torch.float64, device=theta.device)
    for part in theta.split(PIECE[1], 1):
        rows = part.double()
        squares += torch.stack([(rows - row).square_().sum(1) for row in rows])
    return squares.sqrt()


def averages(p: Tensor, weights: Tensor | None = None) -> Iterator[Tensor]:
    """Yield the averages of the first 1, 2, …, M members [N, C], in the same memory.

    While all weights are 0, members count equally. The averages are quotients of sums, in units of the largest weight
    so far: no digits of small weights are lost, equal votes for two classes are a tie, and what all members are certain
    of has the probability 1.
    """
    shares = _weights(p, weights).tolist()
    total, mean = torch.zeros_like(p[0]), torch.empty_like(p[0])
    count = largest = 0.0
    for q, weight in zip(p, shares, strict=True):
        if weight > largest:
            total.mul_(largest / weight)  # 0 at the first weight: those before it counted equally
            count, largest = count * (largest / weight), weight
        share = weight / largest if largest else 1.0
        total.add_(q, alpha=share)
        count += share
        yield torch.div(total, count, out=mean)


def _weights(p: Tensor, weights: Tensor | None) -> Tensor:
    """Return the weights relative to the largest, so that their sum can't overflow."""
    _check(p, members=True)
    weights = p.new_ones(len(p)) if weights is None else weights.to(p)
    if weights.shape != (len(p),):
        raise ValueError(f"weights of shape {list(weights.shape)} for {len(p)} members")
    if not weights.isfinite().all() or (weights < 0).any() or not weights.any():
        raise ValueError(f"weights {weights.tolist()}: each must be finite and not negative, and one positive")
    return weights / weights.max()


def _check(p: Tensor, labels: Tensor | None = None, members: bool = False) -> None:
    """Raise ValueError unless p is [N, C], or [M, N, C] of `members`, and the labels fit."""
    shape = list(p.shape)
    if p.ndim != 2 + members or not p.numel():
        raise ValueError(f"no {'members or ' * members}images: probabilities of shape {shape}")
    if labels is not None and list(labels.shape) != shape[-2:-1]:
        raise ValueError(f"labels of shape {list(labels.shape)} for probabilities of shape {shape}")
    if labels is not None and (labels.min() < 0 or labels.max() >= shape[-1]):
        raise ValueError(f"labels from {labels.min()} to {labels.max()} for {shape[-1]} classes")

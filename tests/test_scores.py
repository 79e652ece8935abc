"""An ensemble's scores against scikit-learn, torchmetrics, SciPy and plain loops; and (1.14) on constructed errors."""

import dataclasses
import functools
import itertools
import math
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import optimize, special
from sklearn.metrics import accuracy_score, log_loss
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_accuracy,
    multiclass_calibration_error,
)

from distancing.ensemble import calibration, scores, show, side_by_side
from distancing.ensemble.judge import on_split
from distancing.ensemble.row import Row
from distancing.ensemble.scores import average, brier, likelihood_weights, negative_log_likelihood
from distancing.runs.ensemble import EnsembleResult

float64 = functools.partial(torch.tensor, dtype=torch.float64)
SMALL = patch.object(scores, "PIECE", (3, 4))  # several pieces, the last one shorter


@st.composite
def ensembles(draw: Any) -> tuple[Any, Tensor]:
    """Draw logits [M, N, C] of float32, with ties and values that underflow, and labels."""
    m, n, c = draw(st.integers(1, 5)), draw(st.integers(1, 11)), draw(st.integers(2, 5))
    small, extreme = st.floats(-4, 4, width=32), st.sampled_from([0.0, 1.0, 80.0, -745.0, -1e4, 3e38])
    elements = draw(st.sampled_from([small, st.one_of(small, extreme)]))
    logits = draw(hnp.arrays(np.float32, (m, n, c), elements=elements, fill=st.nothing()))
    return logits, torch.tensor(draw(st.lists(st.integers(0, c - 1), min_size=n, max_size=n)))


def by_hand(q: Any, labels: Any) -> dict[str, float]:
    """Return the scores, by loops over images and bins."""
    n, classes = q.shape
    squares = [(q[i, c] - (c == labels[i])) ** 2 for i in range(n) for c in range(classes)]
    ece, confidence, right = 0.0, q.max(1), q.argmax(1) == labels
    for k in range(15):
        inside = (confidence > k / 15) & (confidence <= (k + 1) / 15)
        if inside.any():
            ece += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    nll = -sum(math.log(q[i, labels[i]] or 5e-324) for i in range(n)) / n
    classwise = 0.0
    for c, k in itertools.product(range(classes), range(15)):
        inside = (q[:, c] > k / 15) & (q[:, c] <= (k + 1) / 15) | ((q[:, c] == 0) & (k == 0))
        classwise += abs(sum(q[inside, c]) - sum(labels[inside] == c)) / n / classes
    order = np.argsort(confidence, kind="stable")
    adaptive = sum(abs(sum(confidence[part]) - sum(right[part])) for part in np.array_split(order, 15)) / n
    wrong = []  # the expected number of errors among the i most confident images
    for i in range(1, n + 1):
        last = np.sort(confidence)[::-1][i - 1]
        surer, tied = confidence > last, confidence == last
        wrong.append(sum(~right[surer]) + (i - surer.sum()) * np.mean(~right[tied]))
    aurc, first = np.mean([errors / i for i, errors in enumerate(wrong, 1)]), math.ceil(0.8 * n)
    return {
        "accuracy": right.mean(), "nll": nll, "brier": sum(squares) / n, "ece": ece, "adaptive_ece": adaptive,
        "classwise_ece": classwise, "aurc": aurc, "coverage80_accuracy": 1 - wrong[first - 1] / first,
    }  # fmt: skip


@given(ensembles())
@settings(max_examples=75, deadline=None)
def test_scores_of_a_prediction(ensemble: tuple[Any, Tensor]) -> None:
    """Compared where definitions agree: scikit-learn clips at 2e-16, torchmetrics has bins [lo, hi) in float32."""
    logits, labels = ensemble
    p, classes = scores.probabilities(torch.tensor(logits)), range(logits.shape[2])
    np.testing.assert_allclose(p, special.softmax(logits.astype(np.float64), 2), rtol=1e-12, atol=1e-300)
    for q in p:
        actual = scores.scores(q, labels)
        assert actual == pytest.approx(by_hand(q.numpy(), labels.numpy()), rel=1e-9, abs=1e-12)
        assert actual["accuracy"] == accuracy_score(labels, q.argmax(1))
        total = multiclass_accuracy(q, labels, num_classes=len(classes), average="micro")
        assert actual["accuracy"] == pytest.approx(float(total), abs=1e-6)
        if q[range(len(q)), labels].min() > 1e-15:
            assert actual["nll"] == pytest.approx(log_loss(labels, q, labels=classes), abs=1e-12)
        edges = q.amax(1) * 15
        if ((edges - edges.round()).abs() > 1e-4).all():
            ece = multiclass_calibration_error(q, labels, num_classes=len(classes), n_bins=15, norm="l1")
            assert actual["ece"] == pytest.approx(float(ece), abs=1e-6)


def test_scores_of_more_images_than_bins() -> None:
    generator = np.random.default_rng(0)
    q = special.softmax(generator.normal(size=(100, 4)), 1)
    labels = np.array([generator.choice(4, p=row) for row in q])  # too sure in some bins, and not sure enough in others
    assert scores.scores(torch.from_numpy(q), torch.from_numpy(labels)) == pytest.approx(by_hand(q, labels))


def test_scores_at_the_limits() -> None:
    q, labels = float64([[1, 0], [1, 0]]), torch.tensor([1, 0])
    assert scores.scores(q, labels) == pytest.approx(
        {"accuracy": 0.5, "nll": 744.44007 / 2, "brier": 1, "ece": 0.5, "adaptive_ece": 0.5, "classwise_ece": 0.5,
         "aurc": 0.5, "coverage80_accuracy": 0.5}
    )  # fmt: skip
    assert average(float64([[[1]], [[2]], [[6]]]), float64([1e308, 0, 1e308])) == 3.5  # no overflow
    third, wrong = [1 / 3, 1 / 3, 1 / 3], [0.38, 0.31, 0.31]  # on an edge, and in the next bin: nothing cancels
    ece = scores.expected_calibration_error(float64([third, wrong]), torch.tensor([0, 1]))
    assert ece == pytest.approx((2 / 3 + 0.38) / 2)


@given(ensembles(), st.lists(st.sampled_from([0.0, 1e-9, 0.3, 1.0]), min_size=4, max_size=4))
@example((np.float32([[[0, -1e4]], [[-1e4, 0]]]), torch.tensor([0])), [0.0] * 4)  # certain and wrong, without weight
@settings(max_examples=75, deadline=None)
def test_members_together(ensemble: tuple[Any, Tensor], numbers: list[float]) -> None:
    p, labels = scores.probabilities(torch.tensor(ensemble[0])), ensemble[1]
    weights = float64([*numbers, 0.3])[-len(p) :]
    w, q = weights.numpy() / math.fsum(weights), average(p, weights)
    np.testing.assert_allclose(q, np.einsum("m,mnc->nc", w, p.numpy()), rtol=1e-12, atol=1e-300)
    torch.testing.assert_close(average(p.flip(0), weights.flip(0)), q, rtol=1e-12, atol=1e-300)
    torch.testing.assert_close(average(p), p.mean(0))
    for one, member in zip(torch.eye(len(p)), p, strict=True):
        assert torch.equal(average(p, one), member)
    grown = [scores.scores(q_k, labels) for q_k in scores.averages(p, weights)]
    assert grown[-1] == scores.scores(q, labels)
    for k, part in enumerate(grown, 1):
        first = average(p[:k], weights[:k] if weights[:k].any() else None)
        assert part["nll"] == pytest.approx(negative_log_likelihood(first, labels))

    log_p, log_q = (special.xlogy(p.numpy(), x.numpy() + 5e-324) for x in (p, q))  # p_i log p_i, p_i log q
    divergences = (log_p - log_q).sum(2).mean(1)  # KL(p_i ‖ q); rel_entr overflows before SciPy 1.15
    assert scores.mutual_information(p, weights) == pytest.approx(divergences @ w, abs=1e-9)
    assert 0 <= scores.mutual_information(p) <= math.log(p.shape[2]) + 1e-12
    assert 0 <= scores.mutual_information(p[:1].expand_as(p), weights) < 1e-12

    errors = p.numpy() - np.eye(p.shape[2])[labels]
    with SMALL:
        matrix, (v, c) = scores.error_covariance(p, labels), scores.variance_and_covariance(p, labels)
    np.testing.assert_allclose(matrix, np.einsum("inc,jnc->ij", errors, errors) / len(labels), atol=1e-12)
    assert v == pytest.approx(np.mean([brier(member, labels) for member in p]), abs=1e-12)
    assert brier(average(p), labels) == pytest.approx(float(matrix.mean()), abs=1e-12)
    if v > 1e-9:  # (1.14) predicts exactly what is measured on the same images
        assert scores.predicted_reduction(v, c, len(p)) == pytest.approx(brier(average(p), labels) / v, abs=1e-9)
    tops = p.numpy().argmax(2)
    assert scores.disagreement(p).tolist() == [[pytest.approx(np.mean(a != b)) for b in tops] for a in tops]


@given(ensembles())
@settings(max_examples=100, deadline=None)
def test_the_optimal_temperature(ensemble: tuple[Any, Tensor]) -> None:
    """Against SciPy's search on the logits, which have the same optimal temperature as the probabilities."""
    logits, labels = np.clip(ensemble[0][0].astype(np.float64), -300, 300), ensemble[1]
    q = torch.from_numpy(special.softmax(logits, 1))

    def loss(beta: float) -> float:
        log_p = special.log_softmax(beta * logits, 1)
        return float(-log_p[np.arange(len(labels)), labels].sum() + (beta - 1) ** 2 / 2)

    best = float(
        optimize.minimize_scalar(loss, bounds=calibration.BOUNDS, method="bounded", options={"xatol": 1e-9}).fun
    )
    assert loss(1 / calibration.optimal_temperature(q, labels)) <= best + 1e-6 * (1 + abs(best))
    assert calibration.tempered(q, 1.0).numpy() == pytest.approx(q.numpy(), abs=1e-12)


def test_a_temperature_is_of_no_account() -> None:
    """Where there are many images, the scores do not depend on the prediction's own temperature."""
    generator = torch.Generator().manual_seed(0)
    q = torch.softmax(3 * torch.randn(20_000, 4, generator=generator, dtype=torch.float64), 1)
    labels = torch.multinomial(calibration.tempered(q, 2.0), 1, generator=generator)[:, 0]
    for validation in (None, (q[:5000], labels[:5000])):
        found = [
            calibration.calibrated((calibration.tempered(q, t), labels), validation and
                                   (calibration.tempered(validation[0], t), validation[1]))
            for t in (1.0, 3.0)
        ]  # fmt: skip
        assert found[0]["temperature"] == pytest.approx(2.0, rel=0.03)
        assert found[1]["temperature"] == pytest.approx(2.0 / 3, rel=0.03)
        assert found[0]["calibrated_nll"] == pytest.approx(found[1]["calibrated_nll"], abs=1e-5)
        assert found[0]["calibrated_nll"] < negative_log_likelihood(q, labels) - 0.1
        assert found[0]["calibrated_ece"] < 0.02  # of noise


def test_one_error_among_few_images() -> None:
    """A temperature from images without an error must not make the one error cost more than it is worth."""
    q = torch.full((360, 10), 0.002, dtype=torch.float64)
    labels = torch.arange(360) % 10
    q[range(360), labels] = 0.982
    q[0] = torch.softmax(torch.eye(10, dtype=torch.float64)[1] * 3, 0)
    assert calibration.calibrated((q, labels), None)["calibrated_nll"] < 1.1 * negative_log_likelihood(q, labels)


def test_a_prediction_that_is_not_a_number() -> None:
    q = torch.full((20, 4), 0.25, dtype=torch.float64)
    labels = torch.arange(20) % 4
    broken = q.clone()
    broken[3] = math.nan
    for validation in ((broken, labels), None):
        test = (q, labels) if validation else (broken, labels)
        assert all(math.isnan(value) for value in calibration.calibrated(test, validation).values())


def test_a_temperature_of_halves() -> None:
    """Found on one half and judged on the other, both ways, in five divisions that are always the same."""
    generator = torch.Generator().manual_seed(0)
    q = torch.softmax(3 * torch.randn(60, 4, generator=generator, dtype=torch.float64), 1)
    labels = torch.multinomial(calibration.tempered(q, 2.0), 1, generator=generator)[:, 0]
    divide, values = torch.Generator().manual_seed(0), []
    for _ in range(5):
        order = torch.randperm(60, generator=divide)
        for mine, other in ((order[:30], order[30:]), (order[30:], order[:30])):
            values.append(calibration.calibrated((q[other], labels[other]), (q[mine], labels[mine])))
    assert calibration.calibrated((q, labels), None) == {
        name: pytest.approx(np.mean([value[name] for value in values])) for name in values[0]
    }
    assert calibration.calibrated((q[:1], labels[:1]), None)["temperature"] > 0  # a single image is both halves


@pytest.mark.parametrize("m", range(2, 20))
def test_ties_and_certainties_are_exact(m: int) -> None:
    """Members that are certain: the average is the quotient of two small integers, whatever the order of the votes."""
    votes = torch.randint(2, (m, 500), generator=torch.Generator().manual_seed(m))
    votes[:, 0] = 0
    counts = votes.sum(0)
    p = torch.eye(2).double()[votes]
    for weights in (None, float64([0.3] * m)):
        q = average(p, weights)
        assert (q.numpy() == np.stack((m - counts, counts), 1) / m).all()
        assert torch.equal(q.argmax(1), (2 * counts > m).long())  # the first class of a tie
    certain = scores.scores(average(p[:, :1]), torch.zeros(1, dtype=torch.int64))
    assert certain == {name: float(name.endswith("accuracy")) for name in certain}
    assert math.copysign(1, certain["nll"]) == 1


def test_nan_is_no_score() -> None:
    """Not even for the label 0, which the largest of NaNs would have."""
    p, labels = torch.full((3, 4, 2), 0.5).double(), torch.zeros(4, dtype=torch.int64)
    p[1, 2] = math.nan
    assert all(map(math.isnan, scores.scores(p[1], labels).values()))
    assert all(map(math.isnan, scores.scores(average(p), labels).values()))
    assert math.isnan(scores.mutual_information(p))
    assert scores.disagreement(p).isnan().tolist() == [[i == 1 or j == 1 for j in range(3)] for i in range(3)]
    assert scores.accuracy(p[0], labels) == 1
    with pytest.raises(ValueError, match="NaN: they have no likelihood"):
        likelihood_weights(p, labels)
    weights = torch.ones(3).double()
    splits = {"test": on_split(p, labels, weights)}
    found = EnsembleResult(members=["a", "b", "c"], weights=weights.tolist(), splits=splits)
    assert math.isnan(show.scalars(found)["ensemble/test/nll"][-1])
    assert show.pixels(show.picture(found)).any()
    assert show.table(found)


@pytest.mark.parametrize("k", [2, 3, 6])
def test_reduction_of_constructed_errors(k: int) -> None:
    """(1.14) leaves all of v for identical members, and v/k for errors of ±0.1 in all combinations: uncorrelated."""
    signs = float64(list(itertools.product((-1, 1), repeat=k)))
    labels = torch.arange(len(signs)) % 3
    p = torch.eye(3).double()[labels] + 0.1 * signs.T[:, :, None] * float64([1, -1, 0])
    for members, correlation, left in ((p, 0.0, 1 / k), (p[:1].expand_as(p), 1.0, 1.0)):
        v, c = scores.variance_and_covariance(members, labels)
        assert v == pytest.approx(0.02)
        assert scores.error_correlation(v, c) == pytest.approx(correlation, abs=1e-12)
        assert scores.predicted_reduction(v, c, k) == pytest.approx(left)
        assert brier(average(members), labels) / v == pytest.approx(left)
    assert scores.predicted_reduction(*scores.variance_and_covariance(p[:1], labels), 1) == 1


@given(ensembles(), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_weights_of_the_greatest_likelihood(ensemble: tuple[Any, Tensor], seed: int) -> None:
    p, labels = scores.probabilities(torch.tensor(ensemble[0])), ensemble[1]
    p[p < 1e-300] = 0  # near the floor of the likelihood, which weighted averages may cross
    weights = likelihood_weights(p, labels)
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1)
    nll = negative_log_likelihood(average(p, weights), labels)
    assert nll <= negative_log_likelihood(average(p), labels) + 1e-12
    others = np.random.default_rng(seed).dirichlet(np.full(len(p), 0.5), 20)
    for other in (*torch.tensor(others), *torch.eye(len(p)).double()):  # steps that gain 1e-10 add up
        assert nll <= negative_log_likelihood(average(p, other), labels) + 1e-4


def test_a_member_that_is_always_correct_gets_all_weight() -> None:
    labels = torch.arange(40) % 4
    p = scores.probabilities(torch.randn(3, 40, 4, generator=torch.Generator().manual_seed(0)))
    p[1] = torch.eye(4).double()[labels]
    assert likelihood_weights(p, labels)[1] > 1 - 1e-6
    tiny = float64([[[5e-324, 1], [0, 1]], [[0, 1], [0, 1]]])  # the second image is ignored
    assert likelihood_weights(tiny, labels.new_zeros(2)).tolist() == [1, 0]
    torch.testing.assert_close(likelihood_weights(p[:1].expand_as(p), labels), float64([1 / 3] * 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distances_and_cosines(dtype: torch.dtype) -> None:
    """Also of vectors so close to each other that ‖a‖² − 2⟨a, b⟩ + ‖b‖² has few digits left."""
    random = torch.randn(5, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    theta = torch.cat([random[:1], random[:1] + 1, 1 + 1e-4 * random[2:]]).to(dtype)
    exact = theta.double().numpy()
    with SMALL:
        distances, cosines = scores.distances(theta), scores.cosines(theta.double() - theta[0].double())
    np.testing.assert_allclose(distances, np.linalg.norm(exact[:, None] - exact, axis=2), rtol=1e-12)
    directions = (exact - exact[0])[1:] / np.linalg.norm(exact - exact[0], axis=1)[1:, None]
    np.testing.assert_allclose(cosines[1:, 1:], directions @ directions.T, rtol=1e-12, atol=1e-12)
    assert not cosines[0].any()  # θ_0 itself has no direction
    assert scores.cosines(torch.outer(torch.arange(1, 99).to(dtype), theta[0])).max() == 1  # not more


def test_refused_arguments() -> None:
    p, labels = torch.full((3, 5, 4), 0.25).double(), torch.zeros(5, dtype=torch.int64)
    refused: dict[str, list[Any]] = {
        r"weights of shape .* for 3 members": [[1, 1], [1, 1, 1, 1], 1],
        "finite and not negative, and one positive": [[1, -1, 1], [0, 0, 0], [1, math.nan, 1], [1, math.inf, 1]],
    }
    for function in (average, scores.mutual_information):
        with pytest.raises(ValueError, match="no members"):
            function(p[:0])
        for message, weights in ((message, weights) for message, cases in refused.items() for weights in cases):
            with pytest.raises(ValueError, match=message):
                function(p, float64(weights))
    with pytest.raises(ValueError, match="no members"):
        scores.disagreement(p[:0])
    for labelled in (scores.error_covariance, likelihood_weights):
        with pytest.raises(ValueError, match="no members"):
            labelled(p[:0], labels)
        for n in (1, 4, 6):
            with pytest.raises(ValueError, match=rf"labels of shape \[{n}\]"):
                labelled(p, labels.new_zeros(n))
    for score in (scores.accuracy, negative_log_likelihood, brier, scores.expected_calibration_error):
        for bad in (-1, 4):
            with pytest.raises(ValueError, match=f"labels from {bad} to {bad} for 4 classes"):
                score(p[0], labels + bad)
        with pytest.raises(ValueError, match="no images"):
            score(p[0, :0], labels[:0])


def test_the_deep_ensemble_equivalent() -> None:
    """Halfway between 2 and 4 networks in NLL are 3 networks."""
    curve = calibration.Equivalent([1, 2, 4], [1.0, 0.8, 0.6], [0.0, 0.3, 0.3])
    assert [curve.of(nll) for nll in (1.1, 1, 0.9, 0.7, 0.6, 0.5)] == pytest.approx([-math.inf, 1, 1.5, 3, 4, math.inf])
    assert curve.interval(0.7, 0.4) == (-math.inf, math.inf)  # ± 0.5
    assert math.isnan(curve.of(math.nan))
    assert calibration.Equivalent([1, 2, 3], [0.5, 0.6, 0.4], [0.0] * 3).of(0.5) == 1
    for i in range(3):  # the likelihood of so many independent networks is no number
        nll = [math.nan if i == j else value for j, value in enumerate(curve.nll)]
        assert math.isnan(calibration.Equivalent(curve.sizes, nll, curve.error).of(0.7))
    exact = calibration.Equivalent(curve.sizes, curve.nll, [0.0] * 3)
    assert exact.interval(0.7, 0.05) == pytest.approx((2.5, 3.5))
    both = calibration.Equivalent(curve.sizes, curve.nll, [0.03] * 3)  # 0.05² = 0.03² + 0.04²
    assert both.interval(0.7, 0.04) == pytest.approx((2.5, 3.5))
    known = Row(kind="alone", epochs=2, epochs_each=2.0, members=1, **dict.fromkeys(side_by_side.SCORES, 0.5))
    rows = [
        dataclasses.replace(known, members=k, calibrated_nll=nll) for k, nll in zip(curve.sizes, curve.nll, strict=True)
    ]
    rows += [dataclasses.replace(known, epochs_each=1.0, calibrated_nll=2.0)]
    rows += [dataclasses.replace(known, kind="other", members=2, calibrated_nll=nll) for nll in (0.65, 0.75)]
    column = side_by_side.header(rows, None, "alone").index("deep-ensemble equivalent")
    cells = [row[column] for row in side_by_side.cells(rows, None, "alone")]
    assert cells == ["< 1", "–", "–", "3.0 (2.5 to 3.5)", "–"]


@given(ensembles())
@settings(max_examples=100, deadline=None)
def test_errors_of_each_class_and_by_chance(ensemble: tuple[Any, Tensor]) -> None:
    """Compared with torchmetrics, where no probability is on an edge, and with a loop over the pairs of members."""
    p, labels = scores.probabilities(torch.tensor(ensemble[0])), ensemble[1]
    q, classes = p[0], p.shape[2]
    edges = q * 15
    if ((edges - edges.round()).abs() > 1e-4).all():
        errors = [float(binary_calibration_error(q[:, c], labels == c, n_bins=15)) for c in range(classes)]
        assert scores.classwise_calibration_error(q, labels) == pytest.approx(np.mean(errors), abs=1e-6)
    right = [accuracy_score(labels, member.argmax(1)) for member in p]
    chance = scores.chance_disagreement(p, labels)
    for (i, a), (j, b) in itertools.permutations(enumerate(right), 2):
        assert chance[i, j] == pytest.approx(1 - a * b - (1 - a) * (1 - b) / (classes - 1))


def test_disagreement_by_chance_is_that_of_independent_errors() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (40_000,), generator=generator)
    right = torch.rand(2, 40_000, generator=generator) < float64([[0.9], [0.6]])
    other = (labels + torch.randint(1, 4, (2, 40_000), generator=generator)) % 4
    p = F.one_hot(torch.where(right, labels, other), 4).double()
    assert scores.chance_disagreement(p, labels)[0, 1] == pytest.approx(float(scores.disagreement(p)[0, 1]), abs=0.01)

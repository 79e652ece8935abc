"""Ensembles of real runs on digits: members from anywhere, scored against their stored networks."""

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, launched, only_run, result, start
from scipy.stats import ttest_ind, ttest_rel
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from distancing.config.checks import read_config
from distancing.data.datasets import MNIST, FashionMNIST
from distancing.ensemble import compare, off_data, side_by_side
from distancing.ensemble.__main__ import main as cli
from distancing.ensemble.calibration import calibrated
from distancing.ensemble.compare import chosen
from distancing.ensemble.judge import judge, scored
from distancing.ensemble.row import Row, read_csv, write_csv
from distancing.errors import DatasetError, EnsembleError
from distancing.experiment.main import main
from distancing.models.evaluation import refresh_batch_norm
from distancing.runs import Listed, SweepDirectory, find_sweep, load, save
from distancing.stored import evaluation_images, find_checkpoints, on_this_machine

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a run with four checkpoints, one of another seed, one of another network, bags and folds."""
    single = {
        "seed": ["seed=1"],
        "mlp": ["model=mlp", "model.width=8"],
        "other": ["dataset.seed=5"],
        **{f"bag{i}": ["dataset.bootstrap=true", f"dataset.bootstrap_seed={i}"] for i in (0, 1)},
        **{f"fold{i}": ["dataset.folds=2", f"dataset.fold={i}", "dataset.validation_fraction=0"] for i in (0, 1)},
    }
    settings = {"cycles": [], **{name: ["phases=single", *overrides] for name, overrides in single.items()}}
    runs = {}
    for name, overrides in settings.items():
        folder = tmp_path_factory.mktemp(name)
        width = [] if "model=mlp" in overrides else ["model.width=2"]
        tiny = [override for override in TINY if not override.startswith("model.width")]
        assert start(*tiny, *width, "epochs=8", "optimizer.lr=0.1", "device=cpu", *overrides, f"runs={folder}") == 0
        runs[name] = only_run(folder)
    return runs


def test_a_run_scores_its_ensemble(runs: dict[str, Path]) -> None:
    """The average of the stored networks' probabilities, and the network at their mean, computed independently."""
    run = runs["cycles"]
    ensemble = result(run)["ensemble"]
    assert ensemble["members"] == ["descend", "settle-1", "settle-2", "settle-3"]
    config = read_config(run / ".hydra/config.yaml")
    data = dataclasses.replace(config.dataset, augment=False).load(CPU)
    stored = [load(run / f"checkpoints/{name}.pt")["network"] for name in ensemble["members"]]
    network = config.model.build(config.dataset.image_shape, config.dataset.classes).eval()
    for split, images in data.splits.items():
        probabilities = []
        for state in stored:
            network.load_state_dict(state)
            with torch.no_grad():
                probabilities.append(network(data.normalise(images.images)).double().softmax(1))
        q = torch.stack(probabilities).mean(0)
        values = ensemble["splits"][split]
        scores = values["ensemble"]
        assert scores["accuracy"] == pytest.approx((q.argmax(1) == images.labels).double().mean().item())
        assert scores["nll"] == pytest.approx(F.nll_loss(q.log(), images.labels).item(), rel=1e-5)
        assert values["temperature_from"] == {"train": None, "validation": "halves", "test": "validation"}[split]
        if split == "validation":
            halves = calibrated((q, images.labels), None)
            assert {name: scores[name] for name in halves} == pytest.approx(halves, rel=1e-5)
        assert values["predicted_reduction"] == pytest.approx(values["measured_reduction"], rel=1e-9)

    mean = {name: torch.stack([state[name].double() for state in stored]).mean(0) for name in stored[0]}
    network.load_state_dict({name: value.to(stored[0][name].dtype) for name, value in mean.items()})
    refresh_batch_norm(network, data, config.autocast(CPU))
    with torch.no_grad():  # all training images are one batch, so that its statistics are theirs
        inputs = data.normalise(data.train.images)
        after = network(inputs)
        torch.testing.assert_close(after, network.train()(inputs), rtol=0.05, atol=0.05)  # up to n/(n − 1)
    accuracy = (after.argmax(1) == data.train.labels).double().mean().item()
    assert ensemble["parameter_average"]["train"]["accuracy"] == pytest.approx(accuracy)
    first = result(run)["checkpoints"][0]
    assert ensemble["distances"][0][1] == pytest.approx(first["distances"]["settle-1"], rel=1e-5)
    assert ensemble["cosines"][2][2] == pytest.approx(1)
    events = EventAccumulator(str(run)).Reload()
    assert [event.step for event in events.Scalars("ensemble/test/accuracy")] == [1, 2, 3, 4]
    assert "ensemble" in events.Tags()["images"]
    test = ensemble["splits"]["test"]
    assert events.Scalars("ensemble/test/calibrated_nll")[3].value == pytest.approx(test["ensemble"]["calibrated_nll"])
    assert all("calibrated_ece" in scores for scores in (*test["members"], *test["growth"]))


def test_members_from_anywhere(runs: dict[str, Path]) -> None:
    several = find_checkpoints([runs["cycles"], runs["seed"], runs["mlp"], runs["seed"] / "checkpoints/final.pt"])
    names = ["descend", "settle-1", "settle-2", "settle-3", "final", "final"]
    assert [member.name.split("/")[1] for member in several] == names
    forwards, backwards = judge(several, CPU), judge(several[::-1], CPU)
    assert forwards.distances is None  # between different architectures
    for a, b in zip(forwards.splits.values(), backwards.splits.values(), strict=True):
        assert vars(a.ensemble) == pytest.approx(vars(b.ensemble))
        assert a.correlation == pytest.approx(b.correlation)
    spelt_twice = runs["mlp"] / ".." / runs["mlp"].name
    assert [member.file for member in find_checkpoints([runs["mlp"], runs["seed"], spelt_twice])] == [
        runs[name] / "checkpoints/final.pt" for name in ("mlp", "seed")
    ]
    (alone,) = find_checkpoints([runs["cycles"] / "checkpoints/settle-2.pt"])
    every_file = find_checkpoints(sorted((runs["cycles"] / "checkpoints").glob("*.pt")))  # final.pt is settle-3 again
    assert [member.name for member in every_file] == ["descend", "settle-1", "settle-2", "settle-3"]
    weighted = judge(find_checkpoints([runs["cycles"]]), CPU, [0, 0, 3, 0])
    only = judge([alone], CPU).splits["test"].ensemble
    assert vars(weighted.splits["test"].ensemble) == pytest.approx(vars(only))
    assert weighted.weights == [0, 0, 1, 0]
    test = weighted.splits["test"]  # both reductions are of equal weights all the same
    assert test.measured_reduction == pytest.approx(test.predicted_reduction)
    likely = judge(find_checkpoints([runs["cycles"]]), CPU, "likelihood").splits["validation"]
    assert likely.ensemble.nll <= min(scores.nll for scores in likely.members) + 1e-6


def test_each_member_comes_from_its_own_initial_parameters(tmp_path: Path) -> None:
    """The cosines of independent networks of one run compare the directions from each one's own initial parameters."""
    independent = ["penalty=none", "phases=independent", "phases.cycle.times=3", "epochs=3"]
    assert start(*TINY, *independent, f"runs={tmp_path}") == 0
    run = only_run(tmp_path)
    config = read_config(run / ".hydra/config.yaml")
    directions = []
    for i in (1, 2, 3):
        stored = load(run / f"checkpoints/descend-{i}.pt")
        torch.manual_seed(stored["initial_seed"])
        network = config.model.build(config.dataset.image_shape, config.dataset.classes)
        pairs = [(stored["network"][name], initial) for name, initial in network.named_parameters()]
        directions.append(torch.cat([(trained - initial.detach()).flatten() for trained, initial in pairs]))
    reference = [[F.cosine_similarity(a, b, dim=0).item() for a in directions] for b in directions]
    assert result(run)["ensemble"]["cosines"] == [pytest.approx(row, abs=1e-5) for row in reference]
    assert result(run)["checkpoints"][0]["initial_seed"] != config.seed


def test_bags_and_folds_are_scored_on_common_images(runs: dict[str, Path]) -> None:
    bags = judge(find_checkpoints([runs["bag0"], runs["bag1"]]), CPU).splits
    assert set(bags) == {"train", "validation", "test"}
    assert result(runs["bag0"])["metrics"]["test"]["accuracy"] == pytest.approx(bags["test"].members[0].accuracy)
    folds = judge(find_checkpoints([runs["fold0"], runs["fold1"]]), CPU).splits
    assert set(folds) == {"train", "test"}
    for i in (0, 1):  # each is normalised by its own training images
        assert result(runs[f"fold{i}"])["metrics"]["test"]["loss"] == pytest.approx(
            folds["test"].members[i].nll, rel=1e-5
        )
        (member,) = find_checkpoints([runs[f"fold{i}"]])
        own = evaluation_images(member.config, CPU)
        loss = F.cross_entropy(member.network(CPU).eval()(own.normalise(own.train.images)), own.train.labels)
        assert folds["train"].members[i].nll == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.slow
def test_a_run_on_a_bag_or_a_fold_is_scored_on_its_own_split(tmp_path: Path) -> None:
    """Each image of its own division counts once."""
    fold = ["dataset.folds=2", "dataset.fold=1", "dataset.validation_fraction=0"]
    for overrides in (fold, ["dataset.bootstrap=true"], [*fold, "dataset.bootstrap=true"]):
        name = f"name=kind{len(list(tmp_path.iterdir()))}"
        assert start(*TINY, "phases=distancing", "epochs=4", *overrides, name, f"runs={tmp_path}") == 0
        content = result(next(tmp_path.glob(f"{name[5:]}-*")))
        splits = content["ensemble"]["splits"]
        assert set(splits) == {"train", "validation", "test"}
        for split in ("validation", "test"):
            assert splits[split]["members"][1]["nll"] == pytest.approx(content["metrics"][split]["loss"], rel=1e-6)


def test_logits_are_computed_once(runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = shutil.copytree(runs["cycles"], tmp_path / runs["cycles"].name)
    before = judge(find_checkpoints([run]), CPU)
    monkeypatch.setattr("distancing.stored.predict", lambda *_: pytest.fail("computed again"))
    assert judge(find_checkpoints([run]), CPU) == before
    monkeypatch.undo()
    logits = run / "checkpoints/logits/descend.pt"
    logits.write_bytes(b"damaged")
    assert judge(find_checkpoints([run]), CPU) == before
    another = {**load(run / "checkpoints/settle-1.pt"), "name": "descend"}
    save(run / "checkpoints/descend.pt", another)
    assert judge(find_checkpoints([run]), CPU).splits["test"].disagreement[0][1] == 0
    refreshed = judge(find_checkpoints([run]), CPU, refresh=True)
    assert refreshed.splits["test"].members != before.splits["test"].members


def test_logits_of_the_test_images_alone(runs: dict[str, Path], tmp_path: Path) -> None:
    """A comparison, which leaves out the training images, may be the first to store the logits of a network."""
    run = shutil.copytree(runs["cycles"], tmp_path / runs["cycles"].name)
    before = judge(find_checkpoints([run]), CPU)
    shutil.rmtree(run / "checkpoints/logits")
    for _ in range(2):
        assert scored(find_checkpoints([run]), CPU, training=False).splits["test"] == before.splits["test"]
    assert judge(find_checkpoints([run]), CPU) == before


def test_stored_networks_compute_in_fp32_on_a_cpu(runs: dict[str, Path], tmp_path: Path) -> None:
    """Also those of a run in bf16, which may come from a GPU. Training images are left out if nobody needs them."""
    run = shutil.copytree(runs["cycles"], tmp_path / runs["cycles"].name)
    member = find_checkpoints([run])[0]
    data = evaluation_images(member.config, CPU)
    expected = member.logits(data, CPU)
    shutil.rmtree(run / "checkpoints/logits")
    in_bf16 = dataclasses.replace(member, config=dataclasses.replace(member.config, precision="bf16"))
    logits = in_bf16.logits(data, CPU, training=False)
    assert logits.keys() == data.splits.keys() - {"train"}
    assert all(logits[split].equal(expected[split]) for split in logits)
    assert len(torch.load(run / "checkpoints/logits/descend.pt")) == len(logits)


def test_a_run_from_another_machine_finds_its_images(
    runs: dict[str, Path], real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder is not here, but $DISTANCING_DATA is. A folder that is here comes first."""
    config = find_checkpoints([runs["cycles"]])[0].config
    dataset = MNIST(train_images=100, root=str(tmp_path / "elsewhere"), download=False)
    config = dataclasses.replace(config, dataset=dataset)
    monkeypatch.delenv("DISTANCING_DATA", raising=False)
    with pytest.raises(DatasetError, match="elsewhere: can't read MNIST"):
        evaluation_images(config, CPU)
    with pytest.raises(DatasetError, match="elsewhere: can't read MNIST"):
        off_data.images_of(["mnist"], FashionMNIST(root=dataset.root, download=False))
    monkeypatch.setenv("DISTANCING_DATA", str(real_data))
    assert len(evaluation_images(config, CPU).train) == 100
    assert on_this_machine(dataset).root == str(real_data)
    assert len(off_data.images_of(["mnist"], FashionMNIST(root=dataset.root, download=False))["mnist"]) == 10_000
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(DatasetError, match="elsewhere: can't read MNIST"):
        evaluation_images(config, CPU)


def test_refused_arguments(runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = shutil.copytree(runs["seed"], tmp_path / "copy")
    shutil.copytree(runs["seed"], tmp_path / runs["seed"].name)
    broken = tmp_path / runs["seed"].name / "checkpoints/final.pt"
    shutil.rmtree(broken.parent / "logits")
    broken.write_bytes(broken.read_bytes()[:-9])
    for arguments, message in (
        ([str(tmp_path)], f"{tmp_path} is not the directory of a run or a sweep, nor a checkpoint file"),
        ([str(runs["seed"]), str(runs["other"])], "dataset.seed=0, but"),
        ([str(broken)], f"{broken} is damaged"),
        ([str(runs["seed"]), str(runs["mlp"]), str(copy)], f"{copy}/checkpoints/final.pt is a copy of {runs['seed']}/"),
        ([str(runs["cycles"]), "--weights", "1,2"], "weights of shape [2] for 4 members"),
        ([str(runs["cycles"]), "--weights", "1,2,-1,0"], "each must be finite and not negative"),
        ([str(runs["cycles"]), "--weights", "many"], "--weights=many: write equal, likelihood, or one number"),
        ([str(runs["fold0"]), "--weights", "likelihood"], "--weights=likelihood needs validation images"),
    ):
        assert cli(arguments) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ")
        assert message in err
        assert err.count("\n") == 1
    with pytest.raises(EnsembleError, match="there is no checkpoint in"):
        find_checkpoints([])


def test_the_command(runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers, picture = tmp_path / "numbers.json", tmp_path / "picture.png"
    assert cli([str(runs["cycles"]), "--json", str(numbers), "--picture", str(picture)]) == 0
    out = capsys.readouterr().out
    test: dict[str, Any] = json.loads(numbers.read_text())["splits"]["test"]
    assert f"{test['ensemble']['accuracy']:.2%}" in out
    assert f"{test['correlation']:.4f}" in out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "with equal weights" not in out
    assert cli([str(runs["cycles"]), "--weights", "likelihood"]) == 0
    assert "errors (1.14), with equal weights except for the mutual information" in capsys.readouterr().out
    assert cli([str(runs["seed"]), "--json", str(numbers)]) == 0  # a single member has no covariance
    assert json.loads(numbers.read_text())["splits"]["test"]["correlation"] is None


def flops(run: Path) -> int:
    """Return the floating-point operations of one image in the network of a run."""
    config = read_config(run / ".hydra/config.yaml")
    with FlopCounterMode(display=False) as counter:
        config.build_network(CPU)(torch.zeros(2, *config.dataset.image_shape))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("nll", [math.nan, math.inf])
def test_a_score_that_is_not_finite_is_a_dash(nll: float) -> None:
    """The others are means ± standard errors."""
    row = Row(kind="a", members=2, epochs_each=1.0, epochs=2, **dict.fromkeys(side_by_side.SCORES, 0.5))
    rows = [row, dataclasses.replace(row, nll=nll, brier=0.7)]
    (cells,) = side_by_side.cells(rows, None)
    assert (cells[7], cells[9]) == ("–", "0.6000 ± 0.1000")
    assert side_by_side.picture(rows).axes


def scored_rows() -> list[dict[str, Any]]:
    """Return the rows of two kinds with two trials of three seeds each, and of a larger network."""
    values = {
        ("a", "s=1"): (0.3, 0.5, [0.41, 0.44, 0.40]),
        ("a", "s=2"): (0.2, 0.6, [0.52, 0.55, 0.50]),  # better on the validation images, worse on the test images
        ("b", "s=1"): (0.1, 0.5, [0.30, 0.35, 0.31]),
        ("b", "s=2"): (0.4, 0.4, [0.20, 0.25, 0.21]),
    }
    rows: list[dict[str, Any]] = []
    for (kind, trial), (validation, accuracy, nlls) in values.items():
        for seed, nll in enumerate(nlls):
            row = {"kind": kind, "trial": trial, "trials": 2, "seed": seed, "epochs_each": 4.0, "epochs": 8}
            row |= {"forward": 9.0, "backward": 8.0, "members": 2, "operations": 200}
            rows.append(
                {
                    **row,
                    "validation_calibrated_nll": validation + nll / 100,
                    **dict.fromkeys(side_by_side.SCORES, accuracy),
                    "nll": 1 - nll,
                    "calibrated_nll": nll,
                }
            )
    return rows


def test_the_names_of_kinds_and_trials() -> None:
    """Two settings with one last part stay apart; a choice of optimiser is a trial, as is any setting but a few."""
    escape, settle = (f"phases.cycle.phases.{phase}.epochs=5" for phase in ("escape", "settle"))
    adam, more = "optimizer=adam", "phases.cycle.times=3"
    runs = [Listed(Path(str(i)), ("a=1", *own), 8) for i, own in enumerate([[escape], [settle], [adam, more], []])]
    assert [kind for kind, _ in compare._names(runs, tuned=False).values()] == [escape, settle, "optimizer=adam", ""]
    assert [*compare._names(runs, tuned=True).values()] == [("", escape), ("", settle), ("", adam), ("", "")]
    sigma = [Listed(Path(str(s)), (f"+sweep=of{s}", f"penalty.sigma={s}"), 8) for s in (1, 2)]  # of two sweeps
    assert [kind for kind, _ in compare._names(sigma, tuned=False).values()] == ["sigma=1", "sigma=2"]


def test_a_trial_is_chosen_for_all_seeds_together() -> None:
    """Also if a phase ends early for one seed, whose runs then have fewer epochs."""
    scores = {"s=1": (0.1, 0.5), "s=2": (0.2, 0.2)}  # of two seeds
    rows = [row for row in scored_rows() if row["kind"] == "a" and row["seed"] < 2]
    rows = [row | {"epochs": 8 - row["seed"]} for row in rows]
    rows = [row | {"validation_calibrated_nll": scores[row["trial"]][row["seed"]]} for row in rows]
    best = chosen([Row(**row) for row in rows])
    assert [(row.trial, row.seed) for row in best] == [("s=2", 0), ("s=2", 1)]
    rows = [row | {"validation_calibrated_nll": math.nan} if row["trial"] == "s=1" else row for row in rows]
    for order in (rows, rows[::-1]):
        assert {row.trial for row in chosen([Row(**row) for row in order])} == {"s=2"}


def test_the_trial_of_each_kind_is_chosen_on_the_validation_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Δ and p are paired by seed, between the chosen trials alone. A kind may be one large network."""
    large = {"kind": "large", "members": 1, "epochs_each": 8.0, "operations": 150, "backward": None, "trial": "s=1"}
    large["epochs"] = 5  # they stopped early, and are compared at the planned budget
    rows = [*scored_rows(), *({**row, **large} for row in scored_rows()[:3])]
    rows.append({**rows[-1], "trial": "s=2", "validation_calibrated_nll": -1.0})  # two of its three runs diverged
    file, markdown = tmp_path / "rows.csv", tmp_path / "table.md"
    write_csv(rows, file)
    arguments = ["--compare", str(file), "--baseline", "b"]
    assert cli([*arguments, "--choose", "--markdown", str(markdown)]) == 0
    first, second = ([[cell.strip() for cell in line.split("|")[1:-1]] for line in part.splitlines()]
                     for part in markdown.read_text().split("\n\n"))  # fmt: skip
    cells = {row[3]: dict(zip(first[0], row, strict=True)) for row in first[2:]}
    a, b, c = ([row["calibrated_nll"] for row in rows[i : i + 3]] for i in (3, 6, 12))
    assert [float(cells[kind]["calibrated NLL"].split()[0]) for kind in "ab"] == [round(sum(x) / 3, 4) for x in (a, b)]
    p = sorted([ttest_rel(a, b).pvalue, ttest_rel(c, b).pvalue])
    shown = sorted(float(cells[kind]["p"]) for kind in ("a", "large"))
    assert shown == pytest.approx([2 * p[0], max(2 * p[0], p[1])], rel=0.1)  # after Holm's correction
    assert [cells[kind]["Δ calibrated NLL"] for kind in "ab"] == [f"{(sum(a) - sum(b)) / 3:+.4f}", "baseline"]
    assert [cells[kind]["inference"] for kind in ("a", "large")] == ["2", "1.5"]
    assert cli([*arguments, "--choose", "--score", "accuracy", "--markdown", str(markdown)]) == 0
    a, b = ([row["accuracy"] for row in rows[i : i + 3]] for i in (3, 6))
    assert f" {100 * (sum(a) - sum(b)) / 3:+.2f} " in markdown.read_text()
    assert "Δ ensemble acc." in markdown.read_text()
    assert [cells[kind]["forward"] + cells[kind]["backward"] for kind in ("a", "large")] == ["98", "9–"]
    assert [row[3:5] + row[-1:] for row in second[2:]] == [
        ["s=1", "3", ""], ["s=2", "3", "*"], ["s=1", "3", "*"], ["s=2", "3", ""], ["s=1", "3", "*"], ["s=2", "1", ""],
    ]  # fmt: skip
    write_csv([*rows, {**rows[0], "epochs_each": 8.0, "trials": 1}], file)  # another budget
    assert cli([*arguments, "--choose"]) == 0
    capsys.readouterr()
    for change, message in (
        (
            {"validation_calibrated_nll": None},
            "--choose needs the calibrated NLL on validation images: set dataset.val",
        ),
        (
            {"kind": "c", "trials": 3},
            "--choose needs the same number of trials of each kind, and with 8 epochs there are: a: 2",
        ),
    ):
        write_csv([*rows, {**rows[0], **change}], file)
        assert cli([*arguments, "--choose"]) == 2
        assert message in capsys.readouterr().err
    write_csv([{**row, "trial": ""} for row in rows], file)
    assert cli([*arguments, "--choose"]) == 2
    assert "--choose: no kind has several trials: leave --choose out" in capsys.readouterr().err
    for arguments, message in (
        (["--choose"], "--choose is for ensembles side by side: add --compare"),
        (["--csv", "it.csv"], "--csv is for ensembles side by side: add --compare"),
        (["--compare", "--refresh-batch-norm"], "--refresh-batch-norm judges one ensemble: leave out --compare"),
    ):
        assert cli([str(tmp_path), *arguments]) == 2
        assert message in capsys.readouterr().err


def test_kinds_are_paired_if_they_have_the_same_seeds() -> None:
    a, b = ([Row(**row) for row in scored_rows() if (row["kind"], row["trial"]) == (kind, "s=1")] for kind in "ab")
    x, y = ([row.calibrated_nll for row in rows] for rows in (a, b))
    others = [dataclasses.replace(row, seed=seed) for seed, row in enumerate(b, 1)]
    unpaired = [ttest_ind(x, base, equal_var=False).pvalue for base in (y, y[:2])]
    for base, p in zip((b, others, b[:2]), (ttest_rel(x, y).pvalue, *unpaired), strict=True):
        assert side_by_side._difference(a, base, "calibrated_nll")[1] == pytest.approx(p)


def test_the_deep_ensemble_equivalent_in_files(tmp_path: Path) -> None:
    """CSV and JSON have that of each ensemble by itself; all other columns are kept when the files are read again."""
    row = scored_rows()[0] | {"temperature_from": "halves", "aurc": 0.25}
    alone = [row | {"kind": "alone", "members": k, "calibrated_nll": nll} for k, nll in ((1, 0.8), (2, 0.6), (4, 0.2))]
    others = [row | {"members": 2, "calibrated_nll": nll} for nll in (0.9, 0.4, 0.1)]
    others[0]["kind"] = ""  # as if the sweep were over seeds alone
    short = row | {"kind": "alone", "members": 1, "epochs_each": 2.0, "calibrated_nll": 0.95}
    others.insert(0, short)  # not the yardstick, which has the most epochs each
    files = [tmp_path / name for name in ("a.csv", "b.csv", "c.json")]
    write_csv([*alone, *others], files[0])
    assert (
        cli(["--compare", str(files[0]), "--independent", "alone", "--csv", str(files[1]), "--json", str(files[2])])
        == 0
    )
    written = json.loads(files[2].read_text())
    equivalents = [record.pop("deep_ensemble_equivalent") for record in written]
    assert equivalents == [None] * 3 + ["< 1", "< 1", pytest.approx(3), "> 4"]
    assert [record[key] for record, given in zip(written, [*alone, *others], strict=True) for key in given] == [
        given[key] for given in [*alone, *others] for key in given
    ]
    assert read_csv(files[1]) == read_csv(files[0])
    assert files[1].read_text().splitlines()[-1].endswith(",> 4")


def test_a_file_of_an_older_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It has raw scores only, which are compared, and no costs."""
    file = tmp_path / "old.csv"
    names = (
        "kind",
        "members",
        "epochs_each",
        "epochs",
        "member_accuracy",
        "accuracy",
        "nll",
        "brier",
        "ece",
        "correlation",
    )
    write_csv([{name: row[name] for name in names} | {"validation": 0.1} for row in scored_rows()[3:9]], file)
    markdown, numbers = (tmp_path / folder / "it" for folder in ("markdown", "json"))  # in folders that are made
    written = ["--markdown", str(markdown), "--json", str(numbers)]
    assert cli(["--compare", str(file), "--baseline", "b", *written]) == 0
    assert markdown.exists()
    assert numbers.exists()
    header, first, _ = (" ".join(line.split()) for line in capsys.readouterr().out.splitlines()[1:])
    assert header.endswith("c/v forward backward inference Δ NLL p")
    assert "-0.2033" in first  # of the raw NLL
    for arguments, message in ((["--choose"], "if its CSV is of an older version"),
                               (["--members", "3,5"], f"no ensembles of 3,5 in {file}; there are ensembles of 2"),
                               (["--json", str(tmp_path)], f"--json={tmp_path}: this is a folder: name a file in it"),
                               (["--independent", "b"], "b has no calibrated NLL: compare the sweep")):  # fmt: skip
        assert cli(["--compare", str(file), *arguments]) == 2
        assert message in capsys.readouterr().err
    file.write_text("kind,members\na,many\n")
    assert cli(["--compare", str(file)]) == 2
    assert "old.csv was not written by --compare --csv: row 0, " in capsys.readouterr().err


@pytest.mark.slow
def test_kinds_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs with several networks are ensembles; single networks are grouped in the order of their seeds."""
    monkeypatch.chdir(tmp_path)
    cases = ("+hydra.sweeper.cases={together:{seed:[0,1],phases:snapshot,phases.cycle.times:2,penalty:none,epochs:4},"
             "apart:{seed:[0,1,2,3],phases:single,epochs:2}}")  # fmt: skip
    launched(*TINY, cases, task=lambda cfg: float(main(cfg)[0]))
    numbers, scores, markdown, picture = (tmp_path / f"it.{suffix}" for suffix in ("json", "csv", "md", "png"))
    assert cli(["--compare", "it", "--json", str(numbers), "--csv", str(scores), "--picture", str(picture)]) == 0
    out = capsys.readouterr().out
    rows = json.loads(numbers.read_text())
    assert [(row["members"], row["epochs_each"], row["epochs"]) for row in rows] == [(2, 2, 4)] * 4
    assert {(row["forward"], row["backward"]) for row in rows} == {(4, 4)}
    assert {row["seed"] for row in rows} == {0, 1, None}
    assert {row["operations"] for row in rows} == {2 * flops(find_sweep("it").runs()[0].path)}
    apart = [row for row in rows if "phases=single" in row["kind"]]
    runs = [run.path for run in find_sweep("it").runs() if "phases=single" in run.overrides]
    for two, row in zip((runs[:2], runs[2:]), apart, strict=True):
        assert row["nll"] == judge(find_checkpoints(two), CPU).splits["test"].ensemble.nll
    mean = sum(row["accuracy"] for row in apart) / 2
    assert f"{100 * mean:.2f} ±" in out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert cli(["--compare", str(scores), "--baseline", "single", "--markdown", str(markdown)]) == 0  # the CSV
    again = capsys.readouterr().out.splitlines()
    together = [row["calibrated_nll"] for row in rows if row not in apart]
    p = ttest_ind(together, [row["calibrated_nll"] for row in apart], equal_var=False).pvalue
    assert [line.split()[-1] for line in again[2:]] == [f"{p:.2g}", "baseline"]
    assert all(cell in markdown.read_text() for cell in again[2].split())
    assert cli(["--compare", "it", "--members", "1,4", "--json", str(numbers)]) == 0  # the first network of each run
    sizes = [(row["members"], row["epochs"]) for row in json.loads(numbers.read_text())]
    assert sizes == [(1, 2)] * 6 + [(4, 8)]
    listed = find_sweep("it").runs()
    SweepDirectory(Path("runs/sweeps/two")).add(
        [Listed(r.path, ("+sweep=two", *r.overrides), r.epochs) for r in listed]
    )
    assert cli(["--compare", "it", "two", "--members", "1,4,4", "--json", str(numbers)]) == 0  # each run once
    assert sizes == [(row["members"], row["epochs"]) for row in json.loads(numbers.read_text())]
    shutil.copytree("runs", "copy")
    assert cli(["--compare", "it", "copy/sweeps/it", "--members", "1,4", "--json", str(numbers)]) == 0
    assert sizes == [(row["members"], row["epochs"]) for row in json.loads(numbers.read_text())]
    for arguments, message in (
        (("--weights", "1,0,0"), "weights of shape [3] for 2 members"),
        (("--members", "0"), "--members=0: write numbers of members"),
        (("--baseline", "e"), "--baseline=e is in the names of 2 kinds; write one: phases="),
        (("--baseline", "z"), "--baseline=z is in no kind's name; the kinds are: phases="),
        (("--score", "brier"), "--score=brier: it is compared with a baseline: add --baseline KIND"),
        (("--baseline", "single", "--score", "ood_auroc"), "--score=ood_auroc: some of the ensembles have none; all h"),
    ):
        assert cli(["--compare", "it", *arguments]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_sweep_of_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Choices, data and the network make a kind; other settings are its trials. One network of all epochs is a kind."""
    monkeypatch.chdir(tmp_path)
    cases = ("+hydra.sweeper.cases={a:{phases:snapshot,phases.cycle.times:2,optimizer.lr:[0.1,0.2],epochs:4},"
             "longer:{phases:snapshot,phases.cycle.times:2,optimizer.lr:0.1,epochs:6},"
             "b:{phases:jumps,phases.cycle.times:1,phases.cycle.phases.escape.jump:[1,2],epochs:4},"
             "c:{phases:single,epochs:4,phases.train.until_loss:99,model.width:[3,4],"
             "optimizer.lr:[0.1,0.2]}}")  # fmt: skip
    tiny = [override for override in TINY if not override.startswith("model.width")]
    launched(*tiny, "penalty=none", cases, task=lambda cfg: float(main(cfg)[0]))
    numbers = tmp_path / "it.json"
    assert cli(["--compare", "it", "--choose", "--json", str(numbers)]) == 0
    rows = json.loads(numbers.read_text())
    assert [(row["trial"], row["trials"]) for row in rows if row["epochs_each"] == 3] == [("optimizer.lr=0.1", 1)]
    rows = [row for row in rows if row["epochs_each"] != 3]
    assert {(row["kind"], row["trial"], row["members"], row["trials"]) for row in rows} == {
        *(("phases=snapshot", f"optimizer.lr={lr}", 2, 2) for lr in (0.1, 0.2)),
        *(("phases=jumps", f"phases.cycle.phases.escape.jump={jump}", 2, 2) for jump in (1, 2)),
        *((f"phases=single width={width}", f"optimizer.lr={lr}", 1, 2) for width in (3, 4) for lr in (0.1, 0.2)),
    }
    for row in rows:
        if row["members"] == 1:
            own = {f"model.width={row['kind'][-1]}", row["trial"]}
            (run,) = (run.path for run in find_sweep("it").runs() if own <= set(run.overrides))
            own_scores = judge(find_checkpoints([run]), CPU).splits["validation"].ensemble
            assert own_scores.nll == pytest.approx(result(run)["metrics"]["validation"]["loss"], rel=1e-6)
            assert row["validation_calibrated_nll"] == own_scores.calibrated_nll
            assert row["operations"] == flops(run)
        assert (row["epochs_each"], row["epochs"]) == ((4, 1) if row["members"] == 1 else (2, 4))  # planned, trained

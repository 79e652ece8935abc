"""A user's own networks are tried before a run: those that are refused, with one line, and those that are accepted."""

import dataclasses
import re
from pathlib import Path

import pytest
from conftest import compose, start

from distancing.component import trust
from distancing.config.checks import check, check_new
from distancing.errors import ConfigError

TINY = ["epochs=7", "phases.cycle.times=1", "batch_size=50", "device=cpu", "threads=1"]
NETWORKS = """
import torch
from torch import nn

class Linear(nn.Module):
    def __init__(self, image_shape, classes):
        super().__init__()
        self.linear = nn.Linear(64, classes)
    def forward(self, x):
        return self.linear(x.flatten(1))

class OfOne(Linear):
    def forward(self, x):
        return super().forward(x).squeeze()

class OfMany(Linear):
    def __init__(self, image_shape, classes):
        super().__init__(image_shape, classes)
        self.norm = nn.BatchNorm1d(classes, track_running_stats=False)
    def forward(self, x):
        return self.norm(super().forward(x))

class Nothing(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :10]

class NoGradient(Linear):
    @torch.no_grad()
    def forward(self, x):
        return super().forward(x)

class InPlace(Linear):
    def forward(self, x):
        x.sub_(0.5)
        return super().forward(x)

class Choosy(Linear):
    def forward(self, x):
        assert x.min() >= 0, "images are from 0 to 1"
        return super().forward(x)

class Failing(Linear):
    def forward(self, x):
        return super().forward(x) * (1 / len([]))

class Branching(Linear):
    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)

class BranchingInTraining(Branching):
    def forward(self, x):
        return super().forward(x) if self.training else Linear.forward(self, x)

class Unnamed(Linear):
    def __init__(self, *a, **k):
        super().__init__(*a, **k)

class Forgetful(Linear):
    def __init__(self, image_shape, classes):
        super().__init__(image_shape, classes)
        self.register_buffer("count", torch.zeros(()), persistent=False)
    def forward(self, x):
        if self.training:
            self.count += 1
        return super().forward(x) * (1 + self.count)

class Replacing(Forgetful):
    def forward(self, x):
        if self.training:
            self.count = self.count + 1
        return super().forward(x)

class Remembering(Forgetful):
    def __init__(self, image_shape, classes):
        super().__init__(image_shape, classes)
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mask", None, persistent=False)
    def forward(self, x):
        if self.mask is None:
            self.mask = torch.ones_like(x[:1])
        return super().forward(x * self.mask)
"""


@pytest.fixture
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a trusted file with networks; return its folder."""
    (tmp_path / "networks.py").write_text(NETWORKS)
    monkeypatch.setenv(trust.VARIABLE, str(tmp_path / "networks.py"))
    return tmp_path


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("OfOne", r"model: for one image and 10 classes it returns shape \(10,\) instead of logits of shape"),
        ("Nothing", "model: it has no parameters, and so there is nothing to train"),
        ("NoGradient", r"model: its logits have no gradient in evaluation mode: let forward use neither"),
        ("InPlace", r"model: it changes its images in place, .*: let forward change a copy, as x = x \* 2 does"),
        (
            "Failing",
            r"model: it raises ZeroDivisionError in networks.py, line \d+, for images of shape \(1, 8, 8\) and 10 ",
        ),
        (
            "Unnamed",
            "model: .*missing 2 required .*'image_shape' and 'classes'; give the signature of Unnamed parameters of",
        ),
        ("Forgetful", "model: its buffer count changes in training mode, but is not persistent, .*: leave out pers"),
        ("Replacing", "model: its buffer count changes in training mode"),
    ],
)
def test_one_line_says_what_is_wrong_with_a_network(networks: Path, network: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(own_network(networks, network))


def test_a_network_that_fails_on_real_images(networks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    searched = f"hydra.searchpath=[file://{own_choice(networks, 'Choosy')}]"
    assert start(searched, "model=own", *TINY, f"runs={networks}/runs") == 2
    said = r"error: model: networks.Choosy\(\) raises AssertionError in networks.py, line \d+: images are from 0 to 1\n"
    assert re.fullmatch(said, capsys.readouterr().err)


def test_an_analysis_of_a_network_whose_graph_cannot_be_read(networks: Path) -> None:
    config = check(own_network(networks, "Branching", "analysis=[barrier]"))
    with pytest.raises(ConfigError, match=r"analysis.barrier needs matching=false, because the graph of this network"):
        check_new(config, ())
    without = {"barrier": dataclasses.replace(config.analysis["barrier"], matching=False)}
    check_new(dataclasses.replace(config, analysis=without), ())
    check_new(check(own_network(networks, "BranchingInTraining", "analysis=[barrier]")), ())


def test_a_network_that_needs_several_images_is_accepted(networks: Path) -> None:
    config = check(own_network(networks, "OfMany"))
    assert config.model.operations((1, 8, 8), 10) == 2 * 64 * 10


def test_a_network_with_a_persistent_state_is_accepted(networks: Path) -> None:
    check(own_network(networks, "Remembering"))


def own_network(folder: Path, network: str, *overrides: str) -> object:
    return compose(f"hydra.searchpath=[file://{own_choice(folder, network)}]", "model=own", *TINY, *overrides)


def own_choice(folder: Path, network: str) -> Path:
    """Write the choice model=own; return the folder of choices."""
    (folder / "conf/model").mkdir(parents=True, exist_ok=True)
    (folder / "conf/model/own.yaml").write_text(f"_target_: networks.{network}\n")
    return folder / "conf"

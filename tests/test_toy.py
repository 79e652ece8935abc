"""The toys show what they say: computed from the trajectories that are drawn."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from toy import scenes
from toy.__main__ import main
from toy.ball import roll
from toy.losses import STATIONARY, four_valleys

POINTS = [(loss, point, index) for loss, points in STATIONARY.items() for point, index in points.items()]


@pytest.mark.parametrize(("loss", "point", "index"), POINTS)
def test_the_losses_are_stationary_where_they_say(loss, point, index):
    theta = torch.tensor(point, dtype=torch.float64)
    assert torch.func.grad(loss)(theta).tolist() == pytest.approx([0] * len(point), abs=2e-6)
    assert (torch.linalg.eigvalsh(torch.func.hessian(loss)(theta)) < -1e-5).sum() == index


def test_the_hill_takes_the_local_minimum_away():
    x = torch.tensor([2 / 3 - 0.1, 2 / 3 - 0.01, 2 / 3, 2 / 3 + 0.01, 4 / 3, 7 / 3]).double()[:, None]
    checkpoints = x[2:3]
    assert scenes.LEAVES.total(x, checkpoints[:0]).diff().sign().tolist() == [-1, -1, 1, 1, -1]
    assert scenes.LEAVES.total(x, checkpoints).diff().sign().tolist() == [-1, -1, -1, -1, -1]


@pytest.mark.parametrize(
    ("scene", "end"),
    [
        (scenes.STAYS, (2 / 3,)),
        (replace(scenes.LEAVES, at=()), (2 / 3,)),
        (scenes.LEAVES, (7 / 3,)),
        (scenes.RIGHT_WAY, (3,)),
        (replace(scenes.BACK, store=()), (-2.4,)),
        (scenes.BACK, (2.98,)),
        (scenes.ONE_VALLEY, (0,)),
        (scenes.VALLEYS, (4,)),
        (scenes.ONE_OF_FOUR, (3, 2)),
        (scenes.ACROSS, (0,)),
        (scenes.ALONG, (0, 0)),
    ],
)
def test_where_the_ball_comes_to_rest(scene, end):
    assert (roll(scene)[0][-5:] - torch.tensor(end)).abs().max() < (0.4 if scene.loss is scenes.walled else 0.2)


def test_from_the_wrong_side_the_way_down_is_the_wrong_way_and_hills_make_it_longer():
    without, hilly = roll(scenes.WRONG_WAY)[0], roll(scenes.FURTHER)[0]
    assert hilly[-1] < without[-1] - 2 < -7
    assert max(without.max(), hilly.max()) < 0


def test_hill_after_hill_it_comes_to_all_four_valleys():
    minima = torch.tensor([point for point, index in STATIONARY[four_valleys].items() if index == 0]).double()
    near = torch.cdist(roll(scenes.ALL_FOUR)[0], minima) < 0.5
    assert near.any(0).all()
    assert (torch.cdist(roll(scenes.ONE_OF_FOUR)[0], minima) < 0.5).any(0).sum() == 1


def test_in_a_ring_it_goes_all_along_before_it_leaves():
    trajectory = roll(scenes.ALONG)[0]
    on_ring = trajectory[: scenes.ALONG.store[-1]]
    assert (on_ring.norm(dim=1) > 1.5).all()
    turned = torch.atan2(on_ring[:, 1], on_ring[:, 0]).diff()
    assert torch.remainder(turned + torch.pi, 2 * torch.pi).sub(torch.pi).sum().abs() > 2 * torch.pi * 0.85


@pytest.mark.slow
def test_main_writes_the_pictures(tmp_path):
    main([str(tmp_path / "new")])
    for name in ("hill", "start", "kernels", "valleys"):
        with Image.open(tmp_path / "new" / f"{name}.png") as picture:
            picture.load()
            assert picture.width == 1600
    with Image.open(tmp_path / "new" / "hill.gif") as film:
        milliseconds = [film.seek(frame) or film.info["duration"] for frame in range(film.n_frames)]
    assert len(milliseconds) > 50
    assert 6_000 < sum(milliseconds) < 11_000
    assert (tmp_path / "new" / "hill.gif").stat().st_size < 1_500_000

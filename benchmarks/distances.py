"""Measure the cost of each distance: the hills' part of a training step, in percent of that step without hills.

One process trains ResNet-20 on batches of 128 random images. The docstring of `benchmarks/step.py` says how it
measures. `push` is `Stepper.push`: energy, gradient and cosine.
"""

import argparse
import dataclasses
from functools import partial

import torch
from rich.console import Console
from rich.table import Table
from step import BATCH, HILLS, NETWORKS, Runs, config_of, measure, median_and_quartiles, push, random_data, ratios

from distancing.hills import distances
from distancing.hills.distances import Distance
from distancing.hills.hills import Hills
from distancing.training.setup import reproducible
from distancing.training.trainer import Trainer

DISTANCES: dict[str, Distance] = {
    "euclidean": distances.Euclidean(),
    "weights only": distances.Euclidean(parameters="weights"),
    "layerwise": distances.Layerwise(),
    "filter direction": distances.FilterDirection(),
    "random projection, 16": distances.RandomProjection(),
    "elementwise": distances.Elementwise(),
    "function space, 128 fixed images": distances.FunctionSpace(probe=128),
    "function space, the batch": distances.FunctionSpace(),
}
STEP = ("step without hills", 0)


def pieces(trainer: Trainer) -> Runs:
    theta, penalty = trainer.theta, trainer.config.penalty
    assert penalty is not None
    images = trainer.data.normalise(trainer.data.train.images[:BATCH])
    checkpoints = theta.vector + 0.05 * torch.randn(max(HILLS), len(theta), device=theta.vector.device)

    trainer.begin_epoch()

    def step() -> None:
        trainer.stepper.number.zero_()
        trainer.stepper.step(BATCH)

    runs: Runs = {STEP: (step, 1)}
    for name, distance in DISTANCES.items():
        for k in HILLS:
            hills = Hills(
                trainer.network,
                dataclasses.replace(penalty, distance=distance),
                inputs=images,
                autocast=trainer.stepper.autocast,
                theta=theta,
            )
            hills.put(checkpoints[:k])
            runs[name, k] = partial(push, trainer, hills, images), 1
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="time each piece so often")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    reproducible()
    config = config_of(NETWORKS["resnet20"][0], args.device)
    device = config.torch_device
    trainer = Trainer(config, random_data(BATCH, device), device)
    times = measure(pieces(trainer), args.rounds, device)
    title = f"ResNet-20, {len(trainer.theta):,} parameters, batches of {BATCH}, {device}, {args.threads} threads"
    shown = Table("", "hills", "ms", "% of a step", "quartiles", title=title)
    for piece, durations in times.items():
        ms, _ = median_and_quartiles([1e3 * t for t in durations], 2)
        last = piece == STEP or piece[1] == HILLS[-1]
        share = median_and_quartiles([100 * r for r in ratios(times, piece, STEP)], 2)
        shown.add_row(piece[0], str(piece[1]), ms, *share, end_section=last)
    Console(highlight=False, width=110).print(shown)


if __name__ == "__main__":
    main()

"""What a training step costs here, beside one written by hand and beside the thesis's Algorithm 5.

For each network, in one process and on the same resident random images, cropped and mirrored:

bare         a hand-written loop: separate parameters, torch.optim.SGD, cross entropy; no records, no hills
epoch        `Trainer.epoch` as a run calls it (`reproducible()` too), without hills and with K of them
algorithm 5  the bare loop with K hills as the thesis has them: a checkpoint is a list of clones, its distance
             a Python loop over them, and the sum of the hills is added to the loss, for autograd

and hills alone: `push` is `Trainer.push`, all that they add to a step here; `energy` is `Hills.energy`,
the part of it without the cosine; `5 alone` is Algorithm 5 forward and backward, onto old gradients.

After a warm-up every round times each piece, forwards and backwards by turns, so that a drift of the machine
hits all alike. What is shorter than REPEAT seconds is repeated, so that hills alone find a warmer cache than
in a step. Ratios are taken within a round; shown are the median over the rounds and the quartiles. The defaults
suit two CPU cores; on CUDA, where the clock waits for the device, ask for `--steps 100`.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from distancing.config import Config
from distancing.data import Data, Split, mean_std
from distancing.datasets import CIFAR10
from distancing.distances import Euclidean
from distancing.experiment import reproducible
from distancing.kernels import Gaussian
from distancing.models import ResNet
from distancing.optimizers import SGD
from distancing.penalty import Hills, Penalty
from distancing.phases import Phase
from distancing.schedules import Constant
from distancing.training import Trainer

BATCH, HILLS, REPEAT = 128, (1, 4, 16), 0.3
# hills so wide and low that training doesn't leave them while it is timed, begun on their slopes
STRENGTH, SIGMA, AWAY = 1e-2, 0.3, 0.1  # nats; in units of ‖θ_c‖; in units of ‖θ‖

Piece = tuple[str, int]  # what is timed, and with how many hills
Runs = dict[Piece, tuple[Callable[[], object], int]]  # it, and the steps it takes
Times = dict[Piece, list[float]]  # seconds a step, by round
BARE = ("bare", 0)
NETWORKS = {  # with the rounds, and the steps of an epoch, that a CPU has the time for
    "resnet20": (ResNet(depth=20), 7, 6),
    "resnet18": (ResNet(depth=18, stages=4, width=64), 4, 2),
}


def config_of(model: ResNet, device: Literal["auto", "cpu", "cuda"]) -> Config:
    hill: dict[str, Any] = {"strength": STRENGTH, "sigma": SIGMA, "sigma_unit": "norm"}
    return Config(
        dataset=CIFAR10(augment=True), model=model, optimizer=SGD(lr=1e-2, momentum=0.9, l2=1e-3),
        scheduler=Constant(), penalty=Penalty(distance=Euclidean(), kernel=Gaussian(), **hill),
        phases={"escape": Phase(penalty=True)}, analysis={}, seed=0, epochs=1, batch_size=BATCH, label_smoothing=0.0,
        device=device, precision="fp32", channels_last=False, compile=False, evaluate_every=1,
        checkpoint_every=1, name="step", runs="runs", overwrite=False, hash="",
    )  # fmt: skip


def random_data(n: int, device: torch.device) -> Data:
    images, labels = torch.randint(0, 256, (n, 32, 32, 3), dtype=torch.uint8), torch.randint(0, 10, (n,))
    mean, std = (each.to(device) for each in mean_std(images))
    split = Split(images.to(device), labels.to(device))
    return Data(train=split, test=split, validation=None, mean=mean, std=std, padding=4, flip=True)


class Bare:
    """The loop by hand, as one would write it who wants it fast and needs nothing else."""

    def __init__(self, config: Config, data: Data, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        self.network = config.model.build(config.dataset.image_shape, config.dataset.classes).to(device)
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=1e-2, momentum=0.9, weight_decay=2e-3)
        self.labels = data.train.labels
        self.mean, self.std = data.mean[:, None, None], data.std[:, None, None]
        # contiguous: batches inherit the order, and channels_last, which neither side uses, has its own speed
        padded = F.pad(data.train.images.permute(0, 3, 1, 2).contiguous(), (4, 4, 4, 4))
        self.crops = padded.unfold(2, 32, 1).unfold(3, 32, 1)  # a view of all there are: [N, C, 9, 9, 32, 32]

    def epoch(self, checkpoints: Sequence[Sequence[Tensor]] = (), sigmas: Sequence[float] = ()) -> None:
        torch.use_deterministic_algorithms(False)
        n, device = len(self.labels), self.labels.device
        order, shifts = torch.randperm(n, device=device), torch.randint(0, 9, (2, n), device=device)
        flips = torch.rand(n, 1, 1, 1, device=device) < 0.5
        for batch in (slice(start, start + BATCH) for start in range(0, n, BATCH)):
            index = order[batch]
            pixels = self.crops[index, :, shifts[0, batch], shifts[1, batch]]
            pixels = torch.where(flips[batch], pixels.flip(3), pixels)
            images = pixels.float().sub_(self.mean).div_(self.std)
            self.optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(self.network(images), self.labels[index])
            if checkpoints:
                loss = loss + algorithm_5(self.network, checkpoints, sigmas)
            loss.backward()
            self.optimizer.step()


def algorithm_5(network: nn.Module, places: Sequence[Sequence[Tensor]], sigmas: Sequence[float]) -> Tensor:
    penalty = torch.zeros((), device=places[0][0].device)
    for checkpoint, sigma in zip(places, sigmas, strict=True):
        distance = torch.zeros_like(penalty)
        for c, p in zip(checkpoint, network.parameters(), strict=True):
            difference = torch.add(-p, c)
            distance = distance + torch.sum(torch.mul(difference, difference))
        penalty = penalty + STRENGTH * torch.exp(-distance / (2 * sigma**2))
    return penalty


def trainer_epoch(trainer: Trainer, hills: Hills) -> None:
    reproducible()
    trainer.hills = hills
    trainer.progress.epoch, trainer.progress.step = trainer.progress.epoch + 1, 0
    trainer.epoch(lambda: True)


@torch.no_grad()
def push(trainer: Trainer, hills: Hills, images: Tensor) -> None:
    trainer.hills = hills
    trainer.push(images)


def pieces(trainer: Trainer, bare: Bare) -> Runs:
    """All that is timed. Raises AssertionError if the two ways to hills disagree."""
    theta, penalty, lists = trainer.theta, trainer.config.penalty, []
    assert penalty is not None
    for _ in range(HILLS[-1]):
        away = torch.randn_like(theta.vector)
        place = theta.vector + AWAY * theta.vector.norm() * away / away.norm()
        trainer.add_place({}, place)
        named = theta.named(place)
        lists.append([named[name].clone() for name, _ in bare.network.named_parameters()])
    assert trainer.hills is not None
    sigmas = trainer.hills.widths.tolist()

    def alone_5(k: int) -> Tensor:
        energy = algorithm_5(bare.network, lists[:k], sigmas[:k])
        energy.backward()
        return energy.detach()

    hills = {k: Hills(penalty, trainer.start) for k in (0, *HILLS)}
    for k in HILLS:
        hills[k].put(trainer.places[:k])
    energy = {k: torch.no_grad()(hills[k].energy) for k in HILLS}
    theirs, ours = alone_5(HILLS[-1]), energy[HILLS[-1]](theta.vector)  # and leave gradients to add to
    gradients = {name: p.grad for name, p in bare.network.named_parameters() if p.grad is not None}
    gradient = theta.flatten(gradients)
    torch.testing.assert_close(theirs, ours[0], rtol=1e-4, atol=0.0)
    assert (gradient - ours[1]).norm() < 1e-4 * gradient.norm()

    n, images = trainer.steps, trainer.data.normalise(trainer.data.train.images[:BATCH])
    runs: Runs = {BARE: (bare.epoch, n)}
    runs |= {("epoch", k): (partial(trainer_epoch, trainer, hills[k]), n) for k in hills}
    runs |= {("algorithm 5", k): (partial(bare.epoch, lists[:k], sigmas[:k]), n) for k in HILLS}
    runs |= {("push", k): (partial(push, trainer, hills[k], images), 1) for k in HILLS}
    runs |= {("energy", k): (partial(energy[k], theta.vector), 1) for k in HILLS}
    runs |= {("5 alone", k): (partial(alone_5, k), 1) for k in HILLS}
    return runs


def seconds(run: Callable[[], object], times: int, device: torch.device) -> float:
    """A run's mean duration."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    begun = time.perf_counter()
    for _ in range(times):
        run()
    wait()
    return (time.perf_counter() - begun) / times


def measure(runs: Runs, rounds: int, device: torch.device) -> Times:
    for run, _ in runs.values():  # the warm-up
        run()
    repeats = {piece: max(1, round(REPEAT / seconds(run, 1, device))) for piece, (run, _) in runs.items()}
    found: Times = {piece: [] for piece in runs}
    for i in range(rounds):
        for piece in list(runs)[:: -1 if i % 2 else 1]:
            run, steps = runs[piece]
            found[piece].append(seconds(run, repeats[piece], device) / steps)
    return found


def ratios(times: Times, piece: Piece, to: Piece) -> list[float]:
    return [a / b for a, b in zip(times[piece], times[to], strict=True)]


def median_and_quartiles(values: Sequence[float], digits: int) -> tuple[str, str]:
    first, median, third = statistics.quantiles(values, n=4, method="inclusive")
    return f"{median:.{digits}f}", f"{first:.{digits}f} – {third:.{digits}f}"


def table(title: str, times: Times) -> Table:
    shown = Table("", "hills", "ms a step", "quartiles", "% of bare", "quartiles", title=title)
    for piece, of_piece in times.items():
        row = [piece[0], str(piece[1])]
        for values in ([1e3 * t for t in of_piece], [100 * r for r in ratios(times, piece, BARE)]):
            row += median_and_quartiles(values, 2)
        shown.add_row(*row, end_section=piece == BARE or piece[1] == HILLS[-1])
    return shown


def goals(name: str, times: Times) -> Table:
    """What is aimed at, beside what was measured; the median decides."""
    most = HILLS[-1]
    push, energy, theirs = ("push", most), ("energy", most), ("5 alone", most)
    epoch, alone = ratios(times, ("epoch", 0), BARE), [100 * r for r in ratios(times, push, BARE)]
    shown = Table(name, "median", "quartiles", "aim", "", box=None)
    for what, values, sign, aim in (
        ("epoch without hills / bare", epoch, "≤", 1.05),
        (f"push of {most} hills, % of bare", alone, "<", 1),
        (f"algorithm 5 / push, {most} hills", ratios(times, theirs, push), "≥", 10),
        (f"algorithm 5 / energy, {most} hills", ratios(times, theirs, energy), "≥", 10),
    ):
        median = statistics.median(values)
        met = {"≤": median <= aim, "<": median < aim, "≥": median >= aim}[sign]
        shown.add_row(what, *median_and_quartiles(values, 3), f"{sign} {aim}", "met" if met else "not met")
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description="What a training step costs; see this file's docstring.")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--rounds", type=int, help="time each piece so often")
    parser.add_argument("--steps", type=int, help="of an epoch")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    args = parser.parse_args()
    if args.rounds is not None and args.rounds < 2:
        parser.error("--rounds: quartiles need two at least")
    torch.set_num_threads(args.threads)
    reproducible()  # once before CUDA begins, which then reads the environment
    console, said = Console(highlight=False, width=110), []
    for name in args.networks:
        model, rounds, steps = NETWORKS[name]
        rounds, steps = args.rounds or rounds, args.steps or steps
        config = config_of(model, args.device)
        device = config.torch_device
        data = random_data(steps * BATCH, device)
        trainer = Trainer(config, data, device)
        times = measure(pieces(trainer, Bare(config, data, device)), rounds, device)
        size = f"{len(trainer.theta):,} parameters, batches of {BATCH}, {rounds} rounds of {steps} steps"
        console.print(table(f"{name}: {size}, {device}, {args.threads} threads", times))
        said.append(goals(name, times))
    console.print(*said)


if __name__ == "__main__":
    main()

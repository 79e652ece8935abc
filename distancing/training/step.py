"""One training step of the loss and the hills."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distancing.data.batches import Data, Epoch
from distancing.hills.hills import Hills
from distancing.hills.theta import Theta
from distancing.training.gradients import cosine_and_ratio
from distancing.training.settings import Config

# the columns of a step's record, which is read once an epoch, so that no step waits for the device
CROSS_ENTROPY, L2, PENALTY, COSINE, RATIO, CORRECT = range(6)


class Stepper:
    """The training step, which changes the network with its parameters `theta`, the optimiser and the hills.

    All that differs from step to step is on the device, at addresses that stay the same during a phase, so that a step
    can be captured and replayed.

    forward: the network, compiled if the config says so. hills: None if the config has no penalty.
    epoch: the batches. number: the number of the next step within the epoch [1].
    rates, noises: the learning rate and the standard deviation of the noise on the gradient in each step [S].
    records: the records of this epoch's steps [S, 6].
    """

    def __init__(self, config: Config, network: nn.Module, data: Data, device: torch.device) -> None:
        self.config, self.network = config, network
        self.forward: Callable[[Tensor], Tensor] = torch.compile(network, dynamic=False) if config.compile else network
        self.autocast = config.autocast(device)
        self.theta = Theta(network)
        self.optimizer = config.optimizer.build(self.theta)
        self.hills: Hills | None = None
        # section 1.1.4: PyTorch spreads its ε over all C classes, the thesis its k over the C − 1 wrong ones
        self.label_smoothing = config.label_smoothing * config.dataset.classes / (config.dataset.classes - 1)
        self.epoch = Epoch(data, config.batch_size, config.seed, 0)
        steps = -(-len(data.train) // config.batch_size)
        self.number = torch.zeros(1, dtype=torch.int64, device=device)
        # PyTorch reads a tensor as double precision on a CPU, and as single precision on other devices
        precision = torch.float64 if device.type == "cpu" else torch.float32
        self.rates = torch.zeros(steps, dtype=precision, device=device)
        self.noises = torch.zeros(steps, device=device)
        self.records = torch.zeros(steps, 6, device=device)
        self._lr = self.rates.new_zeros(1)
        self._numbers = torch.arange(steps, device=device)[:, None]
        self._nothing = torch.zeros((), device=device)

    def begin(self, epoch: int, number: int, rates: Sequence[float], noises: Sequence[float]) -> None:
        """Prepare the steps of an epoch from step `number` on."""
        self.epoch.begin(self.config.seed, epoch)
        self.number.fill_(number)
        self.rates.copy_(torch.tensor(rates, dtype=self.rates.dtype))
        self.noises.copy_(torch.tensor(noises))
        for group in self.optimizer.param_groups:  # a state that was loaded has a tensor of its own
            group["lr"] = self._lr

    def step(self, size: int, hills_act: bool = False, noisy: bool = False) -> None:
        """Take one step on (2.9), cross entropy + λ‖θ‖² + hills, and record its parts.

        size: the number of images of the batch.
        """
        images, labels = self.epoch.batch(self.number, size)
        torch.index_select(self.rates, 0, self.number, out=self._lr)
        with self.autocast:
            logits = self.forward(images)
        cross_entropy = F.cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing)
        cross_entropy.backward()
        self.theta.collect_gradient()
        with torch.no_grad():
            theta = self.config.optimizer.penalised(self.theta)
            l2 = self.config.optimizer.l2 * theta.dot(theta)  # the optimiser adds its gradient
            penalty, cosine, ratio = self.push(images) if hills_act else [self._nothing] * 3
            correct = (logits.argmax(1) == labels).sum()
            if noisy:
                noise = torch.randn_like(self.theta.vector)
                self.theta.add_gradient(noise.mul_(self.noises.index_select(0, self.number)))
            self._record(torch.stack((cross_entropy.detach(), l2, penalty, cosine, ratio, correct.float())))
        self.optimizer.step()
        if hills_act and self.hills:
            self.hills.keep_norm()
        self.number += 1

    def push(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Add the hills' gradient to the data's (2.11).

        Return the hills' energy, the cosine between the two gradients, and the ratio of their norms, hills to data.
        """
        assert self.hills is not None
        energy, push = self.hills.gradient(images)
        self.hills.pass_time()
        cosine, ratio = cosine_and_ratio(self.theta.gradient, push)
        self.theta.add_gradient(push)
        return energy, cosine, ratio

    def _record(self, parts: Tensor) -> None:
        """Write the parts [6] to this step's row of `records`."""
        # not an indexed write, which sorts its indices on a GPU in order to be deterministic
        torch.where(self._numbers == self.number, parts, self.records, out=self.records)

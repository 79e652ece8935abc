"""One training step of the loss and the hills."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distancing.hills.hills import Hills
from distancing.hills.theta import Theta
from distancing.training.gradients import cosine_and_ratio
from distancing.training.settings import Config

# the columns of a step's record, which is read once an epoch, so that no step waits for the device
CROSS_ENTROPY, L2, PENALTY, COSINE, RATIO, CORRECT = range(6)


class Stepper:
    """The training step, which changes the network with its parameters `theta`, the optimiser and the hills.

    forward: the network, compiled if the config says so. hills: None if the config has no penalty.
    """

    def __init__(self, config: Config, network: nn.Module, device: torch.device) -> None:
        self.config, self.network = config, network
        self.forward: Callable[[Tensor], Tensor] = torch.compile(network, dynamic=False) if config.compile else network
        self.autocast = config.autocast(device)
        self.theta = Theta(network)
        self.optimizer = config.optimizer.build(self.theta)
        self.hills: Hills | None = None
        # section 1.1.4: PyTorch spreads its ε over all C classes, the thesis its k over the C − 1 wrong ones
        self.label_smoothing = config.label_smoothing * config.dataset.classes / (config.dataset.classes - 1)
        self._nothing = torch.zeros((), device=device)

    def step(
        self, images: Tensor, labels: Tensor, lr: float, hills_act: bool, record: Tensor, noise: float = 0.0
    ) -> None:
        """Take one step on (2.9), cross entropy + λ‖θ‖² + hills, and write its parts to `record` [6].

        noise: the standard deviation of normal noise on the gradient.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr
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
            if noise:
                self.theta.add_gradient(torch.randn_like(self.theta.vector), noise)
            torch.stack((cross_entropy.detach(), l2, penalty, cosine, ratio, correct.float()), out=record)
        self.optimizer.step()
        if hills_act and self.hills:
            self.hills.keep_norm()

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

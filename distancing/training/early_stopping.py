"""Early stopping (section 1.1.4 of the thesis): the best parameters of a phase by the validation loss."""

import math
from typing import TypedDict

from torch import Tensor, nn


class Kept(TypedDict):
    """A network with its validation loss (nats) and the epoch at whose end it was kept. network: its state_dict."""

    loss: float
    epoch: int
    network: dict[str, Tensor]


class Best:
    """The network with the lowest validation loss of a phase so far. kept: None before the first epoch's end."""

    def __init__(self, kept: Kept | None = None) -> None:
        self.kept = kept

    def keep(self, network: nn.Module, loss: float, epoch: int) -> int:
        """Keep a copy of the network if its loss is the lowest so far; return the number of epochs since the best."""
        loss = loss if math.isfinite(loss) else math.inf
        if self.kept is None or loss < self.kept["loss"]:
            copy = {name: value.clone() for name, value in network.state_dict().items()}
            self.kept = {"loss": loss, "epoch": epoch, "network": copy}
        return epoch - self.kept["epoch"]

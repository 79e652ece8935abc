"""The hills of a penalty at stored checkpoints."""

import torch
from torch import Tensor

from distancing.hills.features import Features, Identity, Network
from distancing.hills.penalty import Penalty


class Field:
    """The hills at the checkpoints stored so far, as a function of θ, and their change with time.

    checkpoints: θ_c [K, P]. centres: their features. widths, strengths: [K]. norm: ‖θ‖ at the newest checkpoint.
    start: θ_0 [P]. network: None if the distance compares the parameters themselves.
    """

    def __init__(self, penalty: Penalty, start: Tensor, network: Network | None = None) -> None:
        self.penalty, self.start = penalty, start
        self.features: Features = penalty.distance.features(network) if network else Identity()
        self.checkpoints = start.new_empty(0, len(start))
        self.strengths = start.new_empty(0)

    def put(self, checkpoints: Tensor) -> None:
        """Put hills at these checkpoints [K, P]. New hills get the strength s."""
        new = len(checkpoints) - len(self.strengths)
        self.strengths = torch.cat((self.strengths, self.strengths.new_full((new,), self.penalty.strength)))
        self.checkpoints, self.centres = checkpoints, self.features(checkpoints)
        start = self.features(self.start)
        self.widths = torch.stack([self.penalty.width(centre, start) for centre in self.centres])
        self.norm = checkpoints[-1].square().sum().sqrt()

    def __len__(self) -> int:
        return len(self.strengths)

    @property
    def acting(self) -> slice:
        """The slice of the hills that act."""
        return slice(-(self.penalty.newest or len(self)), None)

    def evaluate(self, theta: Tensor, images: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return E (2.9) and ∂E/∂θ [P] of the hills that act, at θ [P], and their heights k.

        images: the batch, for distances that compare predictions on it.
        """
        features, centres, acting = self.features, self.centres, self.acting
        if features.moving and images is not None:
            features = features.on(images)
            centres = features(self.checkpoints[acting])
        else:
            centres = centres[acting]
        phi, pull = features.vjp(theta)
        energy, gradient, k = self.penalty.energy(phi, centres, self.widths[acting], self.strengths[acting])
        return energy, pull(gradient), k

    def heights(self, theta: Tensor) -> Tensor:
        """Return k(θ, θ_c) of each hill [K], from 0 to 1; elementwise hills are summed over the parameters."""
        return self.penalty.heights(self.features(theta), self.centres, self.widths)

    def change(self, k: Tensor, epochs: float) -> None:
        """Grow and decay the hills for `epochs`, usually a fraction of one, in which those that act have heights k."""
        penalty = self.penalty
        if penalty.growth:
            rate = penalty.growth * k
            if penalty.temperature:
                rate = rate * torch.exp(-self.strengths[self.acting] * k / penalty.temperature)
            self.strengths[self.acting] += epochs * rate
        if penalty.half_life:
            self.strengths *= 0.5 ** (epochs / penalty.half_life)

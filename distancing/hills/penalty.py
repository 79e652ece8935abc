"""The hills: what the stored checkpoints add to the loss, and to its gradient."""

from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor
from typing_extensions import Self

from distancing.component import component
from distancing.hills.distances import Distance, Elementwise
from distancing.hills.features import Everything, Features, Network
from distancing.hills.kernels import Kernel


@component
class Penalty:
    """(2.8, 2.9) E(θ) = Σ_c s_c · k(d(θ, θ_c)), for any number of checkpoints θ_c.

    strength: s, in nats, the height of one hill when it is placed.
    sigma: the width σ of a hill, in the unit
    sigma_unit: `absolute`; `norm`, where 1 is ‖θ_c‖; or `travelled`, where 1 is ‖θ_c − θ_0‖, the way from
        the initial parameters to the checkpoint. The last two let one σ serve networks of different sizes,
        since d grows with their number of parameters.
    growth: nats by which a hill grows in an epoch that is spent on its top, and k times as many on its side: it
        becomes higher until the network leaves.
    temperature: in nats; a hill grows exp(−s_c·k / temperature) times as fast, so that it doesn't grow for ever
        (well-tempered metadynamics, Barducci et al. 2008, whose ΔT this is). None: always as fast.
    half_life: epochs in which a hill loses half of its height. newest: only so many of the hills act, the last ones,
        and only they grow.
    fixed_norm: keep ‖θ‖ as it was at the newest checkpoint while hills act.
    Growth, decay and the fixed norm are at work only in epochs in which hills act.

    The push s·k′ is strongest, 0.61·s/σ for the Gaussian, at distance σ, and exactly 0 at the checkpoint.
    """

    distance: Distance
    kernel: Kernel
    strength: NonNegativeFloat
    sigma: PositiveFloat
    sigma_unit: Literal["absolute", "norm", "travelled"] = "absolute"
    growth: NonNegativeFloat = 0.0
    temperature: PositiveFloat | None = None
    half_life: PositiveFloat | None = None
    newest: PositiveInt | None = None
    fixed_norm: bool = False

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.growth and isinstance(self.distance, Elementwise):
            raise ValueError(f"growth={self.growth} needs one hill for each checkpoint, and not one for each parameter")
        if self.temperature and not self.growth:
            raise ValueError(f"temperature={self.temperature} needs growth > 0")
        return self

    @property
    def changes(self) -> bool:
        """Whether a hill's strength changes with time."""
        return bool(self.growth or self.half_life)

    def width(self, checkpoint: Tensor, start: Tensor) -> Tensor:
        """σ of the hill at `checkpoint`, a scalar; `start` is θ_0; of both, what the distance compares."""
        if self.sigma_unit == "absolute":
            return checkpoint.new_tensor(self.sigma)
        origin = torch.zeros_like(start) if self.sigma_unit == "norm" else start
        return self.sigma * self.distance(checkpoint, origin[None]).mean().sqrt()

    def heights(self, theta: Tensor, checkpoints: Tensor, widths: Tensor) -> Tensor:
        """k(θ, θ_c) of each hill [K]; elementwise hills are summed over the parameters."""
        d = self.distance(theta, checkpoints)
        return self.kernel(d, _beside(widths, d)).flatten(1).sum(1) if d.ndim > 1 else self.kernel(d, widths)

    def energy(
        self, theta: Tensor, checkpoints: Tensor, widths: Tensor, strengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """E (a scalar) and ∂E/∂θ [P] (2.12–2.18), for θ [P], checkpoints [K, P], their widths and strengths [K]
        (None: `strength`); and the heights k, of d's shape."""
        s = torch.full_like(widths, self.strength) if strengths is None else strengths
        d, pull = self.distance.vjp(theta, checkpoints)
        k, slope = self.kernel.slope(d, _beside(widths, d))
        return (_beside(s, d) * k).sum(), pull(_beside(s, d) * slope), k


class Hills:
    """The hills of a run: the penalty at the places stored so far, and how they change with time.

    widths [K], strengths [K]; norm: ‖θ‖ at the newest place. network: None where the distance compares the parameters
    as they are.
    """

    def __init__(self, penalty: Penalty, start: Tensor, network: Network | None = None) -> None:
        self.penalty, self.start = penalty, start
        self.features: Features = penalty.distance.features(network) if network else Everything()
        self.checkpoints = start.new_empty(0, len(start))
        self.strengths = start.new_empty(0)

    def put(self, checkpoints: Tensor) -> None:
        """Put hills at these checkpoints [K, P]; new ones get the strength s."""
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
        """Of all hills, those that act."""
        return slice(-(self.penalty.newest or len(self)), None)

    def energy(self, theta: Tensor, images: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(2.9) E and ∂E/∂θ [P] at θ [P], of the hills that act, and their heights k; seen on these images, if the
        distance looks at the batch."""
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
        """k(θ, θ_c) of each hill [K], between 0 and 1."""
        return self.penalty.heights(self.features(theta), self.centres, self.widths)

    def pass_time(self, k: Tensor, epochs: float) -> None:
        """The hills grow and decay, for so many epochs (a step's share of one) spent where those that act have the
        heights k."""
        penalty = self.penalty
        if penalty.growth:
            rate = penalty.growth * k
            if penalty.temperature:
                rate = rate * torch.exp(-self.strengths[self.acting] * k / penalty.temperature)
            self.strengths[self.acting] += epochs * rate
        if penalty.half_life:
            self.strengths = self.strengths * 0.5 ** (epochs / penalty.half_life)


def _beside(widths: Tensor, d: Tensor) -> Tensor:
    """The widths [K] in a shape that broadcasts against d, [K] or [K, P]."""
    return widths.reshape(-1, *(1,) * (d.ndim - 1))

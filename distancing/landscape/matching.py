"""Which units of one network are which of another's (Ainsworth et al. 2023, "Git Re-Basin", weight matching).

The units of a hidden layer can change places, with all weights to and from them, and the network computes what it did
(1.1.4). Two solutions that differ by no more than that are one. Which axes of which tensors such an exchange moves is
read from the network's own graph.
"""

import dataclasses
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from distancing.hills.theta import Theta
from distancing.models.evaluation import evaluating

CHANNEL_BY_CHANNEL = (
    nn.ReLU, nn.ReLU6, nn.Dropout, nn.Identity, nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d,
    F.relu, F.relu6, F.dropout, F.avg_pool2d, F.max_pool2d, F.adaptive_avg_pool2d,
)  # fmt: skip
FLATTEN = (nn.Flatten, torch.flatten)
ADD = (operator.add, operator.iadd, torch.add)
STARTS = 3  # orders of the groups that `match` tries


@dataclasses.dataclass(frozen=True)
class Group:
    """`size` units that change places together; axes: where they are, as (name of a parameter or buffer, axis)."""

    size: int
    axes: tuple[tuple[str, int], ...]


def groups(network: nn.Module, image_shape: tuple[int, int, int]) -> list[Group]:
    """The permutation groups of a network of images (C, H, W), in the order in which an image meets them.

    Convolutions, linear layers, batch norms, sums (which tie: a residual stream has one permutation), and what acts on
    every channel by itself are known. Whatever else a network has, keeps the channels that go in and come out where
    they are; so do the image's channels, and the classes. ResNet's shortcut `pad` is such a thing: as it fills up
    with zeros, a stage's first channels are the stage's before, and the residual streams stay unpermuted.
    """
    tracer = _Tracer()
    walk = _Walk(fx.GraphModule(network, tracer.trace(network)), garbage_collect_values=False)
    with evaluating(network):
        walk.run(torch.zeros(1, *image_shape, device=next(network.parameters()).device))
    state, found = network.state_dict(), dict[int, list[tuple[str, int]]]()
    for axis, space in walk.axes.items():
        if (root := walk.root(space)) != _Walk.FIXED:
            found.setdefault(root, []).append(axis)
    return [Group(state[axes[0][0]].shape[axes[0][1]], tuple(axes)) for axes in found.values()]


def permuted(named: Mapping[str, Tensor], found: Sequence[Group], orders: Sequence[Tensor]) -> dict[str, Tensor]:
    """The tensors with each group's unit i taken from where order[i] says. A network's function stays what it was, if
    all its parameters and buffers are there."""
    moved = dict(named)
    for group, order in zip(found, orders, strict=True):
        for name, axis in group.axes:
            if name in moved:
                moved[name] = moved[name].index_select(axis, order.to(moved[name].device))
    return moved


def match(found: Sequence[Group], a: Tensor, b: Tensor, theta: Theta, seed: int = 0) -> tuple[Tensor, float]:
    """b [P] with its units in the places of those units of a [P] to which their weights are most alike, ⟨a, b⟩ being
    as large as is found; and the share of units that changed places.

    One group after the other, all others as they are, is a linear assignment problem (Algorithm 1); from as it is until
    nothing changes, in several orders by `seed`, of which the best counts.
    """
    generator = torch.Generator().manual_seed(seed)
    ours, theirs = ({name: value.cpu().double() for name, value in theta.named(each).items()} for each in (a, b))
    tries = [_ascend(found, ours, theirs, generator) for _ in range(STARTS)]
    _, orders = max(tries, key=lambda each: each[0])
    moved = sum(int((order != torch.arange(len(order))).sum()) for order in orders)
    units = sum(group.size for group in found)
    return theta.flatten(permuted(theta.named(b), found, orders)), moved / units if units else 0.0


def _ascend(
    found: Sequence[Group], ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], generator: torch.Generator
) -> tuple[float, list[Tensor]]:
    """The product ⟨a, b⟩ where no group alone can raise it, and the orders that lead there."""
    theirs, orders = dict(theirs), [torch.arange(group.size) for group in found]
    for _ in range(100):
        changed = False
        for k in torch.randperm(len(found), generator=generator).tolist():
            group = found[k]
            alike = sum(
                ours[name].movedim(axis, 0).flatten(1) @ theirs[name].movedim(axis, 0).flatten(1).T
                if ours[name].dim() > 1
                else torch.outer(ours[name], theirs[name])
                for name, axis in group.axes
                if name in ours
            )
            assert isinstance(alike, Tensor)
            order = torch.from_numpy(linear_sum_assignment(alike.numpy(), maximize=True)[1])
            names = {name for name, _ in group.axes} & set(ours)
            moved = permuted({name: theirs[name] for name in names}, [group], [order])
            before, after = (sum(float(torch.sum(ours[n] * each[n])) for n in names) for each in (theirs, moved))
            if after > before + 1e-9 * abs(before):
                theirs, orders[k], changed = {**theirs, **moved}, orders[k][order], True
        if not changed:
            break
    return sum(float(torch.sum(ours[name] * theirs[name])) for name in ours), orders


class _Tracer(fx.Tracer):
    """Modules without children stay whole, this package's own as well as torch's."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002 (torch's name for it)
        return not any(m.children())


class _Walk(fx.Interpreter):
    """Follows an image through the network, and the channels of what it becomes.

    Channels that are the same ones are merged into one space as that is found (union-find). space: of each node's
    value; axes: the space of each tensor's axis.
    """

    FIXED = 0  # the space of all channels that have to stay where they are

    def __init__(self, module: fx.GraphModule, **options: Any) -> None:
        super().__init__(module, **options)
        self.parents = [self.FIXED]
        self.space: dict[fx.Node, int] = {}
        self.axes: dict[tuple[str, int], int] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        sources = [self.space[each] for each in n.all_input_nodes]
        space = self._beyond(n, sources, value)
        self.space[n] = self._tie(self.FIXED, *sources) if space is None else space
        return value

    def _beyond(self, n: fx.Node, sources: list[int], value: Any) -> int | None:
        """The space of the node's value; None if that isn't known."""
        layer = self.fetch_attr(str(n.target)) if n.op == "call_module" else None
        if layer is None and n.op != "call_function":
            return None
        shapes = [self.env[each].shape for each in n.all_input_nodes]

        def does(kinds: tuple[Any, ...]) -> bool:
            return n.target in kinds if layer is None else type(layer) in kinds

        if isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels == layer.out_channels > 1:
            return self._put(str(n.target), ("weight", "bias"), sources[0])
        if (isinstance(layer, nn.Conv2d) and layer.groups == 1) or (isinstance(layer, nn.Linear) and value.dim() == 2):
            self._put(str(n.target), ("weight",), sources[0], axis=1)
            self.parents.append(len(self.parents))
            return self._put(str(n.target), ("weight", "bias"), len(self.parents) - 1)
        if isinstance(layer, _BatchNorm):
            return self._put(str(n.target), ("weight", "bias", "running_mean", "running_var"), sources[0])
        if does(CHANNEL_BY_CHANNEL) or (does(FLATTEN) and value.shape == shapes[0][:2]):
            return sources[0]
        if does(ADD) and len({shape[1] for shape in shapes}) == 1:
            return self._tie(*sources)
        return None

    def root(self, space: int) -> int:
        while self.parents[space] != space:
            space = self.parents[space]
        return space

    def _tie(self, *spaces: int) -> int:
        """Make them one, which is fixed if one of them is."""
        roots = [self.root(space) for space in spaces]
        for root in roots:
            self.parents[root] = min(roots)
        return min(roots)

    def _put(self, layer: str, tensors: Sequence[str], space: int, axis: int = 0) -> int:
        """Note that this axis of the layer's tensors is of this space; what it is then."""
        for name in tensors:
            if getattr(self.fetch_attr(layer), name) is not None:
                at = f"{layer}.{name}", axis
                self.axes[at] = space = self._tie(space, self.axes.get(at, space))
        return space

"""Weight matching: permute the hidden units of one network to match another's (Ainsworth et al. 2023, "Git Re-Basin").

Permuting the units of a hidden layer, with all weights into and out of them, leaves the network's function as it is
(1.1.4). Two solutions that differ by such a permutation only are the same. The axes of all tensors that a permutation
moves are read from the network's own graph.
"""

import copy
import dataclasses
import functools
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from distancing.errors import LandscapeError, first_line
from distancing.hills.theta import Theta
from distancing.models import Model
from distancing.models.evaluation import evaluating

CHANNEL_BY_CHANNEL = (
    nn.ReLU, nn.ReLU6, nn.Dropout, nn.Identity, nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d,
    F.relu, F.relu6, F.dropout, F.avg_pool2d, F.max_pool2d, F.adaptive_avg_pool2d,
)  # fmt: skip
FLATTEN = (nn.Flatten, torch.flatten)
ADD = (operator.add, operator.iadd, torch.add)
RESTARTS = 3  # `match` begins so often, each time with its own random order of the groups


@dataclasses.dataclass(frozen=True)
class PermutationGroup:
    """Hidden units that permute together.

    size: the number of units. axes: the axes along which they lie, as (name of a parameter or buffer, axis).
    """

    size: int
    axes: tuple[tuple[str, int], ...]


def permutation_groups(network: nn.Module, image_shape: tuple[int, int, int]) -> list[PermutationGroup]:
    """Return the permutation groups of a network of images (C, H, W), in the order of its forward pass.

    Handles convolutions, linear layers, batch norms, sums, whose terms share one permutation (as in a residual stream),
    and operations on each channel by itself. Any other operation fixes the channels of its inputs and its output; the
    image's channels and the classes are fixed as well. ResNet's shortcut `pad` is such an operation: it appends
    channels of zeros, so that a stage's first channels are those of the stage before, and no residual stream permutes.

    Each group is tried: one that changes the network's function is left out. Raise LandscapeError for a network whose
    graph can't be read.
    """
    # of few images, all might leave the same units at zero, whose order would then not matter
    images = torch.randn(16, *image_shape, generator=torch.Generator().manual_seed(0))
    try:
        tracker = _tracked(network, images)
    except Exception as error:  # whatever the network's code raises
        reason = f"barrier.matching: the graph of this network can't be read ({first_line(error)})"
        raise LandscapeError(f"{reason}; set barrier.matching=false") from error
    state, axes_by_root = _tensors(network), dict[int, list[tuple[str, int]]]()
    for axis, space in tracker.axes.items():
        if (root := tracker.root(space)) != _AxisTracker.FIXED:
            axes_by_root.setdefault(root, []).append(axis)
    groups = [PermutationGroup(state[axes[0][0]].shape[axes[0][1]], tuple(axes)) for axes in axes_by_root.values()]
    twin, images = copy.deepcopy(network).cpu().double(), images.double()
    return [group for group in groups if _keeps_function(twin, group, images)]


@functools.cache
def graph_problem(model: Model, image_shape: tuple[int, int, int], classes: int) -> str | None:
    """Return why the graph of a new network can't be read, or None."""
    with torch.random.fork_rng([]):
        try:
            _tracked(model.network(image_shape, classes).eval(), torch.zeros(2, *image_shape))
        except Exception as error:  # whatever the network's code raises
            return first_line(error)
    return None


def _tracked(network: nn.Module, images: Tensor) -> "_AxisTracker":
    """Return a tracker that has run these images through the network's graph. Raise what the network's code raises."""
    graph = fx.GraphModule(network, _Tracer().trace(network))
    tracker = _AxisTracker(graph, {id(value): name for name, value in _tensors(network).items()})
    with evaluating(network):
        tracker.run(images.to(next(network.parameters()).device))
    return tracker


def _keeps_function(network: nn.Module, group: PermutationGroup, images: Tensor) -> bool:
    """Return whether another order of the group's units leaves the network's logits as they are."""
    state = {name: value.detach().clone() for name, value in _tensors(network).items()}
    with evaluating(network):
        before = network(images)
        network.load_state_dict(permuted(state, [group], [torch.arange(group.size).roll(1)]), strict=False)
        after = network(images)
    network.load_state_dict(state, strict=False)
    return torch.allclose(after, before, rtol=1e-9, atol=1e-9 * float(before.abs().max()))


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers, each once."""
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def permuted(
    named: Mapping[str, Tensor], groups: Sequence[PermutationGroup], orders: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Return the tensors with unit i of each group taken from position order[i].

    The network's function stays the same if `named` has all its parameters and buffers.
    """
    tensors = dict(named)
    for group, order in zip(groups, orders, strict=True):
        for name, axis in group.axes:
            if name in tensors:
                tensors[name] = tensors[name].index_select(axis, order.to(tensors[name].device))
    return tensors


def match(
    groups: Sequence[PermutationGroup], a: Tensor, b: Tensor, theta: Theta, seed: int = 0
) -> tuple[Tensor, float]:
    """Return b [P] with its units permuted so that ⟨a, b⟩ is as large as possible, and the share of units that moved.

    Each group in turn, with all others fixed, is a linear assignment problem (Algorithm 1). They are solved until
    nothing changes, in several random orders drawn from `seed`, of which the best result is returned.
    """
    generator = torch.Generator().manual_seed(seed)
    named_a, named_b = ({name: value.cpu().double() for name, value in theta.named(x).items()} for x in (a, b))
    results = [_ascend(groups, named_a, named_b, generator) for _ in range(RESTARTS)]
    _, orders = max(results, key=operator.itemgetter(0))
    moved = sum(int((order != torch.arange(len(order))).sum()) for order in orders)
    units = sum(group.size for group in groups)
    return theta.flatten(permuted(theta.named(b), groups, orders)), moved / units if units else 0.0


def _ascend(
    groups: Sequence[PermutationGroup], a: Mapping[str, Tensor], b: Mapping[str, Tensor], generator: torch.Generator
) -> tuple[float, list[Tensor]]:
    """Return ⟨a, b⟩ at a permutation of b that no single group can improve, and the groups' orders there."""
    b, orders = dict(b), [torch.arange(group.size) for group in groups]
    for _ in range(100):
        changed = False
        for k in torch.randperm(len(groups), generator=generator).tolist():
            group = groups[k]
            similarity = sum(
                a[name].movedim(axis, 0).flatten(1) @ b[name].movedim(axis, 0).flatten(1).T
                if a[name].dim() > 1
                else torch.outer(a[name], b[name])
                for name, axis in group.axes
                if name in a
            )
            assert isinstance(similarity, Tensor)
            order = torch.from_numpy(linear_sum_assignment(similarity.numpy(), maximize=True)[1])
            names = {name for name, _ in group.axes} & set(a)
            moved = permuted({name: b[name] for name in names}, [group], [order])
            before, after = (sum(float(torch.sum(a[name] * tensors[name])) for name in names) for tensors in (b, moved))
            if after > before + 1e-9 * abs(before):
                b, orders[k], changed = {**b, **moved}, orders[k][order], True
        if not changed:
            break
    return sum(float(torch.sum(a[name] * b[name])) for name in a), orders


class _Tracer(fx.Tracer):
    """Traces a network without looking into modules that have no children, whether torch's or this package's."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002 (torch's name for it)
        return not any(m.children())


class _AxisTracker(fx.Interpreter):
    """Runs an image through the network and notes which axes of which tensors carry the same channels.

    Axes with the same channels are in one space. Spaces that prove to be the same are merged (union-find).

    names: the names of the network's tensors, by their ids.
    space: the space of each node's output. axes: the space of each (tensor, axis). parents: the parent of each space.
    """

    FIXED = 0  # the space of all channels that can't permute

    def __init__(self, module: fx.GraphModule, names: Mapping[int, str]) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.names = names
        self.parents = [self.FIXED]
        self.space: dict[fx.Node, int] = {}
        self.axes: dict[tuple[str, int], int] = {}

    def run_node(self, n: fx.Node) -> Any:
        output = super().run_node(n)
        if n.op == "get_attr":  # a tensor that the network uses outside of its layers
            for axis in range(output.dim()):
                self.axes[self._key(str(n.target), axis)] = self.FIXED
        sources = [self.space[node] for node in n.all_input_nodes]
        space = self._output_space(n, sources, output)
        self.space[n] = self._merge(self.FIXED, *sources) if space is None else space
        return output

    def _output_space(self, n: fx.Node, sources: list[int], output: Any) -> int | None:
        """Return the space of the node's output, or None for an unknown operation."""
        layer = self.fetch_attr(str(n.target)) if n.op == "call_module" else None
        if layer is None and n.op != "call_function":
            return None
        shapes = [getattr(self.env[node], "shape", ()) for node in n.all_input_nodes]  # of a number: ()

        def is_one_of(operations: tuple[Any, ...]) -> bool:
            return n.target in operations if layer is None else type(layer) in operations

        if isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels == layer.out_channels > 1:
            return self._assign(str(n.target), ("weight", "bias"), sources[0])
        if (isinstance(layer, nn.Conv2d) and layer.groups == 1) or (isinstance(layer, nn.Linear) and output.dim() == 2):
            self._assign(str(n.target), ("weight",), sources[0], axis=1)
            self.parents.append(len(self.parents))
            return self._assign(str(n.target), ("weight", "bias"), len(self.parents) - 1)
        if isinstance(layer, _BatchNorm):
            return self._assign(str(n.target), ("weight", "bias", "running_mean", "running_var"), sources[0])
        if is_one_of(CHANNEL_BY_CHANNEL) or (is_one_of(FLATTEN) and output.shape == shapes[0][:2]):
            return sources[0]
        if is_one_of(ADD) and len({shape[1:2] for shape in shapes}) == 1:
            return self._merge(*sources)
        return None

    def root(self, space: int) -> int:
        """Return the space that stands for all those merged with this one."""
        while self.parents[space] != space:
            space = self.parents[space]
        return space

    def _merge(self, *spaces: int) -> int:
        """Merge these spaces and return the result, which is FIXED if one of them is."""
        roots = [self.root(space) for space in spaces]
        for root in roots:
            self.parents[root] = min(roots)
        return min(roots)

    def _assign(self, layer: str, tensors: Sequence[str], space: int, axis: int = 0) -> int:
        """Put this axis of the layer's tensors into the space, and return the space, merged with any that they had."""
        for name in tensors:
            if getattr(self.fetch_attr(layer), name) is not None:
                key = self._key(f"{layer}.{name}", axis)
                self.axes[key] = space = self._merge(space, self.axes.get(key, space))
        return space

    def _key(self, name: str, axis: int) -> tuple[str, int]:
        """Return the axis of a tensor under the name that the network lists it with, since layers may share it."""
        return self.names.get(id(self.fetch_attr(name)), name), axis

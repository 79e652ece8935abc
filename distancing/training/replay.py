"""Replay training steps: the device repeats a captured step, and the host only starts it.

A GPU computes the step of a small network in less time than the host needs to start its hundreds of kernels one by one.
A CUDA graph starts them all at once. A step can be captured if it reads and writes tensors at fixed addresses, and if
the host neither reads a result nor does work of its own in it.
"""

from collections import Counter
from collections.abc import Callable, Hashable
from functools import partial
from typing import Protocol

import torch

from distancing.errors import first_line

WARM_UP = 3  # steps before the capture, in which PyTorch and its libraries allocate, compile and choose kernels

Work = Callable[[], None]


class Graphs(Protocol):
    """A device that can capture work."""

    def run(self, work: Work) -> None:
        """Do the work as the capture will see it."""

    def capture(self, work: Work) -> Work:
        """Return a function that repeats the work, without doing it now. Raise RuntimeError if the capture fails."""


class CudaGraphs:
    """CUDA graphs, captured on a stream of their own."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)

    def run(self, work: Work) -> None:
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            work()
        torch.cuda.current_stream().wait_stream(self.stream)

    def capture(self, work: Work) -> Work:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            work()
        return graph.replay


class Replay:
    """Take the first steps plainly, and the others as replays of the captured step.

    Call it with the arguments of `step`. There is one graph for each set of arguments. Without `graphs`, or if the
    capture fails, it only calls `step`.

    clean_up: called after a failed capture, which may have stopped half-way. reason: one line that says why steps are
    not captured; "" if nothing prevents it.
    """

    def __init__(self, step: Callable[..., None], graphs: Graphs | None, clean_up: Work, reason: str = "") -> None:
        self.step, self.graphs, self.clean_up, self.reason = step, graphs, clean_up, reason
        self._captured: dict[Hashable, Work] = {}
        self._taken: Counter[Hashable] = Counter()

    def __call__(self, *arguments: Hashable) -> None:
        if self.graphs is None or self.reason:
            self.step(*arguments)
        elif self._taken[arguments] < WARM_UP:
            self._taken[arguments] += 1
            self.graphs.run(partial(self.step, *arguments))
        elif replay := self._captured.get(arguments) or self._capture(self.graphs, arguments):
            replay()
        else:
            self.step(*arguments)

    def _capture(self, graphs: Graphs, arguments: tuple[Hashable, ...]) -> Work | None:
        try:
            self._captured[arguments] = graphs.capture(partial(self.step, *arguments))
        except RuntimeError as error:
            self.forget()
            self.clean_up()
            self.reason = first_line(error)
        return self._captured.get(arguments)

    def forget(self) -> None:
        """Drop the graphs, because tensors have moved: the next steps are captured anew."""
        self._captured.clear()
        self._taken.clear()

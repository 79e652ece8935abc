"""The signals that stop a run after its current step."""

import signal
import types
from collections.abc import Sequence
from typing import Any, Literal

Request = Literal["save", "stop"] | None  # the request to a run: save its state, or save it and stop
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


class StopSignal:
    """Inside its `with` block, the first of SIGNALS is only recorded. A second one has its usual effect.

    received: the signal that asked the run to stop, or None.
    save_only: signals that only ask for a saved state, however often they arrive.
    """

    def __init__(self, save_only: Sequence[int] = ()) -> None:
        self.received: signal.Signals | None = None
        self._save_only, self._save = save_only, False
        self._handlers: dict[signal.Signals, Any] = {}

    def request(self) -> Request:
        """Return what the signals received so far request. Each signal of `save_only` is followed by a saved state."""
        if self.received:
            return "stop"
        if not self._save:
            return None
        self._save = False  # a signal that arrives just before this line is answered by the state that is saved now
        return "save"

    def _handle(self, number: int, _: types.FrameType | None) -> None:
        if number in self._save_only:
            self._save = True
        else:
            self.received = signal.Signals(number)
            self._restore(keep=self._save_only)

    def _restore(self, keep: Sequence[int] = ()) -> None:
        for number, handler in self._handlers.items():
            if number not in keep:
                signal.signal(number, handler)

    def __enter__(self) -> "StopSignal":
        self._handlers = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

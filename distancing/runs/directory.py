"""A run on disk: its directory, and every file's name."""

import contextlib
import hashlib
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distancing import crash
from distancing.errors import StorageError
from distancing.runs.files import load, save, seal, write
from distancing.runs.lock import Lock

if TYPE_CHECKING:
    import torch

STATES_KEPT = 2
LOCK_SECONDS = 1.0  # long enough for one who only asks whether a run is in use


class RunDirectory:
    """The files of one run. Open it with `with`: that takes its lock, waiting `wait` seconds for it at most.

    keep_crash: write the stack to crash.txt if a fault in native code kills the process meanwhile.

    .hydra/config.yaml, .hydra/overrides.yaml    what was asked for
    state/EPOCH-STEP.pt       what a stopped run goes on from: the last two
    checkpoints/NAME.pt       the stored checkpoints, and `final`
    checkpoints/logits/NAME.pt    what they say of each split's images
    metrics.csv               a row for each epoch
    events.out.tfevents.*     the same for TensorBoard
    result.json               written once, at the end
    landscape/NAME.{json,csv,png}    what an analysis found
    job.json, starts.json, error.txt    of a run that a launcher started: where, how often, and what went wrong
    crash.txt                 the stack of a run that train.py trained when its process was killed
    """

    def __init__(self, path: str | Path, wait: float = LOCK_SECONDS, keep_crash: bool = False) -> None:
        self.path = Path(path)
        self.metrics = self.path / "metrics.csv"
        self.config, self.overrides = self.path / ".hydra/config.yaml", self.path / ".hydra/overrides.yaml"
        self.error, self.crash = self.path / "error.txt", self.path / "crash.txt"
        self.landscape = self.path / "landscape"
        self._lock, self._keep_crash = Lock(self.path, wait), keep_crash

    def __enter__(self) -> "RunDirectory":
        """Raises StorageError if another process is at work here."""
        self.path.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            self._lock.acquire()
            stack.callback(self._lock.release)
            if self._keep_crash:
                stack.enter_context(crash.kept(self.crash))
            self._held = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    @property
    def in_use(self) -> bool:
        """Another process holds the lock. Only asks."""
        return self._lock.held()

    @property
    def abandoned(self) -> bool:
        """A process died here without leaving the directory."""
        return self._lock.abandoned()

    def clear(self) -> None:
        """Remove what a run has left here, and nothing else."""
        for name in ("state", "checkpoints", "landscape", ".hydra"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        for file in (self.metrics, self.error, self.path / "result.json", self.path / "starts.json"):
            file.unlink(missing_ok=True)
        self.clear_events()

    def clear_events(self) -> None:
        for file in self.path.glob("events.out.tfevents.*"):
            file.unlink()

    def forget_failures(self) -> None:
        """Of earlier starts: a new one begins to count."""
        for file in (self.error, self.crash, self.path / "starts.json"):
            file.unlink(missing_ok=True)

    def freeze(self, config: str, overrides: str) -> None:
        """Write down what the run is: the resolved config and what was typed, both as YAML."""
        for path, text in ((self.config, config), (self.overrides, overrides)):
            if not path.exists() or path.read_text() != text:
                write(path, text.encode(), flush=False)

    def write_json(self, name: str, content: Any) -> None:
        write(self.path / name, (json.dumps(content) + "\n").encode(), flush=False)

    def read_json(self, name: str) -> dict[str, Any]:
        """Empty if there is none, or none that can be read: these files only say where a run was."""
        try:
            found = json.loads((self.path / name).read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    # the state of an unfinished run

    def states(self) -> list[Path]:
        """The saved states, the newest first."""
        return sorted((self.path / "state").glob("*-*.pt"), reverse=True)

    def save_state(self, state: dict[str, Any], epoch: int, step: int) -> None:
        """Add a state, and drop all but the newest."""
        save(self.path / "state" / f"{epoch:06d}-{step:06d}.pt", state)
        for old in self.states()[STATES_KEPT:]:
            old.unlink()

    def load_state(self, device: "torch.device", warn: Callable[[str], None]) -> dict[str, Any] | None:
        """The newest good state, or None if none was ever saved; each damaged one is named to `warn`.

        Raises StorageError if there are states but all are damaged.
        """
        states = self.states()
        for path in states:
            try:
                state: dict[str, Any] = load(path, device)
                return state
            except StorageError as error:
                warn(f"{error}; trying the one before it")
        if states:
            raise StorageError(f"{states[0].parent} holds no good state; overwrite=true starts over")
        return None

    def drop_states(self) -> None:
        """An ended run needs none."""
        shutil.rmtree(self.path / "state", ignore_errors=True)

    # what stays

    def checkpoint(self, name: str) -> Path:
        """Raises StorageError for a name, from a file that a stranger may have written, that leads elsewhere."""
        if not (isinstance(name, str) and re.fullmatch(r"[\w-]{1,100}", name)):
            raise StorageError(f"{self.path} names a checkpoint {str(name)[:80]!r}, which none can be")
        return self.path / "checkpoints" / f"{name}.pt"

    def save_logits(self, name: str, logits: dict[str, "torch.Tensor"]) -> None:
        """What the stored checkpoint `name` says of images: their fingerprint → logits [N, C]. Can be made again."""
        path = self.checkpoint(name)
        save(path.parent / "logits" / path.name, {"checkpoint": seal(path), "logits": logits})

    def load_logits(self, name: str) -> dict[str, "torch.Tensor"]:
        """Empty if there are none, or none that can be read, or those of another checkpoint of this name."""
        path = self.checkpoint(name)
        try:
            kept = load(path.parent / "logits" / path.name)
            return dict(kept["logits"]) if kept["checkpoint"] == seal(path) else {}
        except (StorageError, KeyError, TypeError, OSError):
            return {}

    def write_result(self, result: dict[str, Any]) -> None:
        """Numbers that are not finite, for which JSON has no word, become null."""
        result = _nulled(result)
        text = json.dumps({**result, "checksum": _checksum(result)}, indent=2, allow_nan=False) + "\n"
        write(self.path / "result.json", text.encode())

    def read_result(self) -> dict[str, Any] | None:
        """The result, or None if the run hasn't ended. Raises StorageError if the file is damaged."""
        path = self.path / "result.json"
        try:
            result: dict[str, Any] = json.loads(path.read_text())
            if result.pop("checksum", None) not in (None, _checksum(result)):  # None: of an older version
                raise ValueError("its checksum is wrong")
            for place in (*(result.get("checkpoints") or ()), *filter(None, [result.get("final")])):
                if place["file"] != str(self.checkpoint(place["name"]).relative_to(self.path)):
                    raise ValueError(f"{place['file']} is not the file of {place['name']}")
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, StorageError) as error:
            raise StorageError(f"{path} is damaged ({error}); overwrite=true starts over") from error
        return {"analysis": None, "verified": None, **result}  # older versions knew neither


def _checksum(result: dict[str, Any]) -> str:
    """Of what is in it, however it is written."""
    return hashlib.sha256(json.dumps(result, sort_keys=True).encode()).hexdigest()[:16]


def _nulled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _nulled(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_nulled(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

"""The directory of a run, and the names of all its files."""

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from distancing.errors import StorageError
from distancing.process import crash
from distancing.runs.files import Json, load, save, seal, with_nulls, write
from distancing.runs.lock import Lock

if TYPE_CHECKING:
    import torch
    from torch.optim.optimizer import StateDict

STATES_KEPT = 2
LOCK_SECONDS = 1.0  # longer than another process takes to see whether the run is in use


class RunDirectory:
    """The files of one run. A `with` block holds its lock.

    wait: seconds to wait for the lock.
    keep_crash: while it is held, write the stack to crash.txt if a fault in native code kills the process.

    .hydra/config.yaml, .hydra/overrides.yaml    the resolved config, and the overrides as typed
    state/EPOCH-STEP.pt       the last two states, from which a stopped run resumes
    checkpoints/NAME.pt       the checkpoints, and the final network as `final`
    checkpoints/logits/NAME.pt    their logits of each split's images
    metrics.csv               a row for each epoch
    events.out.tfevents.*     the same for TensorBoard
    result.json               written once, at the end
    landscape/NAME.{json,csv,png}    the results of an analysis
    job.json, starts.json, error.txt    the job of a launched run, the number of its starts, and its error
    crash.txt                 the stack of a process of train.py that was killed
    """

    def __init__(self, path: str | Path, wait: float = LOCK_SECONDS, keep_crash: bool = False) -> None:
        self.path = Path(path)
        self.metrics = self.path / "metrics.csv"
        self.config, self.overrides = self.path / ".hydra/config.yaml", self.path / ".hydra/overrides.yaml"
        self.error, self.crash = self.path / "error.txt", self.path / "crash.txt"
        self.landscape = self.path / "landscape"
        self._lock, self._keep_crash = Lock(self.path, wait), keep_crash

    def __enter__(self) -> "RunDirectory":
        """Acquire the lock. Raise InUseError if another process is training this run."""
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
        """True if another process holds the lock."""
        return self._lock.held()

    @property
    def abandoned(self) -> bool:
        """True if a process died while it held the lock."""
        return self._lock.abandoned()

    @property
    def gone(self) -> bool:
        """True if the directory, whose lock this process holds, was moved or deleted."""
        return self._lock.lost()

    def check_there(self) -> None:
        """Raise StorageError if the directory is gone, instead of making it again with some of its files."""
        if self.gone:
            raise StorageError(
                f"{self.path} was moved or deleted while the run trained: move it back to resume the run, or run the "
                "same command to start over"
            )

    def clear(self) -> None:
        """Remove the files of the run, and nothing else."""
        for name in ("state", "checkpoints", "landscape", ".hydra"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        for file in (self.metrics, self.error, self.path / "result.json", self.path / "starts.json"):
            file.unlink(missing_ok=True)
        self.clear_events()

    def clear_events(self) -> None:
        """Remove TensorBoard's event files."""
        for file in self.path.glob("events.out.tfevents.*"):
            file.unlink()

    def forget_failures(self) -> None:
        """Remove the errors and the count of earlier starts."""
        for file in (self.error, self.crash, self.path / "starts.json"):
            file.unlink(missing_ok=True)

    def freeze(self, config: str, overrides: str) -> None:
        """Write the resolved config and the overrides, both as YAML, unless the files already say the same."""
        for path, content in ((self.config, config.encode()), (self.overrides, overrides.encode())):
            if not path.exists() or path.read_bytes() != content:
                write(path, content, flush=False)

    def write_json(self, name: str, content: Json) -> None:
        """Write a file of a launcher. A system crash may lose it, because no result needs it."""
        write(self.path / name, (json.dumps(content) + "\n").encode(), flush=False)

    def read_json(self, name: str) -> Json:
        """Return the content of a file of a launcher; {} if it is missing or damaged, because no result needs it."""
        try:
            content = json.loads((self.path / name).read_text())
        except (OSError, ValueError, RecursionError):
            return {}
        return content if isinstance(content, dict) else {}

    # the states of an unfinished run

    def states(self) -> list[Path]:
        """Return the files of the saved states, the newest first."""
        return sorted((self.path / "state").glob("*-*.pt"), reverse=True)

    @property
    def resumable(self) -> bool:
        """True if the run has a saved state and has not ended. False if its directory can't be read."""
        try:
            return bool(self.states()) and not (self.path / "result.json").exists()
        except OSError:
            return False

    def save_state(self, state: "StateDict", epoch: int, step: int) -> None:
        """Save a state. Remove all but the newest STATES_KEPT, and what a killed process has left half-written."""
        save(self.path / "state" / f"{epoch:06d}-{step:06d}.pt", state)
        for old in (*self.states()[STATES_KEPT:], *(self.path / "state").glob(".*.tmp")):
            old.unlink()

    def load_state(self, device: "torch.device", warn: Callable[[str], None]) -> "StateDict | None":
        """Return the newest undamaged state, or None if none was saved. Damaged ones are reported to `warn`.

        Raise StorageError if all saved states are damaged.
        """
        states = self.states()
        for path in states:
            try:
                state: StateDict = load(path, device)
                return state
            except StorageError as error:
                warn(f"{error}; trying the one before it")
        if states:
            raise StorageError(f"{states[0].parent} holds no undamaged state; overwrite=true starts over")
        return None

    def drop_states(self) -> None:
        """Remove all states, which an ended run does not need."""
        shutil.rmtree(self.path / "state", ignore_errors=True)

    # checkpoints and results

    def checkpoint(self, name: str) -> Path:
        """Return the file of a checkpoint.

        Raise StorageError for a name that could lead out of the directory: it may come from a file by a stranger.
        """
        if not (isinstance(name, str) and re.fullmatch(r"[\w-]{1,100}", name)):
            raise StorageError(f"{self.path} names a checkpoint {str(name)[:80]!r}, which is not a valid name")
        return self.path / "checkpoints" / f"{name}.pt"

    def save_logits(self, name: str, logits: dict[str, "torch.Tensor"]) -> None:
        """Cache a checkpoint's logits: fingerprint of the images → [N, C]."""
        path = self.checkpoint(name)
        save(path.parent / "logits" / path.name, {"checkpoint": seal(path), "logits": logits})

    def load_logits(self, name: str) -> dict[str, "torch.Tensor"]:
        """Return the cached logits; {} if there are none, if they are damaged, or if the checkpoint has changed."""
        path = self.checkpoint(name)
        try:
            cache = load(path.parent / "logits" / path.name)
            return dict(cache["logits"]) if cache["checkpoint"] == seal(path) else {}
        except (StorageError, KeyError, TypeError, OSError):
            return {}

    def write_result(self, result: Json) -> None:
        """Write result.json with a checksum. Numbers that are not finite become null, because JSON has none."""
        result = with_nulls(result)
        text = json.dumps({**result, "checksum": _checksum(result)}, indent=2, allow_nan=False) + "\n"
        write(self.path / "result.json", text.encode())

    def read_result(self) -> Json | None:
        """Return the result, or None if the run has not ended. Raise StorageError if the file is damaged."""
        path = self.path / "result.json"
        try:
            result: Json = json.loads(path.read_text())
            if result.pop("checksum", None) not in (None, _checksum(result)):  # None in older versions
                raise ValueError("its checksum is wrong")
            for checkpoint in (*(result.get("checkpoints") or ()), *filter(None, [result.get("final")])):
                if checkpoint["file"] != str(self.checkpoint(checkpoint["name"]).relative_to(self.path)):
                    raise ValueError(f"{checkpoint['file']} is not the file of {checkpoint['name']}")
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, StorageError) as error:
            raise StorageError(f"{path} is damaged ({error}); overwrite=true starts over") from error
        return {"analysis": None, "verified": None, **result}  # older versions have neither


def _checksum(result: Json) -> str:
    """Return a hash of the content, which does not depend on the order of the keys or on white space."""
    return hashlib.sha256(json.dumps(result, sort_keys=True).encode()).hexdigest()[:16]

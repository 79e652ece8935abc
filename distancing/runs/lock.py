"""One process in a directory, on one machine and on several that share it."""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from pathlib import Path

import filelock

from distancing.errors import StorageError

BEAT = 20.0  # seconds between an owner's signs of life
GONE = 120.0  # seconds without one, after which a machine is taken for lost: more than NFS may keep a file's time for


class Lock:
    """`.lock`, which is held by flock, and `.owner`, which says by whom, and is touched every BEAT seconds.

    The system lets a flock go when its process dies, however it dies. Between machines it holds on NFS, CephFS, GPFS
    and on Lustre with `flock`; a file system where it doesn't hold at all is refused. Where it holds on each machine
    alone (NFS with `local_lock=flock`, Lustre with `localflock`), another machine is kept out by the owner's signs of
    life: it waits until there was none for GONE seconds. Only two machines that come within the same moment aren't
    told apart.
    """

    def __init__(self, folder: Path, wait: float) -> None:
        self._folder, self._wait = folder, wait
        self._file, self._owner = folder / ".lock", folder / ".owner"
        self._lock = filelock.FileLock(self._file)
        self._released = threading.Event()

    def acquire(self) -> None:
        """Raises StorageError if another process is at work in the folder, or if no lock holds there."""
        until = time.monotonic() + self._wait
        try:
            self._lock.acquire(timeout=self._wait)
        except filelock.Timeout:
            raise self._in_use("another process is training this run") from None
        try:
            if self._free():
                raise StorageError(
                    f"{self._folder} is on a file system that doesn't lock files, so that two processes could train "
                    "the same run: keep runs elsewhere"
                )
            while other := self._elsewhere(touch=True):
                if time.monotonic() > until:
                    raise self._in_use(f"{other} is training this run, or was until {GONE:.0f} seconds ago at most")
                time.sleep(0.5)
            self._owner.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
        except BaseException:
            self._lock.release()
            raise
        self._released = threading.Event()
        threading.Thread(target=self._beat, args=(self._released,), daemon=True).start()

    def release(self) -> None:
        self._released.set()
        with contextlib.suppress(OSError):
            self._owner.unlink()
        self._lock.release()

    def held(self) -> bool:
        """Another process holds it. Only asks: a shared lock, and at once."""
        return not self._free() or self._elsewhere(touch=False) is not None

    def abandoned(self) -> bool:
        """Its owner died without releasing it."""
        return self._owner.exists() and not self.held()

    def _free(self) -> bool:
        try:
            with open(self._file) as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except FileNotFoundError:
            return True
        return True

    def _elsewhere(self, touch: bool) -> str | None:
        """The process on another machine that is the owner and has given a sign of life.

        touch: tell the time by the file system's clock, which gives all of these times, and not by this machine's.
        """
        try:
            found = json.loads(self._owner.read_text())
            host, pid = str(found["host"]), int(found["pid"])
            if host == socket.gethostname():
                return None  # here, flock knows
            if touch:
                os.utime(self._file)
            now = self._file.stat().st_mtime if touch else time.time()
            fresh = abs(now - self._owner.stat().st_mtime) < GONE
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            return None
        return f"process {pid} on {host}" if fresh else None

    def _beat(self, released: threading.Event) -> None:
        while not released.wait(BEAT):
            with contextlib.suppress(OSError):
                os.utime(self._owner)

    def _in_use(self, why: str) -> StorageError:
        return StorageError(f"{self._folder} is in use: {why}")

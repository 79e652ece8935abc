"""A lock on a directory, for processes on one machine or on several machines that share a file system."""

import contextlib
import fcntl
import functools
import json
import os
import socket
import threading
import time
from pathlib import Path

import filelock

from distancing.errors import InUseError, StorageError

HEARTBEAT = 20.0  # seconds between two heartbeats of the owner
EXPIRY = 120.0  # seconds without a heartbeat after which an owner counts as dead: longer than NFS caches a file's times


class Lock:
    """A flock on the file `.lock`, and a file `.owner` that names the holder and is touched every HEARTBEAT seconds.

    The system releases a flock when its process dies for any reason. On NFS, CephFS, GPFS, and Lustre with `flock`, it
    holds across machines; a file system without flock is refused. With NFS's `local_lock=flock` and Lustre's
    `localflock` it holds on one machine only. There the owner's heartbeats keep other machines out: they wait until
    EXPIRY seconds have passed without one. One gap remains: two machines can acquire the lock at the same moment.
    """

    def __init__(self, folder: Path, wait: float) -> None:
        self._folder, self._wait = folder, wait
        self._file, self._owner = folder / ".lock", folder / ".owner"
        self._released = threading.Event()

    @functools.cached_property
    def _lock(self) -> filelock.BaseFileLock:
        return filelock.FileLock(self._file)  # slow to make, and `held` does not need it

    def acquire(self) -> None:
        """Acquire the lock.

        Raise InUseError if another process holds it, StorageError if the file system has no locks.
        """
        deadline = time.monotonic() + self._wait
        try:
            self._lock.acquire(timeout=self._wait)
        except filelock.Timeout:
            raise self._in_use("another process is training this run") from None
        try:
            if self._free():
                raise StorageError(
                    f"{self._folder} is on a file system that doesn't lock files, so that two processes could train "
                    "the same run; set runs= to a folder on another file system"
                )
            while owner := self._remote_owner(touch=True):
                if time.monotonic() > deadline:
                    raise self._in_use(f"{owner} is training this run, or was less than {EXPIRY:.0f} seconds ago")
                time.sleep(0.5)
            self._stat = self._file.stat()
            self._owner.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
        except BaseException:
            self._lock.release()
            raise
        self._released = threading.Event()
        threading.Thread(target=self._send_heartbeats, args=(self._released,), daemon=True).start()

    def release(self) -> None:
        """Release the lock, and stop the heartbeats."""
        self._released.set()
        with contextlib.suppress(OSError):
            if not self.lost():
                self._owner.unlink()
        self._lock.release()

    def lost(self) -> bool:
        """Return True if the folder of this lock was moved or deleted meanwhile.

        Another process may have made it again since, with a lock of its own.
        """
        try:
            return not os.path.samestat(self._file.stat(), self._stat)
        except (FileNotFoundError, NotADirectoryError):
            return True

    def held(self) -> bool:
        """Return True if another process holds the lock. This takes no lock and does not wait."""
        return not self._free() or self._remote_owner(touch=False) is not None

    def abandoned(self) -> bool:
        """Return True if the owner died without releasing the lock."""
        return self._owner.exists() and not self.held()

    def _free(self) -> bool:
        """Return True if a shared flock on the file can be had at once; it is released again."""
        try:
            with open(self._file) as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except FileNotFoundError:
            return True
        return True

    def _remote_owner(self, touch: bool) -> str | None:
        """Return the owner, if it is a process on another machine whose last heartbeat is recent.

        touch: read the current time from the file system's clock, which also dates the heartbeats, by touching `.lock`.
        """
        try:
            owner = json.loads(self._owner.read_text())
            host, pid = str(owner["host"]), int(owner["pid"])
            if host == socket.gethostname():
                return None  # on this machine flock decides
            if touch:
                os.utime(self._file)
            now = self._file.stat().st_mtime if touch else time.time()
            alive = abs(now - self._owner.stat().st_mtime) < EXPIRY
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return None
        return f"process {pid} on {host}" if alive else None

    def _send_heartbeats(self, released: threading.Event) -> None:
        while not released.wait(HEARTBEAT):
            with contextlib.suppress(OSError):
                os.utime(self._owner)

    def _in_use(self, reason: str) -> InUseError:
        return InUseError(f"{self._folder} is in use: {reason}")

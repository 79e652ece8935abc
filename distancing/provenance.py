"""Which code, with which libraries, made a result."""

import functools
import hashlib
import importlib.metadata
import platform
import subprocess
from pathlib import Path

import torch

PACKAGE = Path(__file__).parent
LIBRARIES = ("torchvision", "numpy", "hydra-core", "scikit-learn")


@functools.cache
def provenance() -> dict[str, str | dict[str, str] | None]:
    """`source` (a hash of this package's code), `git_commit` (None outside a checkout) and `versions`."""
    digest = hashlib.sha256()
    for file in sorted(PACKAGE.rglob("*.py")):
        digest.update(f"{file.relative_to(PACKAGE).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {
        "source": digest.hexdigest()[:12],
        "git_commit": _git_commit(),
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__), **versions},
    }


def _git_commit() -> str | None:
    try:
        found = subprocess.run(
            ["git", "-C", str(PACKAGE), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()

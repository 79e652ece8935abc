"""The code and the library versions that made a result."""

import functools
import hashlib
import importlib.metadata
import platform
import subprocess
from pathlib import Path

PACKAGE = Path(__file__).parent.parent
COMMIT_FILE = "git_commit"  # holds the commit in a copy of the package outside a checkout
LIBRARIES = ("torchvision", "numpy", "hydra-core", "scikit-learn")


@functools.cache
def provenance() -> dict[str, str | dict[str, str] | None]:
    """Return `source` (a hash of this package's code), `git_commit` (None outside a checkout) and `versions`."""
    import torch

    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {
        "source": source(),
        "git_commit": git_commit(),
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__), **versions},
    }


def source() -> str:
    """Return a hash, 12 hexadecimal digits, of all modules of this package."""
    digest = hashlib.sha256()
    for file in sorted(PACKAGE.rglob("*.py")):
        digest.update(f"{file.relative_to(PACKAGE).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def git_commit() -> str | None:
    """Return the commit of the checkout that holds this package, or that it was copied from; None if unknown."""
    if (copied := PACKAGE / COMMIT_FILE).exists():
        return copied.read_text().strip() or None
    commit_and_file = ["HEAD", "HEAD:./__init__.py"]  # fails where the package is installed inside another checkout
    try:
        git = subprocess.run(
            ["git", "-C", str(PACKAGE), "rev-parse", *commit_and_file],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return git.stdout.split()[0]

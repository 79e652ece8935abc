"""The code, the library versions and the device that made a result."""

import functools
import hashlib
import importlib.metadata
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from distancing.component.trust import source_files

if TYPE_CHECKING:
    import torch

PACKAGE = Path(__file__).parent.parent
COMMIT_FILE = "git_commit"  # holds the commit in a copy of the package outside a checkout
LIBRARIES = ("torchvision", "numpy", "hydra-core", "scikit-learn")


@functools.cache
def provenance(own: tuple[str, ...] = ()) -> dict[str, str | dict[str, str] | None]:
    """Return `source` (a hash of the code), `git_commit` (None outside a checkout) and `versions`.

    own: the modules outside of this package that belong to the code.
    """
    import torch

    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {
        "source": source(own, _imported()),
        "git_commit": git_commit(),
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__), **versions},
    }


def device_name(device: "torch.device") -> str:
    """Return the name of the GPU, the instruction set that PyTorch uses on a CPU, or the type of another device."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu {torch.backends.cpu.get_cpu_capability()}" if device.type == "cpu" else device.type


def source(own: Iterable[str] = (), package: "hashlib._Hash | None" = None) -> str:
    """Return a hash, 12 hexadecimal digits, of all files of this package and of these modules outside of it.

    package: the hash of the package's files, if it is known.
    """
    digest = (package or _package()).copy()
    for module in own:
        _add(source_files(module), digest)
    return digest.hexdigest()[:12]


def _package() -> "hashlib._Hash":
    digest = hashlib.sha256()
    _add(((file.relative_to(PACKAGE).as_posix(), file) for file in sorted(PACKAGE.rglob("*.py"))), digest)
    return digest


def _add(files: Iterable[tuple[str, Path]], digest: "hashlib._Hash") -> None:
    """Add the names and contents of these files to a hash."""
    for name, file in files:
        digest.update(f"{name}\0".encode() + file.read_bytes() + b"\0")


@functools.cache
def _imported() -> "hashlib._Hash":
    """Return the hash of the package at the first call, which later edits of its files do not change."""
    return _package()


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

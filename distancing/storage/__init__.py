"""Runs and sweeps on disk."""

from distancing.storage.files import StorageError, load, save, write
from distancing.storage.run import RunDirectory
from distancing.storage.sweep import Listed, SweepDirectory, SweepError, find_sweep

__all__ = [
    "Listed",
    "RunDirectory",
    "StorageError",
    "SweepDirectory",
    "SweepError",
    "find_sweep",
    "load",
    "save",
    "write",
]

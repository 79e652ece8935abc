"""Runs and sweeps on disk."""

from distancing.runs.directory import RunDirectory
from distancing.runs.files import load, save, write
from distancing.runs.sweep_list import Listed, SweepDirectory, find_sweep

__all__ = [
    "Listed",
    "RunDirectory",
    "SweepDirectory",
    "find_sweep",
    "load",
    "save",
    "write",
]

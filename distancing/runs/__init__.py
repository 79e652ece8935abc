"""Runs and sweeps on disk. Importing this package does not import torch."""

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

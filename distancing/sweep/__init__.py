"""Sweeps: list the runs, check and freeze their configs, and start them on this machine or a Slurm cluster."""

"""Hundreds of runs as one table and one picture; from their files alone, without torch and without Hydra."""

"""Data sets of small images, and their batches."""

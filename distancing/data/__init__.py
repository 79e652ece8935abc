"""Data sets of small images, and the batches in which a network sees them."""

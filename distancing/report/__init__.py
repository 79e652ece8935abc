"""Summarise hundreds of runs as one table, figures and one page, from their files alone and without torch or Hydra."""

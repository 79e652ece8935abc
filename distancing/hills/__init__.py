"""The method: hills on the loss at stored checkpoints (the thesis's 2.1)."""

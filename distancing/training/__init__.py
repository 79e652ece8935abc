"""Training in phases (Algorithm 3 of the thesis): steps, epochs and phases, checkpoints and saved states."""

"""Training in phases (the thesis's Algorithm 3): what a step, an epoch and a phase do."""

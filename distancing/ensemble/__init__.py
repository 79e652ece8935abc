"""Several networks as one: members, their average, and whether it is worth having."""

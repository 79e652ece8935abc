"""Train a network away from where it has been; `experiment` is the way in, `training` the method."""

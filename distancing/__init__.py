"""Train a network away from where it has been; `experiment` is the way in, `training` the method."""

import os

from distancing import threads

threads.bound_spin(os.environ)  # here, since it must come before the first import of torch

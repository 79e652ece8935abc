"""Pictures of a ball on losses of one and two parameters. Training does not need them."""

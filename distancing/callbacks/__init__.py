"""Hills in the training loops of other libraries. Each module needs its library, which is an extra of this package."""

"""A ball on one- and two-dimensional losses, drawn; training needs none of it."""

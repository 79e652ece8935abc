"""What is looked at beside the runs: pictures and comparisons; training needs none of it."""

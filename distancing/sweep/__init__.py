"""Many runs: which ones a sweep has, freezing their configs, and the places where they run."""

"""The settings of a run: where the YAML files are, how they are composed, and what is checked."""

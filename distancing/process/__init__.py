"""The process of a command: its threads, the signals that stop or kill it, and how it reports errors."""

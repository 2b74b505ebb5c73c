"""The settings of a run: those that all participants share, and those of the coordinator."""

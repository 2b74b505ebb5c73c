"""What a run is: the settings that all participants share, and those of the coordinator."""

"""A device's connection to its coordinator."""

"""The state of a device on disk."""

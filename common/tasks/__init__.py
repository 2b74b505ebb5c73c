"""Tasks: a model's loss, and how a device trains on its own data."""

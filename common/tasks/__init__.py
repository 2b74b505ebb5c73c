"""What a model is trained for: its loss, and how a device trains on its own data."""

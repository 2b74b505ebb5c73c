"""What keeps a device from taking part, and what its work costs it."""

"""The work of a device: which it takes on, and its computation."""

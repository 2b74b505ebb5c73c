"""Exact arithmetic on the model's flat vector: the same bits on every machine."""

"""How each phase moves the model: what a client computes for a round, what is checked of it, how it becomes a step."""

"""The state machine: events, commands, and the pure functions between them."""

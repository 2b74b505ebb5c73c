"""What both sides need of the operating system: the one impure room of `common`. Standard library only."""

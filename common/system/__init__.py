"""What both sides need of the operating system: the one part of `common` that is not pure. Standard library only."""

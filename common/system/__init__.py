"""What both sides need of the operating system: the only package of `common` with side effects. Standard library only."""

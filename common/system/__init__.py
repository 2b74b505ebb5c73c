"""The operating system, as both sides need it: the only package of `common` with side effects. Standard library only."""

"""Runs wherever they are kept, in a data directory's files or in PostgreSQL: read back, checked, copied and restored."""

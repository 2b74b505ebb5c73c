"""Models: what a run may train, as torch modules and as flat vectors. The low tier uses `program` and `graph` alone."""

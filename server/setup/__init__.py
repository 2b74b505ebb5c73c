"""Creation of a run, or the opening of the one that is there."""

"""What can be wrong with a model."""


class ModelError(ValueError):
    """A model that cannot be trained here, said in one sentence that names it and the remedy."""

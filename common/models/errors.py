"""Errors of models, and the boundary to a model's own code."""

from collections.abc import Iterator
from contextlib import contextmanager

from zowarmup.common.text import in_words


class ModelError(ValueError):
    """A model that cannot be trained here, said in one sentence that names it and the remedy."""


@contextmanager
def foreign_code(what: str) -> Iterator[None]:
    """A model's own code runs inside: whatever it raises, sys.exit included, becomes a ModelError that begins with
    `what` and names the file and the line; so does a ModelError that does not name the model."""
    try:
        yield
    except ModelError as error:
        if str(error).startswith("model "):
            raise
        raise ModelError(f"{what} {error}") from error
    except (Exception, SystemExit) as error:
        raise ModelError(f"{what} {in_words(error)}") from error

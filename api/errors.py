"""Errors of the Python interface: a sentence each, whichever part of the system said it.

The parts have errors of their own. A caller of the interface knows these two, `GivenUp` and `DataError`; the part's own is the cause.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from zowarmup.data import DataError


class RunError(Exception):
    """A run could not begin or not go on; one sentence that says why and what to do."""


class SettingsError(RunError, ValueError):
    """Settings, or what was given in their place, cannot be; a line for each that names it and what is allowed."""


_SETTINGS = ("RunFileError", "TomlError", "Usage")
_RUN = (
    "ArchiveError",
    "BlobError",
    "CommandError",
    "CoordinatorFailed",
    "CredentialError",
    "Final",
    "LedgerError",
    "ListeningError",
    "NoAnswer",
    "PreparationError",
    "StartError",
    "TrustError",
    "Unavailable",
)
"""By name, so that none of their modules is loaded for an error that it has not raised."""


@contextmanager
def sentences() -> Iterator[None]:
    """Within it the errors of all parts become those of the interface."""
    try:
        yield
    except (RunError, DataError):
        raise
    except Exception as error:
        kinds = {kind.__name__ for kind in type(error).__mro__ if kind.__module__.startswith("zowarmup.")}
        if kinds & {*_SETTINGS}:
            raise SettingsError(str(error)) from error
        if kinds & {*_RUN}:
            raise RunError(str(error)) from error
        raise

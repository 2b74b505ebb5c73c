"""Folders of this process that are gone with the last object that needs them."""

import shutil
import tempfile
import weakref
from pathlib import Path


class PassingFolder:
    """A new folder at `path`, which is removed when nobody has this object any more, and at the end of the process at the
    latest."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="zowarmup-"))
        self._end = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)

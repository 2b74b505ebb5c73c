"""A file that a data spec names, opened to be read, or refused in a sentence."""

import io
from pathlib import Path

from zowarmup.common.system.given_file import open_given
from zowarmup.data.dataset import DataError


def opened(path: Path) -> io.BufferedReader:
    """Raises DataError where there is no such file, it may not be read, or it is none."""
    try:
        return open_given(path)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except PermissionError:
        raise DataError(f"{path}: this file may not be read: change its permissions") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise DataError(
            f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}): check its path"
        ) from None

"""Every reader of a file that a stranger may have made, by name, as `bombs` calls them: with a spec or the path of a file."""

from collections.abc import Callable
from pathlib import Path

READERS: dict[str, Callable[[str], object]] = {}


def reader(read: Callable[[str], object]) -> Callable[[str], object]:
    READERS[read.__name__] = read
    return read


@reader
def data(spec: str) -> object:
    from zowarmup.data import load

    return load(spec)


@reader
def run_file(path: str) -> object:
    from zowarmup.server.runfile import read_run_file

    return read_run_file(Path(path))


@reader
def weights(path: str) -> object:
    import numpy as np

    from tests.faults.small import LAYOUT
    from zowarmup.server.building import load_weights

    load_weights(Path(path), LAYOUT, filled := np.zeros(LAYOUT.size, np.float32))
    return filled


@reader
def left(path: str) -> object:
    from zowarmup.server.continuation import Left

    return Left.read(Path(path))


@reader
def program(path: str) -> object:
    from tests.client.hostile_programs import LAYOUT
    from zowarmup.common.graph import checked

    return checked(Path(path).read_bytes(), LAYOUT)


@reader
def commit(path: str) -> object:
    from tests.faults.small import LAYOUT
    from zowarmup.common.codec import decode_commit

    return decode_commit(Path(path).read_bytes(), LAYOUT)

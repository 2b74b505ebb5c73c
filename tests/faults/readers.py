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
    from zowarmup.server.setup.run_file import read_run_file

    return read_run_file(Path(path))


@reader
def weights(path: str) -> object:
    import numpy as np

    from tests.faults.small import LAYOUT
    from zowarmup.server.setup.weights_file import load_weights

    load_weights(Path(path), LAYOUT, filled := np.zeros(LAYOUT.size, np.float32))
    return filled


@reader
def left(path: str) -> object:
    from zowarmup.server.setup.continuation import Left

    return Left.read(Path(path))


@reader
def policy(path: str) -> object:
    from zowarmup.client.policy import read_policy

    return read_policy(Path(path))


@reader
def identity(path: str) -> object:
    from zowarmup.client.store.directory import Records

    return Records(Path(path)).identity()


@reader
def commit_log(path: str) -> object:
    from zowarmup.client.store.replica import CommitLog

    log = CommitLog(Path(path))
    if not log.records:
        raise ValueError("no record is whole")
    return log


@reader
def authority(path: str) -> object:
    from zowarmup.client.net.tls import read_authority

    return read_authority(Path(path), "--ca")


@reader
def answer(path: str) -> object:
    """What a coordinator says on the stream."""
    from tests.faults.small import LAYOUT
    from zowarmup.client.net.stream import Reader

    return Reader(LAYOUT).read(Path(path).read_bytes())


@reader
def program(path: str) -> object:
    from zowarmup.common.exact.layout import Block, Layout, Tensor
    from zowarmup.common.models.graph import checked

    layout = Layout((Tensor("w", (32,), 0),), 32, 32, (Block("all", 0, 32),))  # that of `hostile_programs`
    return checked(Path(path).read_bytes(), layout)


@reader
def commit(path: str) -> object:
    from tests.faults.small import LAYOUT
    from zowarmup.common.messages.codec import decode_commit

    return decode_commit(Path(path).read_bytes(), LAYOUT)

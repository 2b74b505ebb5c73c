"""One replica for many clients: applied once, compared by each, fetched once, lost once; a commit read once."""

import asyncio
import random
from pathlib import Path

import numpy as np
import pytest

from zowarmup.client.errors import Declined
from zowarmup.client.net.stream import Reader
from zowarmup.client.store.replica import LocalReplica, Position, SnapshotHeader
from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.layout import Block, Layout, Tensor, digest
from zowarmup.common.exact.replica import Commit, Diverged, Replica
from zowarmup.common.exact.steps import Step
from zowarmup.common.messages.codec import commit_to_wire
from zowarmup.common.messages.values import Tier
from zowarmup.lab.simulation.part import FleetProgress, FleetShare, parts, together
from zowarmup.lab.simulation.shared import SharedReplica, View
from zowarmup.v1 import coordinator_pb2 as wire

LAYOUT = Layout((Tensor("w", (64,), 0),), 64, 64, (Block("all", 0, 64),), None)
GRID = Grid(12)


def commits(count: int, start: int = 0) -> list[Commit]:
    """The first versions of a run from zeros."""
    replica, found = Replica(LAYOUT, GRID, np.zeros(64, np.float32), start), []
    for version in range(start + 1, start + count + 1):
        steps = (Step(version, LAYOUT.block("all"), (3,)),)
        ahead = Replica(LAYOUT, GRID, replica.weights.copy(), version - 1)
        with pytest.raises(Diverged) as told:  # which is how one learns the digest
            ahead.apply([Commit(version, bytes(16), steps)])
        found.append(Commit(version, told.value.found, steps))
        replica.apply([found[-1]])
    return found


@pytest.fixture
def shared(tmp_path: Path) -> SharedReplica:
    local = LocalReplica(tmp_path, LAYOUT)
    local.open()
    shared = SharedReplica(local)
    local.incoming(0).write_bytes(bytes(4 * 64))
    shared.load(SnapshotHeader(0, GRID.exponent, digest(np.zeros(64, np.float32)), 4 * 64))
    return shared


def test_a_commit_is_applied_by_the_first_and_compared_by_the_others(shared: SharedReplica) -> None:
    first, second = View(shared), View(shared)
    made = commits(3)
    first.apply(made[:2])
    weights = first.weights.copy()
    second.apply(made[:1])
    assert (first.position.version, second.position) == (2, Position(1, made[0].digest))
    np.testing.assert_array_equal(second.weights, weights)
    second.apply(made[1:])
    assert second.held is not None
    assert second.held.version == 3
    first.apply(made[2:])
    assert first.position == second.position
    wrong = Commit(3, bytes(16), made[2].steps)
    with pytest.raises(Diverged, match="version 3"):
        View(shared).apply([wrong])


def test_what_one_has_fetched_is_there_for_all(shared: SharedReplica) -> None:
    view, late = View(shared), View(shared)
    view.apply(commits(2))
    known = shared.header(1)
    assert known is not None
    late.load(known)  # no file is there to be read
    assert late.position == Position(1, commits(1)[0].digest)
    assert late.held is not None
    assert late.held.version == 2
    assert late.overtaken(1)
    assert not late.overtaken(2)
    shared.hear(5)
    assert late.overtaken(4)
    assert shared.header(6) is None, "that one has to be fetched"
    late.greet()
    assert late.position == view.position


def test_a_replica_is_lost_once(shared: SharedReplica) -> None:
    first, second = View(shared), View(shared)
    first.drop()
    assert first.held is None
    shared.local.incoming(0).write_bytes(bytes(4 * 64))
    first.load(SnapshotHeader(0, GRID.exponent, digest(np.zeros(64, np.float32)), 4 * 64))
    second.drop()  # it means the one that is lost already
    assert first.held is not None
    first.apply(commits(1))
    shared._digests.pop(0)
    with pytest.raises(Declined, match="older than what the others have"):
        shared.header(0)


def test_a_commit_that_comes_along_many_streams_is_read_once() -> None:
    reader = Reader(LAYOUT)
    data = [
        wire.ParticipateResponse(commit=commit_to_wire(commit, LAYOUT)).SerializeToString() for commit in commits(6)
    ]
    read = reader.read(data[0])
    assert read == commits(1)[0]
    assert reader.read(bytes(bytearray(data[0]))) is read
    assert [reader.read(each) for each in data] == commits(6)
    assert reader.read(data[0]) is not read, "only the last ones are kept"
    with pytest.raises(ValueError, match=r"."):
        reader.read(b"\x1a\xff")


def test_a_fleet_is_cut_into_parts_and_put_together_again(tmp_path: Path) -> None:
    whole = FleetShare(
        server="a:1", name="f", data="digits", clients=10, first=1, count=10, high=4, state=tmp_path, secret=bytes(32)
    )
    cut = parts(whole, 3)
    assert [(part.first, part.count) for part in cut] == [(1, 4), (5, 3), (8, 3)]
    assert len({part.state for part in cut}) == 3
    assert [cut[1].tier(number) for number in (4, 5)] == [Tier.HIGH, Tier.LOW]
    sum_of = together(
        [
            FleetProgress(clients=4, members=4, connected=3, phase="warm-up", round=2, up_bytes=5),
            FleetProgress(
                clients=3, members=3, connected=3, phase="zeroth-order", round=3, up_bytes=6, waiting="for you"
            ),
        ]
    )
    assert (
        sum_of.line()
        == "6 of 7 clients connected | zeroth-order round 3 | 0 contributions | 11 B up, 0 B down | for you"
    )


def test_a_line_is_asked_for_by_one_for_all() -> None:
    """A coordinator that is not there: every client waits on the same attempt."""
    from zowarmup.client.net.coordinators import Coordinators
    from zowarmup.client.net.tls import PLAIN
    from zowarmup.lab.simulation.shared import SharedChannel

    async def run() -> None:
        line = SharedChannel(Coordinators("127.0.0.1:1", PLAIN, random.Random(0)), 3)
        waiting = [asyncio.create_task(line.up()) for _ in range(3)]
        async with asyncio.timeout(60):
            while (attempt := line._connecting) is None:
                await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        waiting[0].cancel()  # one that leaves does not end it for the others
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert line._connecting is attempt
        assert not attempt.done()
        for task in waiting:
            task.cancel()
        await line.close()

    asyncio.run(run())

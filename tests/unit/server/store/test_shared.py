"""What holds for every store that coordinators share: only who leads writes the log and deletes blobs, and the others learn of it."""

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from tests.patience import PATIENCE
from tests.unit.server.store.test_lease import LONG_S, OVER_S, holder
from zowarmup.server.core import events as ev
from zowarmup.server.store.blobs import MemorySharedBlobs, SharedBlobs
from zowarmup.server.store.event_log import Fenced, MemorySharedLog, SharedLog
from zowarmup.server.store.lease import Lease, MemoryLease
from zowarmup.server.store.postgres.stores import PostgresStores


@dataclass(frozen=True)
class Shared:
    log: SharedLog
    blobs: SharedBlobs
    lease: Lease


Open = Callable[[], Shared]


@pytest.fixture(params=["memory", "postgresql"])
def open_shared(request: pytest.FixtureRequest) -> Iterator[Open]:
    """Opens one and the same store as another coordinator does."""
    if request.param == "memory":
        now = itertools.count()
        lease = MemoryLease(lambda: next(now) * 1e-6)
        memory = Shared(MemorySharedLog(lease.leading), MemorySharedBlobs(lease.leading), lease)
        yield lambda: memory
        return
    address = request.getfixturevalue("postgres").address()
    with contextlib.ExitStack() as opened:

        def open_it() -> Shared:
            stores = opened.enter_context(contextlib.closing(PostgresStores.open(address)))
            return Shared(stores.log, stores.blobs, stores.lease)

        yield open_it


def read(shared: Shared) -> list[ev.Event]:
    return [event for _, event in shared.log.read()]


def test_the_leader_appends_and_the_others_read(open_shared: Open) -> None:
    one, other = open_shared(), open_shared()
    one.lease.take(holder("one"), LONG_S)
    log = one.log.leading(1)
    assert log.append([ev.RunPaused("a"), ev.RunResumed()], 1.0, 0) == 2
    assert list(other.log.read(1)) == [(1.0, ev.RunResumed())] == list(log.read(1))
    log.close()
    assert read(one) == read(other) == [ev.RunPaused("a"), ev.RunResumed()]


def test_an_expired_leader_goes_on_until_another_leads(open_shared: Open) -> None:
    zombie, other = open_shared(), open_shared()
    zombie.lease.take(holder("zombie"), OVER_S)
    log, blobs = zombie.log.leading(1), zombie.blobs.leading(1)
    name = blobs.put(b"data")
    assert log.append([ev.RunPaused("a")], 1.0, 0) == 1
    other.lease.take(holder("other"), LONG_S)
    with pytest.raises(Fenced, match="epoch 2, and this one led in epoch 1"):
        log.append([ev.RunPaused("b")], 2.0, 1)
    for change in (lambda: blobs.delete(name), lambda: blobs.drop("part"), lambda: blobs.sweep(())):
        with pytest.raises(Fenced):
            change()
    with pytest.raises(Fenced):
        zombie.lease.renew(1, LONG_S)
    assert other.blobs.has(name) and read(other) == [ev.RunPaused("a")]
    assert other.log.leading(2).append([ev.RunResumed()], 3.0, 1) == 2
    other.blobs.leading(2).delete(name)
    assert not zombie.blobs.has(name)


def test_the_leader_too_names_the_last_event(open_shared: Open) -> None:
    shared = open_shared()
    shared.lease.take(holder("one"), LONG_S)
    with pytest.raises(Fenced, match="ends with event 0, not with event 1"):
        shared.log.leading(1).append([ev.RunResumed()], 1.0, 1)


def test_nobody_leads_in_an_epoch_that_has_not_begun(open_shared: Open) -> None:
    shared = open_shared()
    with pytest.raises(Fenced):
        shared.log.leading(1).append([ev.RunResumed()], 1.0, 0)
    with pytest.raises(Fenced):
        shared.blobs.leading(1).delete("name")
    assert read(shared) == []


def test_who_does_not_lead_adds_blobs_and_drops_parts_and_deletes_nothing(open_shared: Open) -> None:
    shared = open_shared()
    name = shared.blobs.put(b"data")
    shared.blobs.write("part", 0, b"half")
    shared.blobs.drop("part")
    assert shared.blobs.parts() == set()
    with pytest.raises(Fenced, match="only the coordinator that leads"):
        shared.blobs.delete(name)
    assert open_shared().blobs.has(name)


def test_whoever_waits_for_events_returns_when_there_are_some(open_shared: Open) -> None:
    one, other = open_shared(), open_shared()
    one.lease.take(holder("one"), LONG_S)
    log = one.log.leading(1)

    def follow() -> list[int]:
        seen = [0]
        while seen[-1] < 20:
            other.log.wait(seen[-1], 60 * PATIENCE)
            seen.append(seen[-1] + sum(1 for _ in other.log.read(seen[-1])))
        return seen

    with ThreadPoolExecutor(1) as follower:
        following = follower.submit(follow)
        for end in range(20):
            log.append([ev.RunResumed()], 1.0, end)
        assert following.result(30 * PATIENCE)[-1] == 20, "long before a time-out"
    other.log.wait(7, 60 * PATIENCE)
    other.log.wait(20, 0.01)


def test_events_that_came_before_anyone_waited_end_the_wait(open_shared: Open) -> None:
    one, other = open_shared(), open_shared()
    one.lease.take(holder("one"), LONG_S)
    one.log.leading(1).append([ev.RunResumed()], 1.0, 0)
    done = threading.Event()

    def wait() -> None:
        other.log.wait(0, 60 * PATIENCE)
        done.set()

    threading.Thread(target=wait, daemon=True).start()
    assert done.wait(30 * PATIENCE)


def test_the_appends_of_two_that_think_they_lead_never_interleave(open_shared: Open) -> None:
    """Each takes the lease whenever it can and appends its own batches at the end that it knows."""
    together = threading.Barrier(2)

    def lead(name: str) -> int:
        shared, won = open_shared(), 0
        together.wait()
        while sum(1 for _ in shared.log.read()) < 200:
            taken = shared.lease.take(holder(name), OVER_S)
            if taken is None:
                continue
            log = shared.log.leading(taken.epoch)
            end = sum(1 for _ in shared.log.read())
            try:
                for _ in range(3):
                    end = log.append(
                        [ev.RunPaused(f"{name} {taken.epoch}"), ev.RunPaused(f"{name} {taken.epoch}")], 1.0, end
                    )
                    won += 1
            except Fenced:
                continue
        return won

    with ThreadPoolExecutor(2) as threads:
        assert sum(threads.map(lead, ("one", "other"))) >= 100
    epochs = [int(event.reason.split()[1]) for event in read(open_shared()) if isinstance(event, ev.RunPaused)]
    assert epochs == sorted(epochs), "no append of an epoch comes behind one of a later epoch"
    assert all(epochs[at] == epochs[at + 1] for at in range(0, len(epochs), 2)), "and each is whole"

"""Uploads that one coordinator receives and another aggregates."""

import time
from pathlib import Path

import pytest

from tests.unit.server.test_coordinator import CREATED
from zowarmup.common.messages.values import Delta, Phase, Tier
from zowarmup.server.cluster.uploads import SharedUploadsSweeper, SpooledUploads
from zowarmup.server.core import events as ev
from zowarmup.server.core.contributions import upload_name
from zowarmup.server.core.evolve import fold
from zowarmup.server.core.state import State
from zowarmup.server.store.blob_files import BlobFiles
from zowarmup.server.store.blobs import BlobError, MemorySharedBlobs
from zowarmup.server.store.event_log import LedgerError
from zowarmup.server.store.lease import Holder, MemoryLease

DIGEST = "ab" * 16


def shared() -> tuple[MemorySharedBlobs, MemoryLease]:
    lease = MemoryLease(time.monotonic)
    lease.take(Holder(name="a", address="127.0.0.1:7070", secret="0" * 64), 60.0)
    return MemorySharedBlobs(lease.leading), lease


def test_what_one_has_received_another_reads_once_it_is_whole(tmp_path: Path) -> None:
    store, _ = shared()
    here, there = SpooledUploads(BlobFiles(tmp_path / "a"), store), SpooledUploads(BlobFiles(tmp_path / "b"), store)
    name = upload_name("pi", 3, DIGEST)
    here.write(name, 0, b"0123")
    here.write(name, 4, b"4567")
    assert here.received(name) == 8 and here.read_part(name, 2, 3) == b"234" and here.parts() == {name}
    assert store.names() == set() and not here.has(name)
    assert here.finish(name, name)
    assert here.has(name) and not there.has(name), "a client that has moved sends it again"
    assert there.open(name).read(0, 8) == here.open(name).read(0, 8) == b"01234567"
    here.delete(name)
    assert here.open(name).read(6, 9) == b"67", "the leader's to delete"
    with pytest.raises(BlobError):
        here.open("none")


def test_an_upload_that_cannot_be_stored_for_all_is_not_whole_here(tmp_path: Path) -> None:
    store, _ = shared()

    def refuse(part: str, name: str) -> bool:
        raise LedgerError("the store is away")

    here = SpooledUploads(BlobFiles(tmp_path), store)
    here.write("p", 0, b"01")
    store.finish = refuse  # type: ignore[method-assign]
    with pytest.raises(LedgerError):
        here.finish("p", "p")
    assert not here.has("p") and here.received("p") == 2, "it is resumed"


def state_in_round(number: int, *contributed: str) -> State:
    events: list[ev.Event] = [CREATED]
    for name in ("a", "b"):
        events.append(ev.ClientEnrolled(name, Tier.HIGH, 1, name * 64))
    events.append(ev.RoundOpened(number, Phase.WARM_UP, 0, ("a", "b"), (1, 2), (1, 1), 9.0))
    events += [ev.Contributed(name, Delta(number, DIGEST, 1, 0.5)) for name in contributed]
    state = fold(None, events)
    assert state is not None
    return state


def test_the_leader_lets_uploads_of_rounds_that_are_over_go_and_no_others() -> None:
    store, _ = shared()
    names = [upload_name(client, number, DIGEST) for number in (1, 2, 3) for client in ("a", "b")]
    for name in names:
        store.write(name, 0, b"x")
        store.finish(name, name)
    store.write(f"{names[0]}.part", 0, b"left by one that died")
    store.write(f"{names[5]}.part", 0, b"on its way")
    sweeper = SharedUploadsSweeper(store.leading(1))
    sweeper(0.0, [ev.RoundAbandoned(2, "test")], state_in_round(3, "a"))
    sweeper._thread.shutdown()
    assert store.names() == set(names[4:]) and store.parts() == {f"{names[5]}.part"}


def test_one_that_no_longer_leads_lets_nothing_go() -> None:
    store, lease = shared()
    name = upload_name("a", 1, DIGEST)
    store.write(name, 0, b"x")
    store.finish(name, name)
    lease.give_up(1)
    lease.take(Holder(name="b", address="127.0.0.1:7070", secret="1" * 64), 60.0)
    sweeper = SharedUploadsSweeper(store.leading(1))
    sweeper(0.0, [ev.RoundAbandoned(2, "test")], state_in_round(3))
    sweeper._thread.shutdown()
    assert store.names() == {name}

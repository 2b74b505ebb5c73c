"""What holds for every lease, whatever keeps it, and for what is written by whoever holds one."""

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from zowarmup.server.store.event_log import Fenced
from zowarmup.server.store.lease import Holder, Lease, MemoryLease
from zowarmup.server.store.postgres.stores import PostgresStores

LONG_S, OVER_S = 3600.0, 1e-9
"""A lease that does not expire within a test, and one that has when it is looked at again."""
Open = Callable[[], Lease]


def holder(name: str) -> Holder:
    return Holder(name=name, address="10.0.0.1:7070", secret=f"{len(name):064x}", authority="")


@pytest.fixture(params=["memory", "postgresql"])
def open_lease(request: pytest.FixtureRequest) -> Iterator[Open]:
    """Opens one and the same lease, which nobody holds at first."""
    if request.param == "memory":
        now = itertools.count()
        memory = MemoryLease(lambda: next(now) * 1e-6)
        yield lambda: memory
        return
    address = request.getfixturevalue("postgres").address()
    with contextlib.ExitStack() as opened:
        yield lambda: opened.enter_context(contextlib.closing(PostgresStores.open(address))).lease


def test_a_lease_is_taken_by_one_and_seen_by_all(open_lease: Open) -> None:
    assert open_lease().look() is None
    first = Holder(
        name="one",
        address="[fd00::1]:7070",
        secret="a" * 64,
        authority="-----BEGIN CERTIFICATE-----\nMII=\n-----END CERTIFICATE-----\n",
    )
    taken = open_lease().take(first, LONG_S)
    assert taken is not None and (taken.epoch, taken.holder) == (1, first)
    seen = open_lease().look()
    assert seen is not None and (seen.epoch, seen.holder) == (1, first)
    assert 0 < seen.expires_in_s <= LONG_S


def test_a_lease_that_has_not_expired_is_not_taken_by_its_holder_either(open_lease: Open) -> None:
    assert open_lease().take(holder("one"), LONG_S)
    assert open_lease().take(holder("other"), LONG_S) is None
    assert open_lease().take(holder("one"), LONG_S) is None
    seen = open_lease().look()
    assert seen is not None and (seen.epoch, seen.holder.name) == (1, "one")


def test_an_expired_lease_is_its_holders_until_another_takes_it(open_lease: Open) -> None:
    lease = open_lease()
    assert lease.take(holder("one"), OVER_S)
    seen = lease.look()
    assert seen is not None and seen.expires_in_s < 0
    lease.renew(1, LONG_S)
    assert open_lease().take(holder("other"), LONG_S) is None
    lease.renew(1, OVER_S)
    taken = open_lease().take(holder("other"), LONG_S)
    assert taken is not None and (taken.epoch, taken.holder.name) == (2, "other")
    with pytest.raises(Fenced, match="epoch 2, and this one led in epoch 1"):
        lease.renew(1, LONG_S)


@pytest.mark.parametrize("epoch", [0, 1, 3, 1 << 40])
def test_only_the_present_epoch_renews_or_gives_up(open_lease: Open, epoch: int) -> None:
    lease = open_lease()
    lease.take(holder("one"), OVER_S)
    lease.take(holder("other"), LONG_S)
    with pytest.raises(Fenced):
        lease.renew(epoch, LONG_S)
    lease.give_up(epoch)
    assert lease.take(holder("third"), LONG_S) is None, "what is another's is not given up"


def test_a_lease_that_is_given_up_is_free_at_once(open_lease: Open) -> None:
    lease = open_lease()
    lease.give_up(1)
    assert lease.look() is None
    lease.take(holder("one"), LONG_S)
    lease.give_up(1)
    taken = open_lease().take(holder("other"), LONG_S)
    assert taken is not None and taken.epoch == 2


def test_of_many_that_take_it_at_once_one_gets_it(open_lease: Open) -> None:
    leases, together = [open_lease() for _ in range(4)], threading.Barrier(4)

    def take(number: int) -> int:
        together.wait()
        taken = leases[number].take(holder(str(number)), LONG_S)
        return 0 if taken is None else taken.epoch

    with ThreadPoolExecutor(4) as threads:
        for epoch in range(1, 11):
            assert sorted(threads.map(take, range(4))) == [0, 0, 0, epoch]
            leases[0].give_up(epoch)


def test_a_lease_lasts_a_time_that_can_be(open_lease: Open) -> None:
    for lasts_s in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="a lease lasts"):
            open_lease().take(holder("one"), lasts_s)
        with pytest.raises(ValueError, match="a lease lasts"):
            open_lease().renew(1, lasts_s)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"name": ""}, "name"),
        ({"name": "two\nlines"}, "name"),
        ({"address": "10.0.0.1"}, "HOST:PORT"),
        ({"address": "10.0.0.1:0"}, "port"),
        ({"secret": "A" * 64}, "64 hexadecimal"),
        ({"secret": "a" * 63}, "64 hexadecimal"),
        ({"authority": "a file"}, "PEM"),
    ],
)
def test_a_holder_that_cannot_be_is_refused(changed: dict[str, str], said: str) -> None:
    good = {"name": "one", "address": "10.0.0.1:7070", "secret": "a" * 64}
    with pytest.raises(ValueError, match=said):
        Holder(**(good | changed))


def test_a_holders_secret_is_not_shown() -> None:
    assert "a" * 64 not in repr(Holder(name="one", address="10.0.0.1:7070", secret="a" * 64))

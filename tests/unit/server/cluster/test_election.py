"""Who leads: one at a time, another soon after the leader is gone, and nobody leads without the lease."""

import asyncio
from collections.abc import Callable

import pytest

from zowarmup.server.cluster import election
from zowarmup.server.cluster.election import Election
from zowarmup.server.store.event_log import Fenced, LedgerError
from zowarmup.server.store.lease import Held, Holder, MemoryLease

LASTS_S = 0.2


def holder(name: str) -> Holder:
    return Holder(name=name, address="127.0.0.1:7070", secret="0" * 64)


class Store(MemoryLease):
    """A lease by a clock that is moved by hand, in a store that can be away."""

    def __init__(self) -> None:
        self.now, self.away = 0.0, False
        super().__init__(lambda: self.now)

    def look(self) -> Held | None:
        self._answer()
        return super().look()

    def renew(self, epoch: int, lasts_s: float) -> None:
        self._answer()
        super().renew(epoch, lasts_s)

    def _answer(self) -> None:
        if self.away:
            raise LedgerError("the store is away")


def one(store: Store, name: str, told: list[str]) -> Election:
    return Election(store, holder(name), LASTS_S, lambda held: told.append(held.holder.name if held else "nobody"))


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60.0):
        while not holds():
            await asyncio.sleep(0.005)


def test_the_first_leads_and_the_others_hear_of_it() -> None:
    async def script() -> None:
        store, told = Store(), list[str]()
        first, second = one(store, "first", told), one(store, "second", told)
        await first.begin()
        await second.begin()
        assert (first.epoch, second.epoch, told) == (1, 0, ["first"])
        assert first.took.is_set() and not second.took.is_set()
        await second.begin()
        assert told == ["first"], "said once"

    asyncio.run(script())


def test_another_leads_when_the_lease_has_run_out_and_the_first_learns_of_it() -> None:
    async def script() -> None:
        store, told = Store(), list[str]()
        first, second = one(store, "first", told), one(store, "second", told)
        await first.begin()
        await second.begin()
        following = asyncio.create_task(second.run())
        store.now = LASTS_S + 0.01  # the first is paused
        await until(second.took.is_set)
        assert second.epoch == 2
        with pytest.raises(Fenced, match="epoch 2"):
            await first.run()
        following.cancel()

    asyncio.run(script())


def test_a_leader_without_its_store_goes_on_and_renews_when_that_is_back(caplog: pytest.LogCaptureFixture) -> None:
    async def script() -> None:
        store, told = Store(), list[str]()
        first = one(store, "first", told)
        await first.begin()
        leading = asyncio.create_task(first.run())
        store.away, store.now = True, 100.0
        await until(lambda: "the lease cannot be read" in caplog.text)
        assert not leading.done() and first.epoch == 1
        store.away = False
        await until(lambda: (held := store.look()) is not None and held.expires_in_s > 0)
        leading.cancel()

    asyncio.run(script())


def test_a_lease_that_is_given_up_is_another_s_at_once() -> None:
    async def script() -> None:
        store, told = Store(), list[str]()
        first, second = one(store, "first", told), one(store, "second", told)
        await first.begin()
        await second.begin()
        await first.leave()
        await second.begin()
        assert (first.epoch, second.epoch) == (0, 2)
        await second.leave()

    asyncio.run(script())


def test_a_lease_is_renewed_several_times_before_it_would_run_out() -> None:
    assert election.RENEWALS >= 3 and election.LOOKS >= election.RENEWALS

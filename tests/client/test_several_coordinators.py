"""A client that is told of several coordinators goes on at another when its own breaks or stops: real processes, and links that
are cut before a coordinator that they share, as coordinators share what they keep.

Which to take is decided in `zowarmup.client.net.choice`.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import grpc
import pytest

from tests.client.conftest import Run, Scripted, Start, Talk, one_sentence
from tests.client.test_outages import FETCH, GIVEN, WELCOME, free_port, idle, over
from tests.faults.proxy import Link
from zowarmup.common.messages import codec
from zowarmup.common.messages.values import Phase


class Pair:
    """Two addresses of one coordinator."""

    def __init__(self, port: int) -> None:
        self.links = [Link(f"127.0.0.1:{port}") for _ in range(2)]
        self.option = ("--server", ",".join(link.address for link in self.links))

    @property
    def used(self) -> Link:
        """The one over which something has come, while it is the only one."""
        (used,) = (link for link in self.links if link.bytes_up)
        return used

    @property
    def unused(self) -> Link:
        (unused,) = (link for link in self.links if not link.bytes_up)
        return unused


@pytest.fixture
def pairs() -> Iterator[list[Pair]]:
    made: list[Pair] = []
    yield made
    for pair in made:
        for link in pair.links:
            link.__exit__()


def pair(pairs: list[Pair], port: int) -> Pair:
    pairs.append(Pair(port))
    return pairs[-1]


def left(pairs: list[Pair]) -> None:
    """The address that the client uses is gone."""
    pairs[-1].used.cut()


def test_one_that_breaks_in_the_middle_of_work_is_left_for_the_other(
    run: Run, scripted: Scripted, start: Start, pairs: list[Pair]
) -> None:
    said = []

    async def first(talk: Talk) -> None:
        await talk.hear("hello")
        await talk.say(welcome=WELCOME)
        await talk.say(fetch=FETCH)
        await talk.say(work=codec.work_to_wire(GIVEN))
        said.append(await talk.hear("scalars"))
        left(pairs)

    async def second(talk: Talk) -> None:
        hello = await talk.hear("hello")
        assert (hello.version, len(hello.digest)) == (1, 16)
        await talk.say(welcome=WELCOME)
        await talk.say(work=codec.work_to_wire(GIVEN))
        said.append(await talk.hear("scalars"))
        await over(talk, run)

    async def scenario() -> None:
        scripted.parts = [first, second]
        async with scripted.listening() as port:
            two = pair(pairs, port)
            client = await start(port, *two.option)
            await client.printed("joined digits as pi")
            lost, taken = two.used, two.unused
            assert await client.ended() == 0
        assert f"lost {lost.address}" in client.log and f"will go on with {taken.address}" in client.log
        assert f"back with {taken.address}" in client.log
        assert client.log.count("round 1: contributed") == 1

    asyncio.run(scenario())
    assert said[0] == said[1]
    assert scripted.fetches == [("snapshot", 1, 0), ("program", 0, 0)], "nothing is fetched again"


def test_one_that_stops_is_left_for_the_other_though_it_still_answers(
    run: Run, scripted: Scripted, start: Start, pairs: list[Pair]
) -> None:
    async def stopping(talk: Talk) -> None:
        await talk.hear("hello")
        await talk.say(welcome=WELCOME)
        await talk.refuse(grpc.StatusCode.UNAVAILABLE, "the coordinator is stopping", "stopping")

    async def other(talk: Talk) -> None:
        await talk.hear("hello")
        await talk.say(welcome=WELCOME)
        await talk.say(fetch=FETCH)
        await over(talk, run)

    async def scenario() -> None:
        scripted.parts = [stopping, other]
        async with scripted.listening() as port:
            two = pair(pairs, port)
            client = await start(port, *two.option)
            assert await client.ended() == 0
            assert all(link.bytes_up for link in two.links)
        assert "(the coordinator is stopping); will go on with 127.0.0.1:" in client.log

    asyncio.run(scenario())


def test_an_upload_and_a_fetch_go_on_at_the_other_from_where_they_were(
    run: Run, scripted: Scripted, start: Start, pairs: list[Pair]
) -> None:
    async def first(talk: Talk) -> None:
        await talk.hear("hello")
        await talk.say(welcome={**WELCOME, "phase": "PHASE_WARM_UP"})
        await talk.say(work=codec.work_to_wire(replace(GIVEN, phase=Phase.WARM_UP)))
        while len(scripted.delta) < 3000:
            await asyncio.sleep(0.02)
        left(pairs)

    async def second(talk: Talk) -> None:
        await talk.hear("hello")
        await talk.say(welcome={**WELCOME, "phase": "PHASE_WARM_UP"})
        await talk.say(work=codec.work_to_wire(replace(GIVEN, phase=Phase.WARM_UP)))
        assert (await talk.hear("delta_ready")).round == 1
        await talk.say(accepted={"round": 1})
        await talk.hear("report")
        await over(talk, run)

    async def scenario() -> None:
        scripted.parts = [first, second]
        scripted.breaks = [5000, 10**9, 3000]  # the snapshot's two parts, and then the upload
        async with scripted.listening() as port:
            two = pair(pairs, port)
            client = await start(port, *two.option, tier="high")
            assert await client.ended() == 0
        assert "will go on with" in client.log

    asyncio.run(scenario())
    assert scripted.fetches == [("snapshot", 1, 0), ("snapshot", 1, 5000)]
    assert scripted.uploads[0] == 0 and scripted.uploads[-1] >= 3000
    assert len(scripted.delta) == 4 * run.layout.size


def test_any_that_answers_is_joined(scripted: Scripted, start: Start) -> None:
    async def scenario() -> None:
        scripted.parts = [idle]
        dead = [free_port() for _ in range(3)]
        async with scripted.listening() as port:
            servers = ",".join(f"127.0.0.1:{one}" for one in (*dead, port))
            client = await start(port, "--server", servers)
            await client.printed("joined digits as pi")
            assert await client.stopped() == 0

    asyncio.run(scenario())


def test_where_none_answers_all_are_named(start: Start) -> None:
    async def scenario() -> None:
        servers = [f"127.0.0.1:{free_port()}" for _ in range(2)]
        client = await start(1, "--server", ",".join(servers), "--connect-timeout", "0.5")
        assert await client.ended() == 1
        said = one_sentence(client.log)
        assert f"no coordinator answered at {', '.join(servers)} within 0.5 s" in said

    asyncio.run(scenario())


def test_a_wrong_one_among_several_is_named(start: Start) -> None:
    async def scenario() -> None:
        client = await start(1, "--server", "127.0.0.1:1,nowhere")
        assert await client.ended() == 2
        assert "argument --server: 'nowhere' must be HOST:PORT" in client.log

    asyncio.run(scenario())

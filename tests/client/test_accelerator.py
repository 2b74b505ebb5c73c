"""A client that probes by torch, `--device`: the processor is a device of torch's too (cpu:0), so this runs anywhere."""

import asyncio
from typing import Any

import numpy as np

from tests.client.conftest import Run, Scripted, Start, Talk, one_sentence
from tests.client.test_probing import Reference, finish, welcome, work
from zowarmup.common.messages import codec


def test_probes_by_torch_on_a_device(run: Run, scripted: Scripted, start: Start) -> None:
    """The scalars are ONNX Runtime's but for rounding, and the replica is the run's at the end."""
    reference = Reference(run)

    async def part(talk: Talk) -> None:
        await talk.hear("hello")
        await talk.say(welcome=welcome())
        await talk.say(fetch={"version": 1, "reason": "the pivot"})
        for number in (1, 2):
            given = work(number, number)
            await talk.say(work=codec.work_to_wire(given))
            found, wanted = codec.scalars_from_wire(await talk.hear("scalars")), reference.scalars(given)
            np.testing.assert_allclose(found.probes, wanted.probes, rtol=1e-2, atol=1e-2)
            np.testing.assert_allclose(found.projections, wanted.projections, rtol=1e-3, atol=1e-4)
            await talk.say(accepted={"round": given.round})
            if number == 1:
                await talk.hear("report")
            commit = reference.commit(given, found)
            await talk.say(commit=codec.commit_to_wire(commit, run.layout))
        await finish(talk, run, reference)

    async def play() -> Any:
        scripted.parts = [part]
        async with scripted.listening() as port:
            client = await start(port, "--device", "cpu:0", tier="high")
            await scripted.played.wait()
            assert await client.ended() == 0, client.log
            return client

    client = asyncio.run(play())
    assert "(the run's own)" in client.log
    assert [what for what, *_ in scripted.fetches] == ["snapshot"], "torch has the model's code: no program is fetched"


def test_it_is_for_the_high_tier(scripted: Scripted, start: Start) -> None:
    async def play() -> Any:
        async with scripted.listening() as port:
            client = await start(port, "--device", "cuda")
            assert await client.ended() == 1
            return client

    client = asyncio.run(play())
    assert one_sentence(client.log).startswith("--device cuda is for the high tier")
    assert scripted.enrolments == []

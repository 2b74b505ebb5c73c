"""A real device under differential privacy: what it sends again is what it sent, its budget ends, and its owner's bound holds."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.algorithms import changed
from tests.client.conftest import Client, Run, Scripted, Start, Talk, one_sentence
from tests.client.test_policy import begin, policy, work
from zowarmup.common.messages import codec
from zowarmup.common.messages.values import Scalars
from zowarmup.common.settings.privacy import Privacy


@pytest.fixture
def private(run: Run) -> Scripted:
    rounds = changed(run.spec.zeroth_order, slices="whole", whitening=0, rounds=10)
    privacy = Privacy(mode="local", epsilon=8.0, releases=2)
    spec = replace(run.spec, zeroth_order=rounds, warmup=changed(run.spec.warmup, rounds=0), privacy=privacy)
    coordinator = Scripted(replace(run, spec=spec))
    coordinator.snapshots[1] = run.weights.tobytes()
    return coordinator


def test_what_is_asked_for_again_is_answered_by_the_same_numbers_and_the_budget_ends(
    private: Scripted, start: Start, tmp_path: Path
) -> None:
    heard: list[Scalars] = []
    reasons: list[str] = []
    clients: list[Client] = []

    async def asks(talk: Talk, number: int) -> None:
        await begin(talk, **work(number))
        heard.append(codec.scalars_from_wire(await talk.hear("scalars")))

    async def first(talk: Talk) -> None:
        await asks(talk, 1)
        count = json.loads((tmp_path / "state/releases.json").read_text())["count"]
        assert count == 1, "on disk before it left"
        clients[0].process.kill()

    async def second(talk: Talk) -> None:
        await asks(talk, 1)
        await talk.say(**work(2))
        heard.append(codec.scalars_from_wire(await talk.hear("scalars")))
        await talk.say(**work(3))
        reasons.append(str((await talk.hear("abstention")).reason))
        await talk.end()

    async def scenario() -> None:
        private.parts = [first, second]
        async with private.listening() as port:
            clients.append(await start(port))
            await clients[0].ended()
            clients.append(await start(port))
            assert await clients[1].ended() == 1
        spent = private.run.spec.privacy.budget(10).spent(1)
        assert f"differential privacy: {spent}" in clients[1].log

    asyncio.run(scenario())
    assert heard[0] == heard[1]
    assert replace(heard[2], round=1) != heard[0]
    assert reasons[0].startswith(
        "this device has used its privacy budget: epsilon 8 of 8 at delta 1e-05, 2 of 2 releases"
    )


@pytest.mark.parametrize(
    ("text", "off", "tier", "words"),
    [
        (
            "epsilon = 2",
            False,
            "low",
            "up to epsilon 8, and this device's owner allows epsilon 2 at delta 1e-05 (--policy)",
        ),
        ("epsilon = 8.1\ndelta = 1e-8", False, "low", "and this device's owner allows epsilon 8.1 at delta 1e-08"),
        ("epsilon = 9", True, "low", "without a bound, as it has no differential privacy, and this device's owner"),
        (
            "secure_aggregation = true",
            False,
            "low",
            "the run has no secure aggregation, and this device's owner joins none",
        ),
    ],
)
def test_a_run_that_would_tell_more_than_its_owner_allows_is_not_joined(
    private: Scripted, start: Start, tmp_path: Path, text: str, off: bool, tier: str, words: str
) -> None:
    if off:
        private.run = replace(private.run, spec=replace(private.run.spec, privacy=Privacy()))

    async def scenario() -> None:
        async with private.listening() as port:
            client = await start(port, *policy(tmp_path, text), tier=tier)
            assert await client.ended() == 1
        assert words in one_sentence(client.log)
        assert private.enrolments == []

    asyncio.run(scenario())


def test_a_warm_up_that_is_said_to_be_public_is_not_so_for_an_owner_with_a_bound(
    private: Scripted, start: Start, tmp_path: Path
) -> None:
    spec = private.run.spec
    public = replace(spec, warmup=changed(spec.warmup, rounds=2), privacy=replace(spec.privacy, warmup_data="public"))
    private.run = replace(private.run, spec=public)

    async def scenario() -> None:
        async with private.listening() as port:
            client = await start(port, *policy(tmp_path, "epsilon = 8.1"), tier="high")
            assert await client.ended() == 1
        assert "the run's warm-up trains on this device's data" in one_sentence(client.log)

    asyncio.run(scenario())

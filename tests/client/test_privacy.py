"""A real device under differential privacy: what it sends again is what it sent, its budget ends, and its owner's bound holds."""

import asyncio
import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.algorithms import changed
from tests.client.conftest import DATA, HEARING_S, Client, Run, Scripted, Start, Talk, one_sentence
from tests.client.mixing_programs import failing
from tests.client.test_policy import begin, policy, work
from tests.words import tokenizer
from zowarmup.client.errors import PRIVATELY
from zowarmup.common.messages import codec
from zowarmup.common.messages.values import Phase, Scalars, Work
from zowarmup.common.secure_aggregation.roster import RosterMember, asked
from zowarmup.common.settings.privacy import Privacy
from zowarmup.common.settings.text import Text
from zowarmup.data import load
from zowarmup.data.card import card_of


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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epsilon = 8.1", "the run's warm-up trains on this device's data"),
        ("secure_aggregation = true", "the run's warm-up has no secure aggregation"),
    ],
)
def test_a_warm_up_that_is_said_to_be_public_is_not_so_for_an_owner_with_a_bound(
    private: Scripted, start: Start, tmp_path: Path, text: str, words: str
) -> None:
    spec = private.run.spec
    privacy = replace(spec.privacy, warmup_data="public", secure_aggregation=True)
    shared = changed(spec.zeroth_order, "decomfl")
    public = replace(spec, warmup=changed(spec.warmup, rounds=2), zeroth_order=shared, privacy=privacy)
    private.run = replace(private.run, spec=public)

    async def scenario() -> None:
        async with private.listening() as port:
            client = await start(port, *policy(tmp_path, text), tier="high")
            assert await client.ended() == 1
        assert words in one_sentence(client.log)

    asyncio.run(scenario())


@pytest.mark.parametrize("why", ["the program fails", "time"])
def test_a_device_whose_passes_fail_answers_all_the_same_and_says_so_in_its_own_log_alone(
    private: Scripted, start: Start, tmp_path: Path, why: str
) -> None:
    """At most of its examples, or at all: where they have a pixel that is white, or are too slow for its owner."""
    text = ""
    if why == "time":
        text = "contribution_s = 0.001"
    else:
        private.run = replace(private.run, program=failing(private.run.program, 1.0))
    heard: list[Scalars] = []

    async def part(talk: Talk) -> None:
        await begin(talk, **work(1))
        heard.append(codec.scalars_from_wire(await talk.hear("scalars")))
        await talk.say(accepted={"round": 1})
        assert (await talk.hear("report")).peak_memory_bytes == 0
        await talk.say(finished={"version": 1})
        await talk.hear("report")
        await talk.end()

    async def scenario() -> None:
        private.parts = [part]
        async with private.listening() as port:
            client = await start(port, *policy(tmp_path, text))
            assert await client.ended() == 0, client.log
        assert f" of {len(load(DATA))} examples failed and count as nothing in it; the first: " in client.log

    asyncio.run(scenario())
    assert any(heard[0].projections)
    assert json.loads((tmp_path / "state/releases.json").read_text())["count"] == 1


def test_a_device_signs_what_it_was_asked_with_its_keys(private: Scripted, start: Start) -> None:
    """So no other device hides it among such as were asked about other weights, or of another run, by the same coordinator."""
    privacy = Privacy(secure_aggregation=True)
    spec = replace(private.run.spec, zeroth_order=changed(private.run.spec.zeroth_order, "decomfl"), privacy=privacy)
    private.run = replace(private.run, spec=spec)
    private.snapshots[2] = (private.run.weights / 2).tobytes()
    heard: list[bytes] = []

    async def part(talk: Talk) -> None:
        await begin(talk, **work(1))
        heard.append((await talk.hear("keys")).keys)
        await talk.say(fetch={"version": 2, "reason": "a test"})
        await talk.say(work=codec.work_to_wire(Work(2, Phase.ZEROTH_ORDER, 2, 7, 3600.0, done=1)))
        heard.append((await talk.hear("keys")).keys)
        await talk.say(finished={"version": 2})
        await talk.hear("report")
        await talk.end()

    async def scenario() -> None:
        private.parts = [part]
        async with private.listening() as port:
            client = await start(port)
            assert await client.ended() == 0, client.log

    asyncio.run(scenario())
    run = private.run
    said = [spec.to_json().encode(), run.layout.to_json().encode(), hashlib.sha256(run.program).digest()]
    offer = hashlib.sha256(b"".join(len(part).to_bytes(4, "little") + part for part in said)).digest()
    for keys, (version, seed, done) in zip(heard, [(1, 1001, 0), (2, 7, 1)], strict=True):
        weights = hashlib.sha256(private.snapshots[version]).digest()
        member = RosterMember("pi", len(load(DATA)), private.enrolments[0].identity, keys)
        assert member.asked == asked(offer, version, weights, seed, done, 1.0)
        assert member.is_signed("run-1", version)


def test_a_client_imports_nothing_that_only_secure_aggregation_needs() -> None:
    """Nor torch or what else is for others: what a device without it holds in memory is the same as before there was any."""
    code = "import sys, zowarmup.client.main, zowarmup.client.participation; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert "zowarmup.client.work.device" in imported
    for name in (
        "cryptography",
        "scipy",
        "torch",
        "zowarmup.client.work.masking",
        "zowarmup.common.secure_aggregation.device",
    ):
        assert name not in imported


SECRET = "Ada owes 4711 to the baker"


def silent_for(pattern: str) -> bytes:
    """A tokenizer.json that makes nothing of the texts that match a pattern, and no special tokens."""
    made = json.loads(tokenizer("a fine dull film"))
    pieces = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    made["post_processor"] |= {"single": pieces[:1], "pair": pieces, "special_tokens": {}}
    made["normalizer"] = {"type": "Replace", "pattern": {"Regex": f".*{pattern}.*"}, "content": ""}
    return json.dumps(made).encode()


@pytest.mark.parametrize("mode", ["off", "local"])
@pytest.mark.parametrize("tokens", ["none", "an error"])
def test_no_word_of_a_text_leaves_whatever_the_coordinators_tokenizer_does(
    run: Run, start: Start, tmp_path: Path, mode: Literal["off", "local"], tokens: str
) -> None:
    """It makes no token of one text, or fails on it. A private device goes on, so that it says nothing of that text either."""
    file = tmp_path / "texts.tsv"
    file.write_text(f"label\ttext\nbad\ta dull film\ngood\t{SECRET}\n")
    made = silent_for("4711") if tokens == "none" else silent_for("nowhere").replace(b'"[UNK]"}', b'"absent"}')
    card = card_of(load(f"tsv:{file}"), "texts", Text().most_tokens)
    privacy = Privacy(mode=mode, epsilon=8.0 * (mode != "off"), warmup_data="public")
    spec = replace(run.spec, card=card, zeroth_order=changed(run.spec.zeroth_order, slices="whole"), privacy=privacy)
    coordinator = Scripted(replace(run, spec=spec), artifacts={"tokenizer": made})
    coordinator.snapshots[1] = run.weights.tobytes()
    reasons: list[str] = []

    async def part(talk: Talk) -> None:
        await talk.hear("hello")
        await talk.say(welcome={"epoch": 1, "phase": "PHASE_WARM_UP", "version": 1})
        await talk.say(work=codec.work_to_wire(Work(1, Phase.WARM_UP, 1, 55, 3600.0)))
        found = await talk.hear("abstention", "delta_ready")
        reasons.append(getattr(found, "reason", PRIVATELY))

    async def scenario() -> None:
        coordinator.parts = [part]
        async with coordinator.listening() as port:
            client = await start(port, data=f"tsv:{file}", tier="high")
            if mode == "off":
                assert await client.ended() == 1
                assert "this device's texts cannot be read: " in client.log
            else:
                await asyncio.wait_for(coordinator.played.wait(), HEARING_S)
                await client.stopped()
                assert "texts cannot be read" not in client.log
        assert coordinator.failures == []

    asyncio.run(scenario())
    said = "this device's texts cannot be read by the run's template and tokenizer, and its own log says why"
    assert reasons == [said if mode == "off" else PRIVATELY]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"privacy": Privacy()}, 'privacy was {"clip": 1.0'),
        ({"privacy": Privacy(mode="local", epsilon=8.0, releases=4)}, "privacy.releases was 2 and is 4"),
        ({"program": b"another"}, "sha256.program was "),
    ],
)
def test_a_run_that_is_not_what_it_was_when_the_device_came_is_left(
    private: Scripted, start: Start, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    """So neither a bare scalar nor another budget, nor whether its data suit another card, is had by a restart."""

    async def comes(talk: Talk) -> None:
        await talk.hear("hello")
        await talk.say(finished={"version": 1})
        await talk.end()

    async def scenario() -> None:
        private.parts = [comes, comes]
        async with private.listening() as port:
            assert await (await start(port)).ended() == 0
            private.low_memory_bytes += 1  # as measured anew: nothing that decides what is computed
            assert await (await start(port)).ended() == 0
            run = private.run
            if "program" in change:
                private.run = replace(run, **change)
            else:
                private.run = replace(run, spec=replace(run.spec, **change))
            client = await start(port)
            assert await client.ended() == 1
        said = one_sentence(client.log)
        assert said.startswith("the coordinator offers another run than this device came for: ") and words in said
        assert "enrol anew with another --state-dir" in said

    asyncio.run(scenario())

"""What a device's owner allows holds, whatever the coordinator asks; and both sides hear why something is refused."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.algorithms import changed
from tests.client.conftest import HEARING_S, Client, Run, Scripted, Start, Talk, one_sentence, prepared
from tests.client.hostile_programs import cumbersome, endless, greedy
from tests.client.test_hostile_programs import prying
from zowarmup.client.net.connection import MOST_BULK_FIELDS
from zowarmup.common.exact.layout import Block, Layout, Tensor
from zowarmup.common.messages import codec
from zowarmup.common.messages.values import Phase, Work
from zowarmup.common.settings.run import Model
from zowarmup.v1 import coordinator_pb2 as wire

WELCOME = {"epoch": 1, "phase": "PHASE_ZEROTH_ORDER", "version": 1}
MODULE = """
from pathlib import Path
from torch import nn
Path(__file__).with_name("imported").touch()
def tiny(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, classes))
"""


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> Run:
    """A run of a model that is on the device's import path, and that is no device's business until it is allowed."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "their_models.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(code))
    monkeypatch.syspath_prepend(str(code))
    made = prepared(Model(name="their_models:tiny"))
    (code / "imported").unlink()
    return made


def work(number: int, phase: Phase = Phase.ZEROTH_ORDER) -> dict[str, Any]:
    return {"work": codec.work_to_wire(Work(number, phase, 1, 1000 + number, 3600.0))}


async def begin(talk: Talk, **asked: Any) -> None:
    hello = await talk.hear("hello")
    await talk.say(welcome=WELCOME)
    if hello.version != 1:
        await talk.say(fetch={"version": 1, "reason": "it holds no replica"})
    await talk.say(**asked)


async def reason_of(talk: Talk) -> str:
    return str((await talk.hear("abstention")).reason)


def policy(tmp_path: Path, text: str) -> tuple[str, str]:
    (tmp_path / "policy.toml").write_text(text)
    return "--policy", str(tmp_path / "policy.toml")


def test_a_coordinators_model_is_imported_only_where_it_is_allowed(theirs: Run, start: Start, tmp_path: Path) -> None:
    imported = tmp_path / "code/imported"
    refusal = "this device does not run the code of model their_models:tiny: its owner can allow it with --allow-model"
    reasons: list[str] = []
    scripted = Scripted(theirs)
    scripted.snapshots[1] = theirs.weights.tobytes()

    async def trains(talk: Talk) -> None:
        await begin(talk, **work(1, Phase.WARM_UP))
        await talk.hear("delta_ready")
        await talk.end()

    async def refuses(talk: Talk) -> None:
        await begin(talk, **work(2, Phase.WARM_UP))
        reasons.append(await reason_of(talk))
        await talk.end()

    async def idle(talk: Talk) -> None:
        await talk.hear("hello")
        await talk.say(welcome=WELCOME)
        await talk.end()

    async def scenario() -> None:
        async with scripted.listening() as port:
            client = await start(port, tier="high")
            assert await client.ended() == 1
            assert one_sentence(client.log).startswith(refusal)
            assert scripted.enrolments == []
            scripted.parts = [idle]
            client = await start(port, "--state-dir", str(tmp_path / "other"), tier="auto")
            await client.printed(f"(tier low: {refusal}")
            await client.stopped()
            assert not imported.exists()
            scripted.parts = [trains]
            client = await start(port, "--allow-model", "their_models:tiny", tier="high")
            await client.printed("round 1: contributed")
            await client.stopped()
            assert imported.exists()
            imported.unlink()
            scripted.parts = [refuses]
            client = await start(port, tier="high")
            assert await client.ended() == 1
            assert one_sentence(client.log).startswith(refusal)
            assert not imported.exists()

    asyncio.run(scenario())
    assert scripted.failures == []
    (reason,) = reasons
    assert reason.startswith(refusal)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "program_mb = 0.001",
            "the run's program has .* this device takes at most 1 kB: its owner can raise program_mb",
        ),
        (
            "snapshot_mb = 0.002",
            "the run's model has .* this device takes at most 2 kB: its owner can raise snapshot_mb",
        ),
        ('models = ["cnn:"]', "models: 'cnn:' is none of mlp, cnn, .*or package.module:factory"),
        ('models = "mlp"', "models = 'mlp': must be a list of names"),
        ("program_mb = true", "program_mb = True: must be a number"),
        ("probes = 1.5", "probes = 1.5: must be a whole number"),
        ("speed = 1", "there is no field 'speed'"),
        ("forward_s = 0", "forward_s = 0: must be 0.001 to 1e9"),
        ("=", "--policy .*policy.toml: "),
    ],
)
def test_what_is_too_large_and_what_is_no_policy_is_said_before_joining(
    scripted: Scripted, start: Start, tmp_path: Path, text: str, words: str
) -> None:
    async def scenario() -> None:
        large = replace(scripted.run, program=scripted.run.program + bytes(1000))
        scripted.run = large
        async with scripted.listening() as port:
            client = await start(port, *policy(tmp_path, text))
            assert await client.ended() == 1
        assert re.search(words, one_sentence(client.log))
        assert scripted.enrolments == []

    asyncio.run(scenario())


def test_a_model_that_no_memory_holds_is_refused_in_a_sentence(scripted: Scripted, start: Start) -> None:
    size = 1 << 50
    layout = Layout((Tensor("w", (size,), 0),), size, size, (Block("all", 0, size),))
    scripted.run = replace(scripted.run, layout=layout)

    async def scenario() -> None:
        async with scripted.listening() as port:
            client = await start(port)
            assert await client.ended() == 1
        assert "the run's model has" in one_sentence(client.log)

    asyncio.run(scenario())


class Flooding(Scripted):
    """Sends what it has announced, and goes on."""

    sent = 0

    async def FetchArtifact(self, request: wire.FetchArtifactRequest, context: Any) -> AsyncIterator[Any]:
        while self.sent < 64 << 20:
            self.sent += 1 << 20
            yield wire.FetchArtifactResponse(chunk=bytes(1 << 20))

    async def _chunks(self, content: bytes, offset: int, context: Any) -> AsyncIterator[bytes]:
        yield content
        while self.sent < 64 << 20:
            self.sent += 1 << 20
            yield bytes(1 << 20)


@pytest.mark.parametrize("what", ["the program", "snapshot 1"])
def test_a_download_stops_at_the_announced_size(run: Run, start: Start, tmp_path: Path, what: str) -> None:
    flooding = Flooding(run)
    flooding.snapshots[1] = run.weights.tobytes()
    reasons: list[str] = []
    if what == "the program":  # the snapshot comes as it should
        chunks = Scripted._chunks
        flooding._chunks = lambda *given: chunks(flooding, *given)  # type: ignore[method-assign]

    async def part(talk: Talk) -> None:
        await begin(talk, **work(1))
        if what == "the program":
            reasons.append(await reason_of(talk))
        await talk.end()

    async def scenario() -> None:
        flooding.parts = [part]
        async with flooding.listening() as port:
            client = await start(port)
            assert await client.ended() == 1
        assert f"the coordinator sends more of {what} than the" in one_sentence(client.log)
        assert all(what in reason for reason in reasons)

    asyncio.run(scenario())
    held = sum(file.stat().st_size for file in (tmp_path / "state").iterdir())
    assert held < 2 * run.weights.nbytes


class Crumbling(Scripted):
    """Sends a header that is small, and parsed would be large: of many parts with nothing in them."""

    async def FetchSnapshot(self, request: wire.FetchSnapshotRequest, context: Any) -> AsyncIterator[Any]:
        if not self.fetches:
            self.fetches.append(("snapshot", request.version, request.offset_bytes))
            parts = [wire.GridRange()] * (MOST_BULK_FIELDS + 1)
            yield wire.FetchSnapshotResponse(header=wire.SnapshotHeader(version=1, grid_ranges=parts))
        async for answer in super().FetchSnapshot(request, context):
            yield answer


def test_an_answer_of_very_many_parts_is_not_parsed(run: Run, start: Start) -> None:
    crumbling = Crumbling(run)
    crumbling.snapshots[1] = run.weights.tobytes()

    async def part(talk: Talk) -> None:
        await begin(talk, **work(1))
        await talk.hear("scalars")
        await talk.end()

    async def scenario() -> None:
        crumbling.parts = [part]
        async with crumbling.listening() as port:
            client = await start(port)
            await client.printed("contributed")
            assert await client.stopped() == 0
        assert "cannot read (an answer to FetchSnapshot: 131080 bytes with more than 65,536 fields" in client.log
        assert not crumbling.failures

    asyncio.run(scenario())


def resident_peak(client: Client) -> int:
    status = dict(line.split(":") for line in Path(f"/proc/{client.process.pid}/status").read_text().splitlines())
    return 1024 * int(status["VmHWM"].split()[0])


BOMBS = {
    "memory": (greedy(400_000_000), "forward_memory_mb = 64", "a forward pass takes more than the 64 MB that this"),
    "loading": (
        cumbersome(150),
        "forward_s = 0.3",
        "loading the program takes longer than the 0.3 s that this device",
    ),
    # Loading takes as long where the machine is busy.
    "time": (endless(9_000), "forward_s = 4", "takes longer than the 4 s that this device allows"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_forward_pass_ends_at_its_memory_and_its_time(
    name: str, scripted: Scripted, start: Start, tmp_path: Path
) -> None:
    program, text, words = BOMBS[name]
    scripted.run = prying(program.SerializeToString())
    scripted.snapshots[1] = scripted.run.weights.tobytes()
    peaks: list[int] = []
    clients: list[Client] = []

    async def part(talk: Talk) -> None:
        await begin(talk, **work(1))
        assert words in await reason_of(talk)
        peaks.append(resident_peak(clients[0]))
        await talk.end()

    async def scenario() -> None:
        scripted.parts = [part]
        async with scripted.listening() as port:
            clients.append(await start(port, *policy(tmp_path, text)))
            await clients[0].printed("will try again in")
            await clients[0].stopped()
        assert words in clients[0].log

    asyncio.run(scenario())
    assert peaks[0] < 300_000_000


def test_memory_that_was_refused_once_is_refused_again(scripted: Scripted, start: Start, tmp_path: Path) -> None:
    """The first pass takes all that there is, and fails; the limit holds for the next one as well."""
    scripted.run = prying(greedy(14_000_000).SerializeToString())
    scripted.snapshots[1] = scripted.run.weights.tobytes()
    words = "a forward pass takes more than the 64 MB that this"

    async def part(talk: Talk, number: int) -> None:
        await begin(talk, **work(number))
        assert words in await reason_of(talk)
        await talk.end()

    async def scenario() -> None:
        scripted.parts = [lambda talk: part(talk, 1), lambda talk: part(talk, 2)]
        async with scripted.listening() as port:
            client = await start(port, *policy(tmp_path, "forward_memory_mb = 64"))
            await client.printed("round 2: nothing to contribute")
            await client.stopped()

    asyncio.run(scenario())
    assert scripted.failures == []


def test_a_device_answers_so_many_probes_a_day_also_after_a_restart(
    scripted: Scripted, start: Start, tmp_path: Path
) -> None:
    """A round takes 12: 8 probes and 4 projections of the head's gradient."""
    given = policy(tmp_path, "probes_per_day = 30")
    settled, told = asyncio.Event(), asyncio.Event()
    words = "this device has answered 24 probes today, of 30 a day (--policy)"

    async def answers(talk: Talk, number: int) -> None:
        await begin(talk, **work(number))
        await talk.hear("scalars")
        await talk.say(accepted={"round": number})
        await talk.hear("report")

    async def one(talk: Talk) -> None:
        await answers(talk, 1)
        settled.set()
        await talk.end()

    async def two(talk: Talk) -> None:
        await answers(talk, 2)
        await talk.say(**work(3))
        assert await reason_of(talk) == words
        told.set()
        await talk.end()

    async def scenario() -> None:
        async with scripted.listening() as port:
            scripted.parts = [one]
            client = await start(port, *given)
            await asyncio.wait_for(settled.wait(), HEARING_S)
            await client.stopped()
            scripted.parts = [two]
            client = await start(port, *given)
            await client.printed(f"{words}; will try again in")
            await asyncio.wait_for(told.wait(), HEARING_S)
            await client.stopped()

    asyncio.run(scenario())
    usage = json.loads((tmp_path / "state/usage.json").read_text())
    assert (usage["probes"], usage["probes_in_all"]) == (24, 24)
    assert usage["bytes"] > scripted.run.weights.nbytes


def test_a_device_leaves_once_it_has_answered_all_that_it_ever_will(
    scripted: Scripted, start: Start, tmp_path: Path
) -> None:
    async def part(talk: Talk) -> None:
        await begin(talk, **work(1))
        assert await reason_of(talk) == "this device has answered 0 probes, of 11 in all (--policy)"
        await talk.end()

    async def scenario() -> None:
        scripted.parts = [part]
        async with scripted.listening() as port:
            client = await start(port, *policy(tmp_path, "probes = 11"))
            assert await client.ended() == 1
        assert one_sentence(client.log) == "this device has answered 0 probes, of 11 in all (--policy)"

    asyncio.run(scenario())


def test_no_more_goes_over_the_network_than_a_day_allows(scripted: Scripted, start: Start, tmp_path: Path) -> None:
    async def part(talk: Talk) -> None:
        await talk.hear("hello")
        await talk.say(welcome=WELCOME)
        await talk.say(fetch={"version": 1, "reason": "it holds no replica"})
        await talk.end()

    async def scenario() -> None:
        scripted.parts = [part]
        async with scripted.listening() as port:
            client = await start(port, *policy(tmp_path, "mb_per_day = 0.01"))
            await client.printed("this device's 10 kB of today are used up (mb_per_day in --policy); will try again in")
            await client.stopped()

    asyncio.run(scenario())
    assert scripted.fetches == []


class BeginningAgain(Scripted):
    """Breaks a download off near its end, and does not know the place where the client would go on."""

    sent = 0

    async def _chunks(self, content: bytes, offset: int, context: Any) -> AsyncIterator[bytes]:
        if offset:
            await context.abort(grpc.StatusCode.OUT_OF_RANGE, "begin again")
        self.sent += len(content) - 1
        yield content[:-1]
        await context.abort(grpc.StatusCode.UNAVAILABLE, "the link broke")


def test_a_day_ends_within_a_download_that_never_does(run: Run, start: Start, tmp_path: Path) -> None:
    again = BeginningAgain(run)
    again.snapshots[1] = run.weights.tobytes()
    most = 3 * run.weights.nbytes + 20_000

    async def part(talk: Talk) -> None:
        await begin(talk)
        await talk.end()

    async def scenario() -> None:
        again.parts = [part]
        async with again.listening() as port:
            client = await start(port, *policy(tmp_path, f"mb_per_day = {most / 1e6}"))
            await client.printed("of today are used up (mb_per_day in --policy); will try again in")
            await client.stopped()

    asyncio.run(scenario())
    assert again.failures == []
    assert again.sent <= most + run.weights.nbytes
    assert json.loads((tmp_path / "state/usage.json").read_text())["bytes"] >= most - run.weights.nbytes


def test_what_has_come_counts_where_the_client_ends(scripted: Scripted, start: Start, tmp_path: Path) -> None:
    """A service starts it again, so a coordinator that makes it end would otherwise have no limit."""

    class Other(Scripted):
        async def FetchArtifact(self, request: wire.FetchArtifactRequest, context: Any) -> AsyncIterator[Any]:
            yield wire.FetchArtifactResponse(chunk=bytes(len(self.run.program)))

    other = Other(scripted.run)
    other.snapshots = scripted.snapshots

    async def part(talk: Talk) -> None:
        await begin(talk, **work(1))
        await reason_of(talk)
        await talk.end()

    async def scenario() -> None:
        other.parts = [part]
        async with other.listening() as port:
            client = await start(port, *policy(tmp_path, "mb_per_day = 100"))
            assert await client.ended() == 1
        assert "its sha256 differs" in one_sentence(client.log)

    asyncio.run(scenario())
    least = 2 * len(scripted.run.program) + scripted.run.weights.nbytes
    assert json.loads((tmp_path / "state/usage.json").read_text())["bytes"] > least


def test_a_delta_counts_as_the_numbers_that_it_has(scripted: Scripted, start: Start, tmp_path: Path) -> None:
    size = scripted.run.layout.size
    reasons: list[str] = []

    async def part(talk: Talk) -> None:
        await begin(talk, **work(1, Phase.WARM_UP))
        reasons.append(await reason_of(talk))
        await talk.end()

    async def scenario() -> None:
        scripted.parts = [part]
        async with scripted.listening() as port:
            client = await start(port, *policy(tmp_path, f"probes = {size - 1}"), tier="high")
            assert await client.ended() == 1

    asyncio.run(scenario())
    assert reasons == [f"this device has answered 0 probes, of {size - 1} in all (--policy)"]


@pytest.mark.parametrize("tier", ["high", "low"])
def test_the_work_on_a_contribution_ends_at_its_time(
    scripted: Scripted, start: Start, tmp_path: Path, tier: str
) -> None:
    """On the high tier it trains, on the low tier it probes: the client abstains, and stays in the fleet."""
    spec = scripted.run.spec
    long = changed(spec.warmup, epochs=10_000, batch=1), changed(spec.zeroth_order, probes=4096, micro_batch=1)
    scripted.run = replace(scripted.run, spec=replace(spec, warmup=long[0], zeroth_order=long[1]))
    told = asyncio.Event()
    words = "round 1 takes longer than the 0.01 s that this device works on one (contribution_s in --policy)"

    async def part(talk: Talk) -> None:
        asked = codec.work_to_wire(Work(1, Phase.WARM_UP if tier == "high" else Phase.ZEROTH_ORDER, 1, 55, 3600.0))
        await begin(talk, work=asked)
        assert await reason_of(talk) == words
        told.set()
        await talk.end()

    async def scenario() -> None:
        scripted.parts = [part]
        async with scripted.listening() as port:
            client = await start(port, *policy(tmp_path, "contribution_s = 0.01"), tier=tier)
            await client.printed(f"{words}; will try again in")
            await asyncio.wait_for(told.wait(), HEARING_S)
            assert await client.stopped() == 0

    asyncio.run(scenario())

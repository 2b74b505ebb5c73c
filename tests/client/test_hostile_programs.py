"""A coordinator that wants to read a device's files: the device refuses its program, and says so on both sides."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.client.conftest import DATA, Run, Scripted, Start, Talk, one_sentence
from tests.client.hostile_programs import BYTES, CLASSES, HOSTILE, LAYOUT
from zowarmup.common.exact.directions import lanes
from zowarmup.common.exact.grid import Grid
from zowarmup.common.messages import codec
from zowarmup.common.messages.values import Phase, Work
from zowarmup.common.settings.run import ClientSpec, Model
from zowarmup.data import load
from zowarmup.data.card import card_of

SECRET = bytes(range(100, 100 + BYTES))
WORK = Work(1, Phase.ZEROTH_ORDER, 1, 1001, 3600.0)


def prying(program: bytes) -> Run:
    """A run whose program is that one: as many probes as the file has bytes, each on all the data."""
    spec = ClientSpec(
        model=Model(name="mlp"),
        card=card_of(load("digits:test"), "digits:test"),
        warmup=warmup_settings(rounds=0),
        zeroth_order=zeroth_order_settings(rounds=3, probes=BYTES, slices="whole", head_projections=0),
    )
    return Run(spec, LAYOUT, program, np.zeros(BYTES, np.float32), Grid(23))


def read_back(derivatives: Sequence[float]) -> bytes:
    """What the device's answers say of the file: they are its bytes, added up with the directions' signs."""
    signs = [(lanes(WORK.seed, index // 8, 0, BYTES) >> (index % 8) & 1) * 2.0 - 1.0 for index in range(BYTES)]
    steepness = (1 / CLASSES - float(np.mean(load(DATA).targets == 0))) / 255
    found, *_ = np.linalg.lstsq(np.array(signs), np.array(derivatives) / steepness)
    return bytes(int(value) for value in np.rint(found).clip(0, 255))


@pytest.mark.parametrize(
    ("name", "where"),
    [*((name, "here") for name in HOSTILE), ("initializer", "beside"), ("initializer", "anywhere")],
)
def test_no_file_of_a_device_comes_back_in_its_scalars(
    scripted: Scripted, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, where: str
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    folder, location = {
        "here": (here, "secret"),
        "beside": (tmp_path, "../secret"),
        "anywhere": (tmp_path, f"{tmp_path}/secret"),
    }[where]
    (folder / "secret").write_bytes(SECRET)
    make, reason = HOSTILE[name]
    scripted.run = prying(make(location).SerializeToString())
    scripted.snapshots[1] = scripted.run.weights.tobytes()

    async def part(talk: Talk) -> None:
        await talk.hear("hello")
        await talk.say(welcome={"epoch": 1, "phase": "PHASE_ZEROTH_ORDER", "version": 1})
        await talk.say(fetch={"version": 1, "reason": "it holds no replica"})
        await talk.say(work=codec.work_to_wire(WORK))
        said = await talk.hear("abstention", "scalars")
        assert not (given := getattr(said, "probes", None)), f"the device gave {read_back(given)!r} away"
        assert said.reason.startswith(f"this device does not run the coordinator's program: {reason}")
        await talk.end()

    async def scenario() -> None:
        scripted.parts = [part]
        async with scripted.listening() as port:
            client = await start(port)
            assert await client.ended() == 1
        assert one_sentence(client.log).startswith(f"this device does not run the coordinator's program: {reason}")

    asyncio.run(scenario())

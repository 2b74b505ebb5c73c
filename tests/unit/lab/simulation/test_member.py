"""A simulated client's stream: a slow device says its contribution later, and waits once for what it has computed and sent."""

import random
from typing import cast

import pytest

from zowarmup.client.net.connection import Connection
from zowarmup.client.net.coordinators import Coordinators
from zowarmup.client.net.messages import Hello, Offer
from zowarmup.client.net.stream import Meter
from zowarmup.client.net.tls import PLAIN
from zowarmup.client.net.transfer import Transfers
from zowarmup.client.store.directory import StateDirectory
from zowarmup.client.store.replica import Position
from zowarmup.client.work.executor import Executor
from zowarmup.common.exact.layout import Block, Layout, Tensor
from zowarmup.lab.simulation.member import SimulatedStream
from zowarmup.lab.simulation.profiles import Profile

LAYOUT = Layout((Tensor("w", (64,), 0),), 64, 64, (Block("all", 0, 64),), None)


def stream(profile: Profile) -> tuple[SimulatedStream, Executor, Meter]:
    """One that connects to nobody, over an executor that is given no work."""
    executor = Executor(cast(Offer, None), cast(StateDirectory, None), cast(Transfers, None), 1)
    meter = Meter()

    def connect() -> Connection:
        raise AssertionError("nobody connects here")

    def hello() -> Hello:
        return Hello("run", Position(), 1)

    coordinators = Coordinators("127.0.0.1:1", PLAIN, random.Random(0))
    made = SimulatedStream(coordinators, connect, LAYOUT, hello, profile, executor, meter, lambda _: None)
    return made, executor, meter


def test_a_slow_device_on_a_slow_link_is_behind_its_host_once_for_each_work() -> None:
    made, executor, meter = stream(Profile(name="slow", slowdown=3, up_kbit_s=8, down_kbit_s=80))
    assert made._behind_s() == 0
    executor.spent_s, meter.up_bytes, meter.down_bytes = 2.0, 1000, 10_000
    assert made._behind_s() == pytest.approx(2 * 2 + 1 + 1)
    assert made._behind_s() == 0
    executor.spent_s += 0.5
    assert made._behind_s() == pytest.approx(1)


def test_a_device_like_its_host_is_never_behind() -> None:
    made, executor, meter = stream(Profile(name="same"))
    executor.spent_s, meter.up_bytes = 2.0, 1000
    assert made._behind_s() == 0

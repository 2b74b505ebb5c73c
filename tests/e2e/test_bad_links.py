"""Uploads and streams over links that break."""

import time
from collections.abc import Callable

import pytest

from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.e2e.conftest import ENDLESS
from tests.faults.proxy import Link
from tests.patience import PATIENCE
from zowarmup.common.settings.run import Evaluation, Model, RunFile

# 11.2 M parameters: a delta of 45 MB.
LARGE = RunFile(
    name="large",
    model=Model(name="resnet18"),
    warmup=warmup_settings(rounds=1, clients_per_round=1, quorum=1.0, deadline_s=600.0, epochs=1),
    zeroth_order=zeroth_order_settings(rounds=0, clients_per_round=1),
    evaluation=Evaluation(data="digits:test", every=1000),
)
SMALL = RunFile(
    name="small",
    model=Model(name="mlp"),
    warmup=warmup_settings(rounds=1, clients_per_round=1, quorum=1.0),
    zeroth_order=zeroth_order_settings(
        rounds=ENDLESS, clients_per_round=2, minimum_clients=1, quorum=0.5, deadline_s=600.0
    ),
    evaluation=Evaluation(data="digits:test", every=1000),
)
DELTA_BYTES = 44_700_000


@pytest.mark.timeout(600)
def test_a_delta_of_45_mb_arrives_over_a_link_that_resets_every_8_mb(fleet: Callable) -> None:  # type: ignore[type-arg]
    made = fleet()
    made.lead(LARGE)
    made.until(lambda status: True, 240, "the coordinator to listen")
    with Link(made.address) as link:
        link.bytes_per_second = 10e6
        link.reset_after(8_000_000, again=True)
        server, made.address = made.address, link.address
        made.join("high-1", "digits:1/200", "high")
        made.address = server
        made.until(lambda status: status.version == 1, 240, "the delta to arrive")
        assert link.resets >= 4
        assert DELTA_BYTES < link.bytes_up < 1.2 * DELTA_BYTES, f"{link.bytes_up} bytes went up"
    assert "will go on from there" in made.logged("high-1")


@pytest.mark.timeout(300)
def test_a_black_hole_is_noticed_within_30_s_at_both_ends_and_holds_up_nobody_else(fleet: Callable) -> None:  # type: ignore[type-arg]
    made = fleet()
    made.lead(SMALL, "server", "--verbose")
    made.until(lambda status: True, 120, "the coordinator to listen")
    made.join("high-1", "digits:1/2", "high")
    with Link(made.address) as link:
        server, made.address = made.address, link.address
        made.join("low-1", "digits:2/2", "low")
        made.address = server
        made.until(lambda status: status.version >= 3 and len(status.clients) == 2, 90, "the run to go on")
        link.black_hole()
        start = time.monotonic()
        gone = made.until(
            lambda status: any(c.name == "low-1" and not c.connected for c in status.clients),
            35,
            "the coordinator to notice",
        )
        assert time.monotonic() - start < 30 * PATIENCE
        while "lost " not in made.logged("low-1"):
            assert time.monotonic() - start < 30 * PATIENCE, "the client noticed nothing"
            time.sleep(0.1)
        made.until(lambda status: status.version > gone.version, 20, "the others to go on")
        link.mend()
        made.until(lambda status: all(client.connected for client in status.clients), 60, "the client to come back")

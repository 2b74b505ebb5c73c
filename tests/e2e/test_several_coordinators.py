"""Clients that are told of two addresses of a run, of which one is cut: real processes, a real coordinator behind two links."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from tests.e2e.conftest import Fleet, wait_until
from tests.e2e.test_fleet import CLIENTS, LONG, command
from tests.e2e.test_restart import NAMES
from tests.e2e.test_restart import RUN as RESTART
from tests.faults.proxy import Link
from zowarmup.common.messages.values import Phase
from zowarmup.common.settings.run import Model

RUN = replace(RESTART, model=Model(name="resnet8"), zeroth_order=replace(RESTART.zeroth_order, rounds=30))
DELTA_BYTES = 311_016
"""Of the model: what the one that trains uploads, in several pieces."""


@contextmanager
def two_links(made: Fleet) -> Iterator[tuple[Link, Link]]:
    """In front of the coordinator, which those that are started within know by both."""
    server = made.address
    with Link(server) as one, Link(server) as other:
        made.address = f"{one.address},{other.address}"
        try:
            yield one, other
        finally:
            made.address = server


def leading(made: Fleet) -> None:
    made.lead(RUN)
    made.until(lambda status: True, 60, "the coordinator to listen")


def joining(made: Fleet) -> None:
    for shard, (name, tier) in enumerate(NAMES.items(), 1):
        made.join(name, f"digits:{shard}/3", tier)


def test_a_cut_in_an_upload_and_one_in_a_round_leave_the_run_as_it_was(fleet: Callable[[], Fleet]) -> None:
    undisturbed = fleet()
    leading(undisturbed)
    joining(undisturbed)

    made = fleet()
    leading(made)
    with two_links(made) as links:
        for link in links:
            link.bytes_per_second = 60e3  # so that the delta takes some seconds
        joining(made)
        wait_until(lambda: max(link.bytes_up for link in links) > DELTA_BYTES * 2 // 3, 60, "most of the delta")
        cut, other = sorted(links, key=lambda link: link.bytes_up, reverse=True)
        before = other.bytes_up
        cut.cut()
        for link in links:
            link.bytes_per_second = 0.0
        made.until(lambda status: status.version >= 1, 60, "the delta to arrive")
        assert other.bytes_up - before < DELTA_BYTES * 0.8, "it went on from where it was"
        assert "the upload for round 1 broke off" in made.logged("high-1")
        assert f"will go on with {other.address}" in made.logged("high-1")

        made.until(lambda status: status.version >= 10, 60, "some rounds")
        cut.mend()
        other.cut()
        found = made.finished(3)
        assert all(f"back with {cut.address}" in made.logged(name) for name in NAMES)
    assert found.replicas.agree == tuple(NAMES)
    assert found.digest == undisturbed.finished(3).digest


def test_the_clients_of_a_fleet_go_on_over_the_address_that_is_left(fleet: Callable[[], Fleet]) -> None:
    made = fleet()
    made.lead(LONG)
    made.until(lambda status: True, 60, "the coordinator to listen")
    with two_links(made) as (one, other):
        made.processes.start("fleet", "zowarmup.cli.main", command(made, "--workers", "2"))
        wait_until(lambda: made.status() is not None, 20, "the operator to have an answer over the links")
        found = made.until(lambda status: status.phase is Phase.ZEROTH_ORDER and status.round > 4, 60, "some rounds")
        for cut, left in ((one, other), (other, one)):
            left.mend()
            cut.cut()
            aim = found.version + 3
            found = made.until(lambda status, aim=aim: status.version > aim, 60, "the rounds to go on")  # type: ignore[misc]
            assert all(client.connected for client in found.clients)
        done = made.run_once("zowarmup.cli.main", "stop", "--server", made.address, "--data-dir", str(made.data_dir))
        assert done.returncode == 0, done.stderr
        made.finished(CLIENTS)
        assert made.code("fleet", 20) == 0
    assert "6 clients of 6 with the run's own digest" in made.logged("fleet")

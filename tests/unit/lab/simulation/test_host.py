"""A process of a simulated fleet: the credentials of its clients, its progress before anyone has joined, its refusals."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from zowarmup.client.errors import Final
from zowarmup.lab.simulation.host import Host, _credential
from zowarmup.lab.simulation.part import FleetProgress, FleetShare


@pytest.fixture
def share(tmp_path: Path) -> FleetShare:
    return FleetShare(
        server="127.0.0.1:1",
        name="fleet",
        data="digits",
        clients=4,
        first=1,
        count=4,
        high=2,
        state=tmp_path,
        secret=bytes(32),
        connect_timeout_s=0.2,
    )


def test_a_credential_belongs_to_one_client_of_one_run_and_tier(share: FleetShare) -> None:
    assert _credential(share, "run", 1) == _credential(replace(share, first=3, count=2), "run", 1)
    others = [
        _credential(share, "run", 2),
        _credential(share, "other", 1),
        _credential(replace(share, high=0), "run", 1),
        _credential(replace(share, secret=bytes(31) + b"x"), "run", 1),
    ]
    assert len({_credential(share, "run", 1), *others}) == 5


def test_before_anyone_has_joined_it_says_what_it_waits_for(share: FleetShare) -> None:
    said = Host(share, lambda _: None).progress()
    assert (said.clients, said.members, said.waiting) == (4, 0, "waiting for 127.0.0.1:1")


def test_a_coordinator_that_does_not_answer_ends_it(share: FleetShare) -> None:
    heard = list[FleetProgress]()
    with pytest.raises(Final, match=r"no coordinator answered at 127\.0\.0\.1:1 within 0\.2 s"):
        asyncio.run(Host(share, heard.append).run())
    assert heard


def test_a_key_without_its_certificate_is_refused(share: FleetShare) -> None:
    with pytest.raises(Final, match="--certificate"):
        asyncio.run(Host(replace(share, key=share.state / "key"), lambda _: None).run())


def test_whoever_follows_it_may_end_it(share: FleetShare) -> None:
    def end(_: FleetProgress) -> None:
        raise InterruptedError("enough")

    with pytest.raises(InterruptedError, match="enough"):
        asyncio.run(Host(share, end).run())

"""Which address a coordinator tells the others, and what it shows them."""

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.server.test_coordinator import RUN
from zowarmup.server.rpc.endpoints import Endpoint
from zowarmup.server.sharing import shared_by

HOST = socket.gethostname()


@pytest.mark.parametrize(
    ("listens", "advertise", "reached"),
    [
        ("10.0.0.5:7070", "", "10.0.0.5:7171"),
        ("0.0.0.0:0", "", f"{HOST}:7171"),
        ("[::]:7070", "", f"{HOST}:7171"),
        ("[fd00::1]:7070", "", "[fd00::1]:7171"),
        ("0.0.0.0:7070", "pod-1.fleet:7070", "pod-1.fleet:7070"),
    ],
)
def test_others_reach_it_where_it_listens_or_as_it_says(
    tmp_path: Path, listens: str, advertise: str, reached: str
) -> None:
    run = replace(RUN, server=replace(RUN.server, store="postgresql://z@db/fleet", lease_s=7.0))
    shared = shared_by(run, tmp_path, advertise)
    first, second = (shared.holder(Endpoint(listens, False, False), 7171) for _ in range(2))
    assert first.address == reached and first.name == f"{HOST}:7171" and shared.lease_s == 7.0
    assert first.secret != second.secret, "each life has its own"

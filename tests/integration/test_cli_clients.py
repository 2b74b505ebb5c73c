"""The list of clients: one line each, aligned, within the terminal's width."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from dataclasses import replace

import grpc
import pytest

from zowarmup.cli.listings import clients_text
from zowarmup.cli.session.status import Participant
from zowarmup.common.exact.layout import Block, Layout, Tensor
from zowarmup.common.messages.values import Tier
from zowarmup.common.settings.run import PROTOCOL
from zowarmup.v1 import coordinator_pb2 as wire
from zowarmup.v1 import coordinator_pb2_grpc as services

PI = Participant(
    name="pi-2",
    tier=Tier.LOW,
    connected=True,
    since_s=7500.0,
    revoked="",
    round=12,
    contributed=False,
    abstained="",
    version=310,
    agrees=True,
    software="zowarmup 0.1.0",
    contributed_s=4.0,
    peak_memory_bytes=68_000_000,
    up_bytes=80_400,
    down_bytes=489_000,
    examples=143,
)


@pytest.mark.parametrize(
    ("client", "state"),
    [
        (PI, "in round 12"),
        (replace(PI, contributed=True), "contributed 12"),
        (replace(PI, round=0), "connected"),
        (replace(PI, abstained="no data"), "abstains"),
        (replace(PI, connected=False), "gone"),
        (replace(PI, connected=False, since_s=None), "not seen"),
        (replace(PI, connected=False, revoked="stolen"), "revoked"),
    ],
)
def test_the_state_of_a_client(client: Participant, state: str) -> None:
    assert client.state == state
    assert client.to_json()["state"] == state


def test_all_columns_where_there_is_room_for_them() -> None:
    high = replace(
        PI, name="jetson", tier=Tier.HIGH, agrees=None, contributed_s=None, peak_memory_bytes=0, since_s=None
    )
    text = clients_text([replace(PI, name="pi-10", agrees=False), PI, high], None)
    assert text == (
        "3 clients: 3 connected\n"
        "name    tier  state        since  version      last  memory       up    down  program\n"
        "jetson  high  in round 12      -  310             -       -  80.4 kB  489 kB  zowarmup 0.1.0\n"
        "pi-2    low   in round 12    2 h  310 ok        4 s   68 MB  80.4 kB  489 kB  zowarmup 0.1.0\n"
        "pi-10   low   in round 12    2 h  310 DIFFERS   4 s   68 MB  80.4 kB  489 kB  zowarmup 0.1.0\n"
        "\n"
        "pi-10 reported a digest that is not the run's at version 310"
    )


@pytest.mark.parametrize("width", [80, 60, 40])
def test_on_a_terminal_no_line_of_the_table_is_wider_than_it(width: int) -> None:
    fleet = [replace(PI, name=f"the-camera-at-gate-number-{number}", version=123_456) for number in range(30)]
    first, header, *lines = clients_text(fleet, width).splitlines()
    assert first == "30 clients: 30 connected"
    assert all(len(line) <= width for line in (header, *lines))
    assert len({line.index("in round") for line in lines}) == 1
    assert ("memory" in header, "tier" in header) == (width == 80, True)


def test_a_long_name_is_cut_where_it_does_not_fit_and_whole_in_a_pipe() -> None:
    client = replace(PI, name="n" * 63)
    assert "n" * 63 in clients_text([client], None)
    assert "nnn…  low" in clients_text([client], 80)


def test_why_clients_do_not_take_part_is_said_below() -> None:
    fleet = [
        replace(PI, name="a", abstained="a value is not finite"),
        replace(PI, name="b", revoked="stolen", connected=False),
        replace(PI, name="c", connected=False),
    ]
    text = clients_text(fleet, 80)
    assert text.startswith("2 clients: 1 connected, 1 abstains, 1 gone, 1 revoked\n")
    assert text.endswith("\n\na abstains: a value is not finite\nb is revoked: stolen")


def test_two_thousand_that_abstain_are_two_thousand_lines_and_twenty_reasons() -> None:
    fleet = [replace(PI, name=f"pi-{number}", abstained="no data") for number in range(2000)]
    lines = clients_text(fleet, 80).splitlines()
    assert len(lines) == 2 + 2000 + 1 + 20 + 1
    assert lines[-1] == "and 1,980 more such lines: --json has all"


def test_nobody_yet() -> None:
    assert clients_text([], 80) == "no client has enrolled yet"


class Fleet(services.CoordinatorServiceServicer, services.OperatorServiceServicer):
    """Two thousand clients, one with a name that would clear the screen."""

    def GetRun(self, request: wire.GetRunRequest, context: grpc.ServicerContext) -> wire.GetRunResponse:
        layout = Layout((Tensor("weight", (3,), 0),), 3, 3, (Block("all", 0, 3),)).to_json()
        return wire.GetRunResponse(protocol=PROTOCOL, run_id="r1", name="digits", layout_json=layout, spec_json="{}")

    def ListClients(
        self, request: wire.ListClientsRequest, context: grpc.ServicerContext
    ) -> Iterator[wire.ListClientsResponse]:
        for number in range(2000):
            name = "a\x1b[2J" if number == 0 else f"pi-{number}"
            yield wire.ListClientsResponse(client=name, tier=wire.TIER_LOW, software="zowarmup 0.1.0")


def test_two_thousand_clients_into_head() -> None:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    services.add_CoordinatorServiceServicer_to_server(Fleet(), server)
    services.add_OperatorServiceServicer_to_server(Fleet(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        command = f"'{sys.executable}' -m zowarmup.cli.main clients --server 127.0.0.1:{port}"
        for piped in (command, f"{command} --json"):
            done = subprocess.run(
                ["sh", "-c", f"{piped} | head -n 3"], capture_output=True, text=True, timeout=60, check=False
            )
            assert done.stderr == ""
            assert done.stdout.count("\n") == 3
            assert "\x1b" not in done.stdout
        whole = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=True)
        assert len(whole.stdout.splitlines()) == 2002
        assert "a\\x1b[2J" in whole.stdout
    finally:
        server.stop(None).wait()

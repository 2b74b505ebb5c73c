"""The list of clients: one line each, aligned, within the terminal's width."""

from dataclasses import replace

import pytest

from zowarmup.cli.clients import Participant, clients_text
from zowarmup.common.work import Tier

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
        "name    tier  state        since  version      last   memory       up    down  program\n"
        "jetson  high  in round 12      -  310             -        -  80.4 kB  489 kB  zowarmup 0.1.0\n"
        "pi-2    low   in round 12    2 h  310 ok        4 s  68.0 MB  80.4 kB  489 kB  zowarmup 0.1.0\n"
        "pi-10   low   in round 12    2 h  310 DIFFERS   4 s  68.0 MB  80.4 kB  489 kB  zowarmup 0.1.0\n"
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

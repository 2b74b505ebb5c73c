"""Who is cut off where connections become many, and that a cut connection ends."""

import asyncio
import contextlib
import os
import socket
import threading

import pytest

from zowarmup.server.rpc.strangers import connected, cut_off, descriptors, keep_room, surplus


def peers(network: str, count: int) -> list[str]:
    return [f"ipv4:{network}:{port}" for port in range(count)]


def chosen(members: list[str], *strangers: list[str], most: int = 100) -> list[str]:
    found = members + [peer for some in strangers for peer in some]
    return surplus(found, frozenset(members), {peer: float(at) for at, peer in enumerate(found)}, most)


def test_nobody_is_cut_off_before_half_is_taken() -> None:
    assert chosen(peers("10.0.0.1", 20), peers("10.0.0.2", 30)) == []


def test_members_stay_and_strangers_have_half_of_what_they_leave() -> None:
    members = peers("10.0.0.1", 40)
    cut = chosen(members, peers("10.0.0.2", 60))
    assert len(cut) == 30 and not set(cut) & set(members)
    assert len(chosen(peers("10.0.0.1", 96), peers("10.0.0.1", 100)[96:])) == 2
    assert chosen(peers("10.0.0.1", 100)) == []


def test_the_oldest_of_the_largest_network_go_first() -> None:
    flood, few = peers("10.0.0.2", 90), peers("10.0.0.3", 4)
    cut = chosen([], flood, few)
    assert cut == flood[:44], "50 are left: 46 and 4"
    assert chosen([], peers("10.0.0.2", 40), peers("10.0.0.4", 40), few) == [
        *peers("10.0.0.2", 17),
        *peers("10.0.0.4", 17),
    ]
    spread = [f"ipv6:%5Bfd00::1:{n:x}%5D:7" for n in range(90)]
    assert chosen([], spread, few) == spread[:44], "one network, however many addresses"


def test_a_cut_connection_ends_and_another_in_its_place_does_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.0.1", 0)) as other:
        port = server.getsockname()[1]
        near, far = socket.create_connection(("127.0.0.1", port)), server.accept()[0]
        elsewhere = socket.create_connection(other.getsockname())
        with near, far, elsewhere, open(os.devnull) as file:
            ((peer, descriptor),) = connected(port).items()
            assert (peer, descriptor) == (f"ipv4:127.0.0.1:{near.getsockname()[1]}", far.fileno())
            for wrong in (elsewhere.fileno(), file.fileno(), 10**6):
                cut_off(peer, wrong)
            near.setblocking(False)
            with pytest.raises(BlockingIOError):
                near.recv(1)
            cut_off(peer, descriptor)
            near.settimeout(5)
            assert near.recv(1) == b""
            assert far.fileno() == descriptor and file.read() == "", "and nothing is closed"
            assert descriptors() >= 6


def test_room_is_kept_at_a_port(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(port: int, most: int, member: str, done: threading.Event) -> None:
        keeping = asyncio.create_task(keep_room(port, most, lambda: {member}, every_s=0.01, share=0.0))
        await asyncio.to_thread(done.wait, 20)
        keeping.cancel()

    with socket.create_server(("127.0.0.1", 0)) as server, contextlib.ExitStack() as held:
        port, ends = server.getsockname()[1], list[socket.socket]()
        for _ in range(40):
            ends.append(held.enter_context(socket.create_connection(("127.0.0.1", port))))
            held.enter_context(server.accept()[0])
        done = threading.Event()
        member = f"ipv4:127.0.0.1:{ends[0].getsockname()[1]}"
        running = threading.Thread(target=lambda: asyncio.run(scenario(port, 41, member, done)))
        running.start()
        for one in ends[1:20]:
            one.settimeout(10)
            assert one.recv(1) == b""
        done.set()
        running.join()
        for one in (ends[0], *ends[20:]):
            one.setblocking(False)
            with pytest.raises(BlockingIOError):
                one.recv(1)
    assert "of 40 connections, 19 of strangers are cut off (19 from 127.0.0.1), as 41 are possible" in caplog.text

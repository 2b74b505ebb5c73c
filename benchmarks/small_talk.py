"""Zeroth-order rounds without the work: how long the coordinator takes over one, how it grows with the fleet, and what
goes over the wire for it."""

import math
import os
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from benchmarks.rows import Goal, Row, benchmark, row

PROBES = 8
FLEETS = (250, 500, 1000, 2000)


@benchmark
def zeroth_order_round(repeats: int) -> list[Row]:
    """Rounds of 8 clients that answer at once, tiny model, beside a round trip and a sync."""
    from benchmarks.fleet import ALL, Fleet, Run, coordinator

    rounds = 30 * repeats
    run = Run(participants=8, rounds=rounds, probes=PROBES)
    with (
        tempfile.TemporaryDirectory() as name,
        coordinator(Path(name), run) as leader,
        Fleet(leader.address, 8, run, processes=1) as fleet,
    ):
        fleet.await_connected()
        least = [_round_trip_and_sync(Path(name)) for _ in range(20 * repeats)]
        fleet.allow(ALL)
        worked = fleet.await_finished().worked
    spans = [1e3 * (later - earlier) for (_, earlier), (_, later) in pairwise(sorted(worked.items()))][5:]
    bound = 1e3 * statistics.median(least)
    return [
        row(
            "zeroth-order round, 8 clients, no work",
            "ms",
            spans,
            references=[bound] * len(spans),
            beside="loopback round trip + one fsync",
            goal=Goal("value", 15.0),
            floor=2 * bound,
            limit="2 of these: what is said must be on disk",
            note=f"from Work to the next Work, {len(spans)} rounds",
        )
    ]


def _round_trip_and_sync(folder: Path) -> float:
    """Seconds: 50 bytes there and back over loopback, and 1 KB synced to a file."""
    near, far = _connected()
    with near, far, (folder / "synced").open("ab", buffering=0) as file:
        echo = threading.Thread(target=lambda: far.sendall(far.recv(50)))
        echo.start()
        time.sleep(0.001)
        start = time.perf_counter()
        near.sendall(bytes(50))
        near.recv(50)
        file.write(bytes(1000))
        os.fsync(file.fileno())
        seconds = time.perf_counter() - start
        echo.join()
    return seconds


def _connected() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        near = socket.create_connection(listening.getsockname())
        far, _ = listening.accept()
    return near, far


@benchmark
def crowd(repeats: int) -> list[Row]:
    """One round of everybody, with 250, 500, 1000 and 2000 clients."""
    medians = {}
    for clients in FLEETS:
        spans = _crowd(clients, repeats)
        medians[clients] = statistics.median(spans)
    each = ", ".join(f"{clients}: {1e3 * seconds / clients:.2f} ms" for clients, seconds in medians.items())
    logs = [(math.log(clients), math.log(seconds)) for clients, seconds in medians.items()]
    return [
        row(
            f"zeroth-order round of {clients} clients",
            "s",
            spans,
            goal=Goal("value", 2.0),
            note="each gets a commit of all contributions and Work, and sends 8 scalars that are acknowledged; the clients "
            "are on this machine too",
        ),
        row(
            "growth of that from 250 to 2000 clients",
            "exponent",
            [statistics.linear_regression(*zip(*logs, strict=True)).slope],
            goal=Goal("value", 1.1),
            note=f"1 is linear, by least squares; for each client {each}",
        ),
    ]


def _crowd(clients: int, rounds: int) -> list[float]:
    """Seconds from everybody's Work to everybody's next."""
    from benchmarks.fleet import ALL, Fleet, Run, coordinator

    run = Run(participants=clients, rounds=rounds + 2, probes=PROBES)
    with (
        tempfile.TemporaryDirectory() as name,
        coordinator(Path(name), run) as leader,
        Fleet(leader.address, clients, run, processes=1) as fleet,
    ):
        fleet.await_connected()
        fleet.allow(ALL)
        worked = fleet.await_finished().worked
    # Not the first, which was open while they connected, nor the next, which warms up.
    return [later - earlier for (_, earlier), (_, later) in pairwise(sorted(worked.items()))][1:]


@benchmark
def bytes_on_the_wire(repeats: int) -> list[Row]:
    """A contribution of 8 scalars on an open stream, by the kernel's count of its socket; and a commit of 10 of them."""
    rows = []
    for tls in (False, True):
        rows.append(_contribution(tls))
    rows.append(_commit())
    return rows


def _contribution(tls: bool) -> Row:
    from benchmarks.fleet import Fleet, Run, coordinator
    from zowarmup.cli.certificates import init

    rounds = 400
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run, authority = Run(participants=1, rounds=rounds, probes=PROBES), b""
        if tls:
            init(folder / "tls", ["127.0.0.1"])
            authority = (folder / "tls" / "ca.crt").read_bytes()
            files = {name: str(folder / "tls" / f"server.{name[:3]}") for name in ("crt", "key")}
            run = replace(run, certificate=files["crt"], key=files["key"])
        with (
            coordinator(folder, run) as leader,
            Fleet(leader.address, 1, run, processes=1, authority=authority) as fleet,
        ):
            fleet.await_connected()
            counts = []
            for turn in (50, 350):
                fleet.allow(turn)
                leader.await_version(turn)
                time.sleep(0.2)  # the commit and the next Work are on their way
                counts.append(_socket(leader.port))
            fleet.allow(rounds)
            fleet.await_finished()
    (up, down), (more_up, more_down) = counts
    between = 300
    return row(
        f"contribution of 8 scalars, on the wire{', TLS' if tls else ''}",
        "bytes",
        [(more_up - up) / between],
        goal=Goal("value", 110.0 if tls else 80.0),
        note="all that a client sends in a round, acknowledgements and windows of what it gets included; "
        f"the other way {(more_down - down) / between:.0f} bytes: Work, Accepted and Commit",
    )


def _socket(port: int) -> tuple[int, int]:
    """Bytes received and sent on the coordinator's one connection, without IP and TCP headers."""
    said = subprocess.run(
        ["ss", "-tinH", "state", "established", f"sport = :{port}"], capture_output=True, text=True, check=True
    ).stdout
    fields = dict(field.split(":", 1) for field in said.split() if field.startswith(("bytes_received:", "bytes_sent:")))
    return int(fields["bytes_received"]), int(fields["bytes_sent"])


def _commit() -> Row:
    """As a real coordinator makes them of ResNet18: the longest of some."""
    import numpy as np

    from benchmarks.fleet import ALL, Fleet, Run, coordinator
    from zowarmup.server.store.archive import open_archive

    rounds = 7
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = np.random.default_rng(0).integers(0, 256, (64, 3, 32, 32), dtype=np.uint8)
        np.savez(folder / "data.npz", x=images, y=np.arange(64) % 10)
        run = Run(
            model="resnet18",
            data=f"npz:{folder}/data.npz",
            participants=10,
            rounds=rounds,
            probes=PROBES,
            projections=0,
        )
        with coordinator(folder, run) as leader, Fleet(leader.address, 10, run) as fleet:
            fleet.await_connected()
            fleet.allow(ALL)
            fleet.await_finished()
        sizes = [len(commit) for commit in open_archive(folder / "server").history.commits.values()]
    return row(
        "commit of 10 participants with 8 scalars, ResNet18",
        "bytes of payload",
        [max(sizes)],
        goal=Goal("value", 450.0),
        note=f"the longest of {len(sizes)}; 10 x (8 bytes of seed + 8 numbers of ticks) and the digest",
    )

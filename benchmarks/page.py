"""What the live page costs the coordinator: `python -m benchmarks.page --clients 2000 --viewers 1 50`.

A real `zowarmup-server` leads thousands of clients with a stream each, in processes of their own, at `--pace` rounds a second or
as many as it can. Stretches of so many rounds follow each other, without viewers and with, in turn; a viewer is a socket of
another process that reads the page's events as they come. What is compared is the coordinator's processor time for a round,
each stretch with viewers beside the two without around it. Printed, as one line of JSON for each number of viewers: the median
ratio with its goal, processor time for a round (the fleet's own beside it: with a stream each, it is the load that a machine of few
cores is full of), what more of it viewers cost in a second, rounds a second, and bytes a second that
a viewer is sent. Viewers cost about the same each second, however many rounds there are in it: on a machine that is busy with
other work, where rounds are slow, the ratio is worse than on a quiet one. Exit code 1 where a goal does not hold.
"""

import argparse
import json
import multiprocessing
import re
import selectors
import socket
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.fleet import Coordinator, Fleet, Run, coordinator

GOALS = {1: 1.05, 50: 1.20}
SETTLE_S = 1.0


@dataclass(frozen=True)
class Stretch:
    """Rounds in a row. `sent_bytes`: to all viewers together. `cpu_s`: of the coordinator."""

    viewers: int
    cpu_s: float
    fleet_cpu_s: float
    wall_s: float
    rounds: int
    sent_bytes: int

    @property
    def cpu_each_s(self) -> float:
        return self.cpu_s / self.rounds


class Pace:
    """Lets one more round be answered, so often a second; 0: all at once."""

    def __init__(self, fleet: Fleet, per_s: float) -> None:
        self._fleet, self._per_s, self._allowed, self._over = fleet, per_s, 0, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._over.is_set():
            self._allowed += 1 if self._per_s else 1 << 40
            self._fleet.allow(self._allowed)
            due = max(due + 1 / (self._per_s or 1), time.monotonic() - 1)
            self._over.wait(max(0.0, due - time.monotonic()))


def read_events(url: str, orders: Any, answers: Any) -> None:
    """A process of viewers: for each number that is ordered, so many look until the next order; then it answers with the
    bytes that they were sent."""
    host, _, port = url.removeprefix("http://").rstrip("/").partition(":")
    viewers: list[socket.socket] = []
    while True:
        wanted = orders.get()
        with selectors.DefaultSelector() as selector:
            for _ in range(wanted):
                viewers.append(socket.create_connection((host, int(port))))
                viewers[-1].sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
                viewers[-1].recv(1)  # so it is a viewer, and no longer one of those that connect
                selector.register(viewers[-1], selectors.EVENT_READ)
            answers.put(0)
            sent = 0
            while orders.empty():  # until they are told to leave
                for key, _ in selector.select(0.1):
                    assert isinstance(key.fileobj, socket.socket)
                    if not (piece := key.fileobj.recv(1 << 20)):
                        raise RuntimeError("a viewer was cut off")
                    sent += len(piece)
        for viewer in viewers:
            viewer.close()
        viewers.clear()
        orders.get()
        answers.put(sent)


class Viewers:
    """So many look at the page within `looking`."""

    def __init__(self, url: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._orders, self._answers = context.Queue(), context.Queue()
        self._process = context.Process(target=read_events, args=(url, self._orders, self._answers), daemon=True)
        self._process.start()

    def come(self, count: int) -> None:
        self._orders.put(count)
        self._answers.get(timeout=60)

    def leave(self) -> int:
        """The bytes that they were sent."""
        self._orders.put(0)
        sent: int = self._answers.get(timeout=60)
        return sent

    def end(self) -> None:
        self._process.terminate()
        self._process.join()


def stretch(
    leader: Coordinator, fleet: Fleet, ledger: sqlite3.Connection, viewers: Viewers, count: int, rounds: int
) -> Stretch:
    """Measure so many rounds with so many viewers."""
    if count:
        viewers.come(count)
    time.sleep(SETTLE_S)
    first, cpu_s, fleet_cpu_s, began = _version(ledger), leader.cpu_s(), fleet.cpu_s(), time.monotonic()
    while (now := _version(ledger)) < first + rounds:
        if leader.process.poll() is not None:
            raise RuntimeError(leader.said()[-2000:])
        time.sleep(0.05)
    measured = leader.cpu_s() - cpu_s, fleet.cpu_s() - fleet_cpu_s, time.monotonic() - began
    return Stretch(count, *measured, now - first, viewers.leave() if count else 0)


def _version(ledger: sqlite3.Connection) -> int:
    (found,) = ledger.execute("SELECT count(*) FROM events WHERE kind = 'Committed'").fetchone()
    return int(found)


def measure(arguments: argparse.Namespace, folder: Path) -> list[Stretch]:
    """The stretches, in their order: without viewers, with, without, with ..."""
    run = Run(participants=arguments.participants, rounds=1_000_000, probes=8, projections=0)
    with coordinator(folder, run) as leader:
        found = re.search(r"page at (http://\S+)", leader.said())
        assert found, leader.said()
        viewers = Viewers(found[1])
        try:
            with Fleet(leader.address, arguments.clients, run, processes=2) as fleet:
                fleet.await_connected()
                pace = Pace(fleet, arguments.pace)
                pace.start()
                ledger = sqlite3.connect(f"file:{leader.ledger}?mode=ro", uri=True)
                made = [stretch(leader, fleet, ledger, viewers, 0, arguments.rounds)]
                for _ in range(arguments.repeats):
                    for count in arguments.viewers:
                        for now in (count, 0):
                            made.append(stretch(leader, fleet, ledger, viewers, now, arguments.rounds))
                            print(made[-1], file=sys.stderr, flush=True)
                pace.stop()
                ledger.close()
        finally:
            viewers.end()
    return made


def summary(made: list[Stretch], count: int) -> dict[str, Any]:
    """Of the stretches with so many viewers."""
    places = [place for place, one in enumerate(made) if one.viewers == count]
    beside = [(made[place - 1].cpu_each_s + made[place + 1].cpu_each_s) / 2 for place in places]
    ratios = sorted(made[place].cpu_each_s / other for place, other in zip(places, beside, strict=True))
    shown = [made[place] for place in places]
    return {
        "viewers": count,
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "goal": GOALS.get(count),
        "cpu_ms_a_round": round(1000 * statistics.median(one.cpu_each_s for one in shown), 1),
        "cpu_ms_a_round_without": round(1000 * statistics.median(beside), 1),
        "fleet_cpu_ms_a_round": round(1000 * statistics.median(one.fleet_cpu_s / one.rounds for one in shown), 1),
        "cpu_ms_a_second_more": round(
            statistics.median(
                1000 * (one.cpu_each_s - other) * one.rounds / one.wall_s
                for one, other in zip(shown, beside, strict=True)
            ),
            1,
        ),
        "rounds_a_second": round(statistics.median(one.rounds / one.wall_s for one in shown), 2),
        "kilobytes_a_second_each": round(
            statistics.median(one.sent_bytes / one.wall_s for one in shown) / max(1, count) / 1000, 1
        ),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=2000)
    parser.add_argument("--participants", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=60, help="of a stretch")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pace", type=float, default=10.0, help="rounds a second; 0: as many as it can")
    parser.add_argument("--viewers", type=int, nargs="+", default=[1, 50])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made = measure(arguments, Path(folder))
    found = [summary(made, count) for count in arguments.viewers]
    for one in found:
        print(json.dumps({"clients": arguments.clients, "participants": arguments.participants, **one}))
    return 1 if any(one["goal"] and one["ratio"] > one["goal"] for one in found) else 0


if __name__ == "__main__":
    sys.exit(main())

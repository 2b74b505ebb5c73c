"""A fleet of thousands in one coordinator's books: `python -m benchmarks.scrape --clients 10000`.

A real coordinator with a real ledger takes in so many clients, as many at a time as a busy server would batch, then a
Hello from each; then /metrics is scraped over HTTP. Printed, as one line of JSON: seconds to enrol and to greet them
all, milliseconds (the median, and the slowest) and bytes of a scrape.
"""

import argparse
import asyncio
import hashlib
import json
import statistics
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path

from zowarmup.common.algorithms.fedavg import FedAvgSettings
from zowarmup.common.algorithms.zowarmup import ZOWarmUpSettings
from zowarmup.common.exact.layout import Block, Layout, Tensor
from zowarmup.common.messages.values import Tier
from zowarmup.common.settings.data_card import DataCard
from zowarmup.common.settings.run import Evaluation, Model, RunFile
from zowarmup.common.tasks.classification import Classification
from zowarmup.common.tasks.protocol import Baseline
from zowarmup.server.coordinator import Coordinator
from zowarmup.server.core import commands as cmd
from zowarmup.server.core import events as ev
from zowarmup.server.core.decide import decide
from zowarmup.server.projections.history import History
from zowarmup.server.projections.traffic import Traffic
from zowarmup.server.store.blob_files import BlobFiles
from zowarmup.server.store.ledger import Ledger
from zowarmup.server.telemetry.endpoints import HttpEndpoint
from zowarmup.server.telemetry.http import HttpServer
from zowarmup.server.telemetry.metrics import RunMetrics, Sources

AT_ONCE = 50
SCRAPES = 9


async def measure(clients: int, folder: Path) -> tuple[dict[str, float], str]:
    """The figures, and what was scraped."""
    layout = Layout((Tensor("w", (4,), 0),), 4, 4, (Block("all", 0, 4),))
    run = RunFile(
        name="scrape",
        draws="seed",
        model=Model(name="mlp"),
        warmup=FedAvgSettings(rounds=0),
        zeroth_order=ZOWarmUpSettings(rounds=1, clients_per_round=clients + 1),
        evaluation=Evaluation(data="digits:test"),
    )
    program = ev.ProgramRecord(
        "b" * 64, 1, layout.to_json(), DataCard(shape=(1,), classes=2), 1, 1, Classification.metrics, Baseline(1.0, 0.5)
    )
    created = decide(None, cmd.CreateRun("run", run, program, ev.Snapshot(0, "c" * 64, 20, "0" * 32)), 0.0)
    state, history, ledger = created.state, History(), Ledger(folder / "ledger.sqlite")
    history.record(0.0, created.events)
    end = ledger.append(created.events, 0.0, 0)
    BlobFiles(folder / "blobs")
    coordinator = Coordinator(ledger, state, end=end)
    coordinator.observe(lambda now, events, after: history.record(now, events))
    running = asyncio.create_task(coordinator.run())

    async def all_of(commands: list[cmd.Command]) -> float:
        began, queue = time.perf_counter(), iter(commands)

        async def one() -> None:
            for command in queue:
                await coordinator.handle(command)

        await asyncio.gather(*(one() for _ in range(AT_ONCE)))
        return time.perf_counter() - began

    names = [f"pi-{number}" for number in range(clients)]
    enrolled_s = await all_of(
        [
            cmd.Enrol(name, Tier.HIGH if n % 10 == 0 else Tier.LOW, 100, hashlib.sha256(name.encode()).hexdigest())
            for n, name in enumerate(names)
        ]
    )
    greeted_s = await all_of([cmd.ConnectClient(name, n + 1, 100) for n, name in enumerate(names)])
    ledger_path, blobs = folder / "ledger.sqlite", folder / "blobs"
    metrics = RunMetrics(run.name)
    metrics.show(
        Sources(coordinator, history, Traffic(lambda: state.phase), Counter[str](), folder, ledger_path, blobs, {})
    )
    metrics.count(coordinator)
    website = HttpServer(HttpEndpoint("127.0.0.1", 0), {"/metrics": metrics.application})
    url = f"{website.open()}/metrics"
    took, text = [], ""
    for _ in range(SCRAPES):
        began = time.perf_counter()
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())
        took.append(1000 * (time.perf_counter() - began))
    website.close()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    ledger.close()
    figures = {
        "clients": len(coordinator.state.clients),
        "enrolled_s": round(enrolled_s, 2),
        "greeted_s": round(greeted_s, 2),
        "scrape_ms": round(statistics.median(took), 1),
        "scrape_slowest_ms": round(max(took), 1),
        "scrape_bytes": len(text),
    }
    return figures, text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=10_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(asyncio.run(measure(arguments.clients, Path(folder)))[0]))


if __name__ == "__main__":
    main()

"""What a scrape of a large fleet costs: no more than that of a small one. (How long it takes: benchmarks/scrape.py.)"""

import asyncio
import re
from pathlib import Path

from benchmarks.scrape import measure

SAMPLE = re.compile(r"^(\w+(?:\{[^}]*\})?) ", re.MULTILINE)


def test_ten_thousand_clients_have_no_series_of_their_own(tmp_path: Path) -> None:
    scraped = {}
    for clients in (10, 10_000):
        (folder := tmp_path / str(clients)).mkdir()
        figures, scraped[clients] = asyncio.run(measure(clients, folder))
        assert figures["clients"] == clients
    assert len(scraped[10_000]) < 100_000
    few, many = (set(SAMPLE.findall(scraped[clients])) for clients in (10, 10_000))
    assert many == few
    assert 'zowarmup_clients{run="scrape",state="connected",tier="low"} 9000.0' in scraped[10_000]
    assert 'zowarmup_clients{run="scrape",state="connected",tier="high"} 1000.0' in scraped[10_000]
    assert "pi-" not in scraped[10_000]

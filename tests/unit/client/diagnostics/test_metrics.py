"""A device's own few figures, over a real socket."""

import asyncio
import re
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from zowarmup.client.diagnostics.metrics import Figures, exposition, shown
from zowarmup.client.errors import Final

FIGURES = Figures(up_bytes=10, down_bytes=20, version=7, contributions=3, connected=True)


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_the_figures_are_shown() -> None:
    async def script() -> None:
        async with shown("127.0.0.1:0", {"run": "digits", "tier": "low"}, lambda: FIGURES) as url:
            status, text = await asyncio.to_thread(get, url)
            assert status == 200
            assert (await asyncio.to_thread(get, url.replace("/metrics", "/")))[0] == 404
        samples = {s.name: s for family in text_string_to_metric_families(text) for s in family.samples}
        assert samples["zowarmup_device_model_version"].value == 7
        assert samples["zowarmup_device_model_version"].labels == {"run": "digits", "tier": "low"}
        assert samples["zowarmup_device_connected"].value == 1
        assert samples["zowarmup_device_contributions_total"].value == 3
        assert samples["zowarmup_device_peak_memory_bytes"].value > 10_000_000
        assert 'direction="down"} 20' in text
        with pytest.raises(urllib.error.URLError):
            get(url)  # gone with the context

    asyncio.run(script())


def test_the_name_of_a_run_may_be_anything() -> None:
    name = 'a "run"\\ of\nmine'
    (first, *_) = text_string_to_metric_families(exposition({"run": name}, FIGURES))
    assert first.samples[0].labels["run"] == name


def test_the_table_in_the_documents_is_what_is_shown() -> None:
    document = (Path(__file__).parents[4] / "docs/metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(zowarmup_device_\w+)` \| (\w+) \|([^|]*)\| [^|]+ \|$", document, re.MULTILINE)
    documented = {(name, kind, labels.strip()) for name, kind, labels in rows}
    families = text_string_to_metric_families(exposition({}, FIGURES))
    assert documented == {
        (f.name + ("_total" if f.type == "counter" else ""), f.type, "".join(f.samples[0].labels)) for f in families
    }


def test_a_port_that_is_taken_is_a_sentence() -> None:
    async def script() -> None:
        async with shown("127.0.0.1:0", {}, lambda: FIGURES) as url:
            taken = url.removeprefix("http://").removesuffix("/metrics")
            with pytest.raises(Final, match=f"cannot show metrics on {taken}"):
                async with shown(taken, {}, lambda: FIGURES):
                    pass

    asyncio.run(script())

"""Hostile programs and runs for a device: a short form of what `make fuzz` ends with."""

import sys
from pathlib import Path

import pytest

from tests.fuzz.hostile_coordinators import besiege_device, watched

COUNT = 600

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what is opened and read is seen by Linux's means")


@pytest.mark.timeout(900)
def test_a_device_takes_or_refuses_whatever_program_and_run_it_is_sent() -> None:
    verdict = besiege_device(COUNT, few=True)
    assert not verdict.findings
    assert verdict.outcomes.total() == COUNT
    assert verdict.outcomes.keys() >= {"run", "refused", "refused by the runtime", "run taken", "run refused"}


def test_a_file_that_is_opened_is_seen(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "secret").write_bytes(b"x")
    with watched(tmp_path / "one", tmp_path / "other") as opened:
        (tmp_path / "other/secret").stat()
        (tmp_path / "other/secret").read_bytes()
    assert set(opened) == {"secret was opened", "secret was read"}
    with watched(tmp_path / "one") as opened:
        list((tmp_path / "one").iterdir())
    assert "the folder was opened" in opened

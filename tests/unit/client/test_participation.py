"""A device's part in a run, where there is none: it says so, and whoever waits is told before."""

import asyncio
from pathlib import Path

import pytest

from zowarmup.client.errors import Final
from zowarmup.client.participation import DeviceOptions, participate
from zowarmup.data import load


def test_a_coordinator_that_does_not_answer_ends_it_and_the_state_is_free_again(tmp_path: Path) -> None:
    options = DeviceOptions(
        server="127.0.0.1:1",
        name="one",
        source="digits:test",
        state_dir=tmp_path / "state",
        patience_s=0.2,
        own_thread=True,
    )
    begun = list[bool]()
    for _ in range(2):
        with pytest.raises(Final, match=r"no coordinator answered at 127\.0\.0\.1:1 within 0\.2 s"):
            asyncio.run(participate(options, load("digits:test"), lambda: begun.append(True)))
    assert begun == [True, True]


def test_a_key_without_its_certificate_is_refused(tmp_path: Path) -> None:
    options = DeviceOptions(server="127.0.0.1:1", name="one", source="digits", state_dir=tmp_path, key=tmp_path / "key")
    with pytest.raises(Final, match="--certificate and --key belong together"):
        asyncio.run(participate(options, load("digits:test")))

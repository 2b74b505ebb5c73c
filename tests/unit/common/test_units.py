"""Amounts of bytes in the log."""

import pytest

from zowarmup.common.units import amount


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (264, "264 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (38_440, "38.4 kB"),
        (999_600, "1 MB"),
        (44_695_848, "44.7 MB"),
        (712_000_000, "712 MB"),
        (24_105_000_000, "24.1 GB"),
    ],
)
def test_amount(count: int, text: str) -> None:
    assert amount(count) == text

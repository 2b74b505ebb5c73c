"""Which run a data directory belongs to, as its coordinator wrote it down."""

from pathlib import Path

import pytest

from zowarmup.common.settings.store import StoreAddress
from zowarmup.server.store.archive import LEDGER, ArchiveError
from zowarmup.server.store.place import PLACE, remember, remembered, require_alone

HERE = StoreAddress("postgresql://db/fleet?sslmode=require", "digits")


def test_there_and_back(tmp_path: Path) -> None:
    assert remembered(tmp_path) is None
    require_alone(tmp_path)
    remember(tmp_path, HERE)
    remember(tmp_path, HERE)
    assert remembered(tmp_path) == HERE
    with pytest.raises(ArchiveError, match=r"set server.store to that"):
        require_alone(tmp_path)
    moved = StoreAddress("postgresql://other.name/fleet", "digits")
    remember(tmp_path, moved)
    assert remembered(tmp_path) == moved, "the same run under another name of its database"
    assert [path.name for path in tmp_path.iterdir()] == [PLACE]


def test_a_directory_is_of_one_run(tmp_path: Path) -> None:
    remember(tmp_path, HERE)
    with pytest.raises(ArchiveError, match=r"belongs to the run in .*schema=digits: use another --data-dir"):
        remember(tmp_path, StoreAddress(HERE.url, "letters"))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / LEDGER).touch()
    with pytest.raises(ArchiveError, match=r"holds a run of its own.*zowarmup restore"):
        remember(tmp_path / "own", HERE)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"store": 3}', '{"store": "sqlite:///x"}', '{"store": "postgresql://db/x"}']
)
def test_what_says_nothing_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / PLACE).write_text(content)
    with pytest.raises(ArchiveError, match=r"store\.json"):
        remembered(tmp_path)

import gc

import pytest

from zowarmup.common.system.garbage import kept_to_the_end, uncollected


def test_nothing_is_collected_meanwhile_and_then_as_before() -> None:
    assert gc.isenabled()
    with uncollected():
        assert not gc.isenabled()
        with uncollected():
            pass
        assert not gc.isenabled(), "whoever is outside is not done"
    assert gc.isenabled()


def test_collections_go_on_after_an_error() -> None:
    with pytest.raises(KeyError), uncollected():
        raise KeyError
    assert gc.isenabled()


def test_what_there_is_at_the_end_is_in_no_collection() -> None:
    kept = [[]]  # type: ignore[var-annotated]
    before = gc.get_freeze_count()
    kept_to_the_end()
    assert gc.get_freeze_count() > before
    assert not any(found is kept for found in gc.get_objects())

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zowarmup.server.core.persistent_map import SMALLEST, PersistentMap

CHANGES = st.lists(st.tuples(st.integers(0, 60), st.one_of(st.none(), st.integers())), max_size=300)


@given(CHANGES)
def test_it_is_a_dict_and_what_it_came_from_stays_as_it_was(changes: list[tuple[int, int | None]]) -> None:
    table: PersistentMap[int, int] = PersistentMap()
    expected: dict[int, int] = {}
    before: list[tuple[PersistentMap[int, int], dict[int, int]]] = []
    for key, value in changes:
        before.append((table, dict(expected)))
        if value is None:
            table = table.remove(key)
            expected.pop(key, None)
        else:
            table = table.set(key, value)
            expected[key] = value
    for found, meant in [*before, (table, expected)]:
        assert found == meant
        assert list(found.items()) == list(meant.items())
        assert (list(found), list(found.values()), list(found.keys())) == (list(meant), [*meant.values()], list(meant))
        assert len(found) == len(meant)
        assert [found.get(key, "none") for key in range(61)] == [meant.get(key, "none") for key in range(61)]
        assert [key in found for key in range(61)] == [key in meant for key in range(61)]


def test_a_key_that_is_not_there() -> None:
    for table in (PersistentMap({"a": 1}), PersistentMap({"a": 1}).set("b", 2)):
        with pytest.raises(KeyError):
            table["c"]
        assert table.get("c") is None
        assert table.remove("c") is table


def test_it_begins_with_a_copy() -> None:
    given_dict = {"a": 1}
    table = PersistentMap(given_dict)
    given_dict["a"] = 2
    assert table["a"] == 1
    assert isinstance(table, Mapping)


def test_what_a_change_copies_grows_with_the_square_root() -> None:
    """The small dict, which each change copies, stays small; the large one is copied once in so many changes."""
    table: PersistentMap[int, int] = PersistentMap()
    copied = 0
    for key in range(10_000):
        lower = table._lower
        copied += len(table._upper)
        table = table.set(key, key)
        copied += len(table._lower) if table._lower is not lower else 0
    assert len(table._upper) <= max(SMALLEST, 100) + 1
    assert copied < 10_000 * 3 * 100

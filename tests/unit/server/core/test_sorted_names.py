import pytest
from hypothesis import given
from hypothesis import strategies as st

from zowarmup.server.core import sorted_names
from zowarmup.server.core.sorted_names import LONGEST, SortedNames

CHANGES = st.lists(st.tuples(st.booleans(), st.text("abc-", max_size=4)), max_size=200)


@pytest.fixture(autouse=True)
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few names are in many parts."""
    monkeypatch.setattr(sorted_names, "LONGEST", 4)


@given(CHANGES)
def test_it_is_a_sorted_set_and_what_it_came_from_stays_as_it_was(changes: list[tuple[bool, str]]) -> None:
    names, expected = SortedNames(), set[str]()
    before: list[tuple[SortedNames, set[str]]] = []
    for comes, name in changes:
        before.append((names, set(expected)))
        changed = names.add(name) if comes else names.discard(name)
        assert (changed is names) == ((name in expected) == comes), "nothing is made where nothing changes"
        names = changed
        (expected.add if comes else expected.discard)(name)
    for found, meant in [*before, (names, expected)]:
        assert list(found) == sorted(meant)
        assert [found.at(place) for place in range(len(found))] == sorted(meant)
        assert len(found) == len(meant)
        assert all((name in found) == (name in meant) for _, name in changes)
        with pytest.raises(IndexError):
            found.at(len(meant))


@given(st.lists(st.text("abc-", max_size=4), max_size=60), st.randoms())
def test_it_does_not_tell_in_which_order_names_came(given_names: list[str], chance) -> None:  # type: ignore[no-untyped-def]
    def made(order: list[str], passing: str) -> SortedNames:
        names = SortedNames().add(passing)
        for name in order:
            names = names.add(name)
        return names if passing in order else names.discard(passing)

    shuffled = list(given_names)
    chance.shuffle(shuffled)
    one, other = made(given_names, "a"), made(shuffled, "zz")
    assert one == other == SortedNames(given_names)
    assert hash(one) == hash(other)
    assert one != one.add("zzz")


def test_what_a_change_copies_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One part, and the list of the parts."""
    monkeypatch.undo()
    names = SortedNames()
    for number in range(20_000):
        before, names = names, names.add(f"{number * 7919 % 20_000:05}")
        assert len({*map(id, names._parts)} - {*map(id, before._parts)}) <= 2
    assert all(len(part) <= LONGEST for part in names._parts)
    assert len(names._parts) <= 2 * 20_000 // LONGEST + 1

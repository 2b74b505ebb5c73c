"""Names in ascending order: immutable, with cheap changed copies, and each found by its place.

For who is connected: a round's participants are drawn by their places, so that nobody looks at all the others. What is at a place follows from
the names alone, in whatever order they came.

The names are in parts of at most LONGEST. A change copies one of them, and the list of the parts: with a million names some thousand references
each.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator
from itertools import accumulate, chain

LONGEST = 1024

_Part = tuple[str, ...]


class SortedNames(Collection[str]):
    """Equal to those with the same names. Safe to read from any thread."""

    __slots__ = ("_ends", "_parts")

    def __init__(self, names: Iterable[str] = ()) -> None:
        every = sorted({*names})
        self._parts: tuple[_Part, ...] = tuple(
            tuple(every[start : start + LONGEST]) for start in range(0, len(every), LONGEST)
        )
        self._ends: tuple[int, ...] | None = None

    def add(self, name: str) -> "SortedNames":
        """These names and another; the same object where it is among them."""
        number, part = self._part_of(name)
        place = bisect_left(part, name)
        if part[place : place + 1] == (name,):
            return self
        longer = (*part[:place], name, *part[place:])
        half = len(longer) // 2
        return self._with(number, (longer,) if len(longer) <= LONGEST else (longer[:half], longer[half:]))

    def discard(self, name: str) -> "SortedNames":
        """These names without one; the same object where it is not among them."""
        number, part = self._part_of(name)
        place = bisect_left(part, name)
        if part[place : place + 1] != (name,):
            return self
        shorter = (*part[:place], *part[place + 1 :])
        return self._with(number, (shorter,) if shorter else ())

    def at(self, place: int) -> str:
        """The name that so many others stand before. Raises IndexError."""
        if not 0 <= place < len(self):
            raise IndexError(f"place {place} of {len(self)} names")
        ends = self._lengths()
        number = bisect_right(ends, place)
        return self._parts[number][place - ends[number]]  # from the part's end

    def __len__(self) -> int:
        return self._lengths()[-1] if self._parts else 0

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(self._parts)

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        _, part = self._part_of(name)
        place = bisect_left(part, name)
        return part[place : place + 1] == (name,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SortedNames) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"SortedNames({list(self)!r})"

    def _part_of(self, name: str) -> tuple[int, _Part]:
        """The part that a name is in, or belongs in, and its number; an empty one where there is none yet."""
        number = max(0, bisect_right(self._parts, name, key=_first) - 1)
        return number, self._parts[number] if self._parts else ()

    def _with(self, number: int, parts: tuple[_Part, ...]) -> "SortedNames":
        changed = SortedNames()
        changed._parts = (*self._parts[:number], *parts, *self._parts[number + 1 :])
        return changed

    def _lengths(self) -> tuple[int, ...]:
        """How many names the parts up to each one hold, made when they are first asked for."""
        if self._ends is None:
            self._ends = tuple(accumulate(map(len, self._parts)))
        return self._ends


def _first(part: _Part) -> str:
    return part[0]

"""A persistent map: immutable, with cheap changed copies, for what the state keeps of ten thousand clients.

A plain dict costs its whole length to copy, so that a fleet which enrols, connects and contributes one by one costs the
square of its size. A Table is two dicts that are never changed once it holds them: a large one, shared with the tables
it came from, and a small one over it. Only the small one is copied for a change; when it has outgrown the square root of
the large one, the two become one. A change so costs the square root of the length, a look-up that of two dicts at most.
Order is that of a dict: a key keeps the place where it first came in.
"""

from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import TypeVar, overload

_K = TypeVar("_K")
_V = TypeVar("_V")
_D = TypeVar("_D")

SMALLEST = 16
"""With fewer keys, it is one dict."""


class PersistentMap(Mapping[_K, _V]):
    """Equal to any mapping with the same items. Safe to read from any thread."""

    __slots__ = ("_length", "_lower", "_upper")

    def __init__(self, items: Mapping[_K, _V] | None = None) -> None:
        self._lower: dict[_K, _V] = dict(items or {})
        self._upper: dict[_K, _V] = {}
        self._length = len(self._lower)

    def set(self, key: _K, value: _V) -> "PersistentMap[_K, _V]":
        """This table, with a value in the place of the key's old one or at the end."""
        changed: PersistentMap[_K, _V] = PersistentMap.__new__(PersistentMap)
        changed._lower, changed._upper = self._lower, {**self._upper, key: value}
        changed._length = self._length + (key not in self)
        if len(changed._upper) ** 2 > max(SMALLEST**2, len(self._lower)):
            changed._lower, changed._upper = {**changed._lower, **changed._upper}, {}
        return changed

    def remove(self, key: _K) -> "PersistentMap[_K, _V]":
        """This table but for the key. Costs its whole length, as is fit for what is rare."""
        return PersistentMap({k: value for k, value in self.items() if k != key}) if key in self else self

    def __getitem__(self, key: _K) -> _V:
        return self._upper[key] if key in self._upper else self._lower[key]

    @overload
    def get(self, key: _K) -> _V | None: ...
    @overload
    def get(self, key: _K, default: _V | _D) -> _V | _D: ...
    def get(self, key: _K, default: _V | _D | None = None) -> _V | _D | None:
        return self._upper[key] if key in self._upper else self._lower.get(key, default)

    def __contains__(self, key: object) -> bool:
        return key in self._upper or key in self._lower

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[_K]:
        return iter(self._whole())

    def keys(self) -> KeysView[_K]:
        return self._whole().keys()

    def values(self) -> ValuesView[_V]:
        return self._whole().values()

    def items(self) -> ItemsView[_K, _V]:
        return self._whole().items()

    def __repr__(self) -> str:
        return f"Table({self._whole()!r})"

    def _whole(self) -> dict[_K, _V]:
        return {**self._lower, **self._upper} if self._upper else self._lower

"""Profiles of devices: slow, on a bad link, dropping out, available at certain hours only.

A profile says how a client differs from the machine that hosts it, and everything that follows from it is a function of
the profile, a seed, the client, the round and the time: nothing here waits, draws or looks at a clock. What a device
takes longer than its host is waited for before its contribution is said. A mix gives each of its profiles to a share of
the clients, who are dealt in an order of the seed's.
"""

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from zowarmup.common.exact.directions import permutation

DAY_S = 86400.0
# Hours of the day are counted exactly, in milliseconds of a day of 24 hours, however long a day is.
DAY = 24 * 3600 * 1000
_STREAM = 0
_WINDOW = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-(?:([01]\d|2[0-3]):([0-5]\d)|24:00)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """`share` of the clients, relative to the other profiles'. `slowdown`: how many times as long it computes.
    `up_kbit_s`, `down_kbit_s`: its link, in 1000 bits a second; 0: no limit. `drop_out`: the probability that it is cut
    off by the work of a round, to come back after `away_s` seconds. `available`: hours of the day at which it is there,
    as "22:00-07:00"; empty: always."""

    name: str
    share: float = 1.0
    slowdown: float = 1.0
    up_kbit_s: float = 0.0
    down_kbit_s: float = 0.0
    drop_out: float = 0.0
    away_s: float = 30.0
    available: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field, low, high in (
            ("share", 0.0, 1e6),
            ("slowdown", 1.0, 1e6),
            ("up_kbit_s", 0.0, 1e9),
            ("down_kbit_s", 0.0, 1e9),
            ("drop_out", 0.0, 1.0),
            ("away_s", 0.0, 1e6),
        ):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise ValueError(f"profile {self.name}: {field} = {value!r}: must be {low:g} to {high:g}")
        for window in self.available:
            if not isinstance(window, str) or not _WINDOW.fullmatch(window):
                raise ValueError(
                    f'profile {self.name}: available: {window!r}: must be hours of the day such as "22:00-07:00"'
                )

    def delay_s(self, compute_s: float, up_bytes: int, down_bytes: int) -> float:
        """How much longer than its host this device takes for what the host computed in `compute_s`, with so many bytes
        over its link."""
        wait = (self.slowdown - 1) * compute_s
        for size, rate in ((up_bytes, self.up_kbit_s), (down_bytes, self.down_kbit_s)):
            wait += size * 8 / (rate * 1000) if rate else 0.0
        return wait

    def drops(self, seed: int, client: int, round: int) -> bool:
        """Whether the work of a round cuts client number `client` off."""
        return _uniform(seed, "drop", client, round) < self.drop_out

    def absent_s(self, now: float, day_s: float = DAY_S) -> float:
        """Seconds from unix time `now` until it is there; 0: it is."""
        if not self.available:
            return 0.0
        time = _time(now, day_s)
        return min(0 if past < length else DAY - past for past, length in self._windows(time)) * day_s / DAY

    def present_s(self, now: float, day_s: float = DAY_S) -> float:
        """Seconds from unix time `now` for which it stays there; infinite: it always is."""
        if not self.available:
            return math.inf
        start = time = _time(now, day_s)
        while left := max(max(0, length - past) for past, length in self._windows(time)):
            time += left  # where one window ends, another may go on
            if time >= start + DAY:
                return math.inf
        return (time - start) * day_s / DAY

    def _windows(self, time: int) -> list[tuple[int, int]]:
        """Of each window: how long ago it began last, and how long it is."""
        bounds = [[_clock(part) for part in text.split("-")] for text in self.available]
        return [((time - start) % DAY, (stop - start) % DAY or DAY) for start, stop in bounds]


@dataclass(frozen=True, kw_only=True, slots=True)
class Mix:
    """Profiles and how long a day is, seconds, for their hours."""

    profiles: tuple[Profile, ...] = (Profile(name="host"),)
    day_s: float = DAY_S

    def __post_init__(self) -> None:
        if not sum(profile.share for profile in self.profiles) > 0:
            raise ValueError("profiles: there must be one with a share above 0")
        if isinstance(self.day_s, bool) or not isinstance(self.day_s, int | float) or not 1 <= self.day_s <= 1e9:
            raise ValueError(f"profiles: day_s = {self.day_s!r}: must be 1 to 1e9")

    def deal(self, seed: int, clients: int) -> tuple[Profile, ...]:
        """The profile of each client: shares as exact as whole clients allow, in a seeded order."""
        total, before = sum(profile.share for profile in self.profiles), 0.0
        dealt: list[Profile] = []
        for profile in self.profiles:
            before += profile.share
            dealt += [profile] * (round(clients * before / total) - len(dealt))
        return tuple(dealt[place] for place in permutation(seed, _STREAM, clients).tolist())


PI_ZERO = Profile(name="pi-zero", slowdown=20.0, up_kbit_s=1000.0, down_kbit_s=4000.0, drop_out=0.05, away_s=20.0)
"""A Raspberry Pi Zero 2 on Wi-Fi at the edge of its reach."""
PI_4 = Profile(name="pi-4", slowdown=5.0, up_kbit_s=10000.0, down_kbit_s=30000.0, drop_out=0.005, away_s=20.0)
PHONE = Profile(
    name="phone", slowdown=2.0, up_kbit_s=5000.0, down_kbit_s=20000.0, drop_out=0.02, available=("22:00-07:00",)
)
BUILT_IN = {profile.name: profile for profile in (PI_ZERO, PI_4, PHONE)}


def parse(raw: Mapping[str, Any]) -> Mix:
    """A mix as TOML has it: [[profile]] tables with Profile's fields, or `like` one that is built in, and `day_s`. Raises
    ValueError naming the field."""
    if unknown := set(raw) - {"profile", "day_s"}:
        raise ValueError(f"{min(unknown)} is not known: use [[profile]] and day_s")
    tables = raw.get("profile")
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables) or not tables:
        raise ValueError("there must be at least one [[profile]]")
    return Mix(profiles=tuple(_profile(table) for table in tables), day_s=raw.get("day_s", DAY_S))


def _profile(table: Mapping[str, Any]) -> Profile:
    known = [field.name for field in fields(Profile)]
    if unknown := set(table) - {*known, "like"}:
        raise ValueError(f"profile: {min(unknown)} is not known: use like, {', '.join(known)}")
    given = dict(table)
    like = given.pop("like", None)
    if like is not None and (not isinstance(like, str) or like not in BUILT_IN):
        raise ValueError(f"profile: like = {like!r}: must be {', '.join(BUILT_IN)}")
    base = {name: getattr(BUILT_IN[like], name) for name in known} if like else {}
    if type(given.setdefault("name", like)) is not str:
        raise ValueError("profile: name is missing, or no text")
    if "available" in given:
        if not isinstance(given["available"], list):
            raise ValueError(f'profile {given["name"]}: available must be a list such as ["22:00-07:00"]')
        given["available"] = tuple(given["available"])
    return Profile(**{**base, **given})


def _time(now: float, day_s: float) -> int:
    return round(now / day_s % 1 * DAY) % DAY


def _clock(text: str) -> int:
    hours, _, minutes = text.partition(":")
    return (int(hours) * 60 + int(minutes)) * 60 * 1000


def _uniform(seed: int, *what: object) -> float:
    """A number in [0, 1) that follows from its arguments alone."""
    text = "/".join(map(str, (seed, *what)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big") / (1 << 56)

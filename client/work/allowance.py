"""What a device has sent, received and answered today, against its policy: kept on disk, so that a restart forgets nothing.

It is written only where the policy has a limit, and before the work that it counts.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from zowarmup.client.errors import Final, Setback
from zowarmup.client.policy import MEGABYTE, Policy
from zowarmup.client.store.directory import write_whole
from zowarmup.common.system.files import read_given
from zowarmup.common.text import amount

DAY_S = 86400
NOTE_BYTES = 1_000_000
"""So much may have been moved without being on disk: a process that is killed forgets no more."""


@dataclass(frozen=True, slots=True)
class UsedToday:
    """`bytes` over the network and `probes` answered in a `day` (of UTC, counted from 1970), and `probes_in_all`."""

    day: int = 0
    bytes: int = 0
    probes: int = 0
    probes_in_all: int = 0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if type(value) is not int or value < 0:
                raise ValueError(f"usage: {name} = {value!r} is not a count")

    def on(self, day: int) -> Self:
        """The same on that day: a later one begins at nothing. (An earlier one is a clock that was set back.)"""
        return self if day <= self.day else replace(self, day=day, bytes=0, probes=0)

    def and_then(self, more_bytes: int, more_probes: int) -> Self:
        return replace(
            self,
            bytes=self.bytes + more_bytes,
            probes=self.probes + more_probes,
            probes_in_all=self.probes_in_all + more_probes,
        )


class Allowance:
    """`file`: where the usage is kept. `moved`: how many bytes this process has sent and received so far. `now_s`: seconds
    since 1970. Raises Final where the file is damaged."""

    def __init__(
        self, policy: Policy, file: Path, moved: Callable[[], int], now_s: Callable[[], float] = time.time
    ) -> None:
        self._policy, self._file, self._moved, self._now_s = policy, file, moved, now_s
        self._noted = 0
        self._limited = policy.counted
        self.usage = _read(file) if self._limited else UsedToday()

    def note(self) -> None:
        """Count on disk what has been moved."""
        if self._limited:
            self._count()

    def require_bytes(self, coming: int = 0) -> None:
        """See whether so much more may be moved after what has been; to be asked with each piece. Raises Setback until
        tomorrow."""
        if not self._policy.mb_per_day:
            return
        most = self._policy.mb_per_day * MEGABYTE
        uncounted = self._moved() - self._noted
        over = self._today().bytes + uncounted + coming > most
        if over or uncounted >= min(NOTE_BYTES, most / 10):
            self._count()
        if over:
            raise self._until_tomorrow(
                f"this device's {amount(int(most))} of today are used up (mb_per_day in --policy)"
            )

    def require_probes(self, count: int) -> None:
        """Count so many probes that are about to be answered. Raises Setback until tomorrow, or Final where no more may be
        answered at all."""
        if not self._limited:
            return
        usage, policy = self._today(), self._policy
        if policy.probes and usage.probes_in_all + count > policy.probes:
            raise Final(f"this device has answered {usage.probes_in_all} probes, of {policy.probes} in all (--policy)")
        if policy.probes_per_day and usage.probes + count > policy.probes_per_day:
            raise self._until_tomorrow(
                f"this device has answered {usage.probes} probes today, of {policy.probes_per_day} a day (--policy)"
            )
        self._count(count)

    def _count(self, probes: int = 0) -> None:
        moved = self._moved()
        usage = self._today().and_then(moved - self._noted, probes)
        if usage != self.usage:
            write_whole(self._file, json.dumps(asdict(usage)).encode())
        self.usage, self._noted = usage, moved

    def _today(self) -> UsedToday:
        return self.usage.on(int(self._now_s() // DAY_S))

    def _until_tomorrow(self, reason: str) -> Setback:
        now_s = self._now_s()
        return Setback(reason, (self.usage.day + 1) * DAY_S - now_s if self.usage.day else DAY_S - now_s % DAY_S)


def _read(file: Path) -> UsedToday:
    try:
        return UsedToday(**json.loads(read_given(file)))
    except FileNotFoundError:
        return UsedToday()
    except OSError as error:
        raise Final(f"cannot read {file} ({error.strerror}): make it readable for this user") from None
    except (ValueError, TypeError, RecursionError):
        raise Final(
            f"{file}, which counts what this device has answered, is damaged: remove it to count anew"
        ) from None

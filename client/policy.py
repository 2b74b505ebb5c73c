"""The owner's policy: limits on what a coordinator may ask of this device, and how much of them is used up.

A coordinator chooses the model, the program, its size and how often it is asked. The device's owner sets the limits, in
a TOML file (`--policy`) and by `--allow-model`. What is beyond them is refused in one sentence, which goes to this
device's log and, as an abstention's reason, to the coordinator's. What has been sent, received and answered today is kept on
disk, so that a restart forgets nothing: only where the policy has such a limit, and before the work that it counts.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from zowarmup.client.errors import Final, Limit, Setback
from zowarmup.common.algorithms.gaussian_privacy import epsilon_of
from zowarmup.common.algorithms.settings import ZerothOrder
from zowarmup.common.settings.privacy import Privacy
from zowarmup.common.settings.run import BUILT_IN, PRETRAINED
from zowarmup.common.system.files import read_given, write_durably
from zowarmup.common.text import amount

MEGABYTE = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """`models`: whose code may run here, where this device trains or probes by torch: built-in models, and
    package.module:factory, which the coordinator then has imported and called; and algorithms and tasks named as
    package.module:Algorithm and package.module:Task, on either tier. `program_mb`: the largest forward pass,
    as a file. `snapshot_mb`: the largest model. `forward_memory_mb`: what a forward pass may take beside the weights (0:
    what this device's memory has left). `forward_s`: how long one may last, over one micro-batch, and how long loading the
    program may. `contribution_s`: how long training or probing for one round may take, on either tier; it ends at the next
    batch. Under differential privacy a pass is of one example, and each has an equal part of `contribution_s`: what takes longer counts
    as nothing, and the device answers.

    `mb_per_day`: what may go over the network, either way, in a day of UTC (0: no limit). `probes_per_day` and `probes`:
    how many probes of this device's examples are answered in a day, and in all (0: no limit): each tells the coordinator
    one number about them, and each value of a delta counts as one.

    `epsilon`: the most that a run may tell of one example of this device's, by differential privacy at `delta` (0: no limit): a
    run whose budget is larger, or that has none, is not joined, nor one in which this device would train. `shared_noise`: whether
    noise counts for that which the other devices of a round add; else this device's own alone does, as the coordinator could make the
    others up. `secure_aggregation`: whether a run is joined only where its coordinator learns sums alone of what devices measure.
    """

    models: tuple[str, ...] = BUILT_IN
    program_mb: float = 16.0
    snapshot_mb: float = 4096.0
    forward_memory_mb: float = 0.0
    forward_s: float = 300.0
    contribution_s: float = 86400.0
    mb_per_day: float = 0.0
    probes_per_day: int = 0
    probes: int = 0
    epsilon: float = 0.0
    delta: float = 1e-5
    shared_noise: bool = False
    secure_aggregation: bool = False

    def __post_init__(self) -> None:
        for name in self.models:
            if name not in BUILT_IN and not _is_factory(name):
                allowed = f"{', '.join(BUILT_IN)} or package.module:factory"
                raise ValueError(f"models: {name!r} is none of {allowed}")
        for field in ("program_mb", "snapshot_mb", "forward_s", "contribution_s"):
            if not 0.001 <= getattr(self, field) <= 1e9:
                raise ValueError(f"{field} = {getattr(self, field)!r}: must be 0.001 to 1e9")
        for field in ("forward_memory_mb", "mb_per_day"):
            if not 0 <= getattr(self, field) <= 1e9:
                raise ValueError(f"{field} = {getattr(self, field)!r}: must be 0 (no limit of its own) to 1e9")
        for field in ("probes_per_day", "probes"):
            if not 0 <= getattr(self, field) <= 10**12:
                raise ValueError(f"{field} = {getattr(self, field)!r}: must be 0 (no limit) to 10^12")

        if not 0 <= self.epsilon <= 1e6:
            raise ValueError(f"epsilon = {self.epsilon!r}: must be 0 (no limit) to 1e6")
        if not 0 < self.delta < 1:
            raise ValueError(f"delta = {self.delta!r}: must be above 0 and below 1")

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> Self:
        """Raises ValueError naming the field where the table is no policy."""
        raw = dict(table)
        known = {field.name: field.default for field in fields(cls)}
        for name, value in raw.items():
            if name not in known:
                raise ValueError(f"there is no field {name!r}; there are {', '.join(known)}")
            if name == "models":
                if not isinstance(value, list) or not all(isinstance(model, str) for model in value):
                    raise ValueError(f"models = {value!r}: must be a list of names")
                raw[name] = tuple(value)
            elif isinstance(known[name], bool):
                if not isinstance(value, bool):
                    raise ValueError(f"{name} = {value!r}: must be true or false")
            elif isinstance(value, bool) or not isinstance(value, int if isinstance(known[name], int) else int | float):
                raise ValueError(
                    f"{name} = {value!r}: must be a {'whole ' if isinstance(known[name], int) else ''}number"
                )
        return cls(**raw)

    def allowing(self, models: Sequence[str]) -> Self:
        """The same, with more models. Raises ValueError where one is not the name of a model."""
        return replace(self, models=tuple(dict.fromkeys((*self.models, *models))))

    @property
    def counted(self) -> bool:
        """Whether it limits how much, and a device has to count."""
        return bool(self.mb_per_day or self.probes_per_day or self.probes)

    def refused_model(self, name: str) -> str:
        """Why the code of a model is not run here, as a sentence; empty where it is."""
        if name in self.models or name.startswith(PRETRAINED):  # of which the code is this package's
            return ""
        return (
            f"this device does not run the code of model {name}: its owner can allow it with --allow-model {name}, or as "
            "one of the models in --policy"
        )

    def require_model(self, name: str) -> None:
        """Raises Final where the code of that model is not to be run here."""
        if refusal := self.refused_model(name):
            raise Final(refusal)

    def require_privacy(self, privacy: Privacy, zeroth_order: ZerothOrder, trains: bool) -> None:
        """Raises Final where a run may tell more of an example, or of this device, than its owner allows.

        Args:
            privacy: The run's.
            zeroth_order: The settings of its rounds.
            trains: Whether this device would train in its warm-up.
        """
        if self.secure_aggregation and not privacy.secure_aggregation:
            raise Final(
                "the coordinator would learn what this device measures: the run has no secure aggregation, and this device's "
                "owner joins none without (--policy)"
            )
        if self.secure_aggregation and trains:
            raise Final(
                "the coordinator would learn what this device trains: the run's warm-up has no secure aggregation, whatever it says of the "
                "data, and this device's owner joins none without (--policy): take --tier low"
            )
        if not self.epsilon:
            return
        told, why = math.inf, ", as it has no differential privacy"
        if privacy.on:
            budget, why = privacy.budget(zeroth_order.rounds), ""
            multiplier = budget.multiplier
            if privacy.shares_noise and not self.shared_noise:
                multiplier = privacy.multiplier_alone(zeroth_order)
                why = " by its own noise alone (shared_noise = true counts the other devices')"
            told = epsilon_of(multiplier, budget.releases, self.delta)
        allowed = f"this device's owner allows epsilon {self.epsilon:g} at delta {self.delta:g} (--policy)"
        if told > self.epsilon:
            bound = f"up to epsilon {told:.4g}" if math.isfinite(told) else "without a bound"
            raise Final(f"the run would tell of an example of this device {bound}{why}, and {allowed}")
        if trains:
            raise Final(
                f"the run's warm-up trains on this device's data, of which deltas tell without a bound, and {allowed}: "
                "take --tier low"
            )

    def require_program(self, size_bytes: int) -> None:
        """Raises Final where a program is larger than this device takes."""
        _require(size_bytes, self.program_mb, "program_mb", "the run's program")

    def require_snapshot(self, size_bytes: int) -> None:
        """Raises Final where a model is larger than this device takes."""
        _require(size_bytes, self.snapshot_mb, "snapshot_mb", "the run's model")


def read_policy(file: Path | None, allowed: Sequence[str] = ()) -> Policy:
    """The policy of a TOML file (the default one without), with more models. Raises Final where the file is not one."""
    policy = Policy() if file is None else _written(file)
    try:
        return policy.allowing(allowed)
    except ValueError as error:
        raise Final(f"--allow-model: {error}") from None


def _written(file: Path) -> Policy:
    from zowarmup.common.system.files import TomlError, read_toml  # loads a parser

    try:
        return Policy.of(read_toml(file))
    except TomlError as error:
        raise Final(f"--policy {error}") from None
    except ValueError as error:
        raise Final(f"--policy {file}: {error}") from None


def _require(size_bytes: int, most_mb: float, field: str, what: str) -> None:
    if size_bytes > most_mb * MEGABYTE:
        raise Final(
            f"{what} has {amount(size_bytes)}, this device takes at most {amount(int(most_mb * MEGABYTE))}: its owner can "
            f"raise {field} in --policy"
        )


def _is_factory(name: str) -> bool:
    path, colon, attribute = name.partition(":")
    return bool(colon) and attribute.isidentifier() and all(part.isidentifier() for part in path.split("."))


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
    """What a device may still send, receive and answer.

    Args:
        policy: Of its owner.
        file: Where the usage is kept.
        moved: How many bytes this process has sent and received so far.
        now_s: Seconds since 1970.

    Raises:
        Final: The file is damaged.
    """

    def __init__(
        self, policy: Policy, file: Path, moved: Callable[[], int], now_s: Callable[[], float] = time.time
    ) -> None:
        self._policy, self._file, self._moved, self._now_s = policy, file, moved, now_s
        self._noted = 0
        self._limited = policy.counted
        self.usage = _usage_in(file) if self._limited else UsedToday()

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
        """Count probes that are about to be answered. Raises Setback until tomorrow, or Final where no more may be
        answered at all."""
        if not self._limited:
            return
        usage, policy = self._today(), self._policy
        if policy.probes and usage.probes_in_all + count > policy.probes:
            raise Limit(f"this device has answered {usage.probes_in_all} probes, of {policy.probes} in all (--policy)")
        if policy.probes_per_day and usage.probes + count > policy.probes_per_day:
            raise self._until_tomorrow(
                f"this device has answered {usage.probes} probes today, of {policy.probes_per_day} a day (--policy)"
            )
        self._count(count)

    def _count(self, probes: int = 0) -> None:
        moved = self._moved()
        usage = self._today().and_then(moved - self._noted, probes)
        if usage != self.usage:
            try:
                write_durably(self._file, json.dumps(asdict(usage)).encode())
            except OSError as error:
                raise Final(f"cannot write {self._file} ({error.strerror or error}): free space there") from None
        self.usage, self._noted = usage, moved

    def _today(self) -> UsedToday:
        return self.usage.on(int(self._now_s() // DAY_S))

    def _until_tomorrow(self, reason: str) -> Setback:
        now_s = self._now_s()
        absent_s = (self.usage.day + 1) * DAY_S - now_s if self.usage.day else DAY_S - now_s % DAY_S
        return Setback(reason, absent_s, told=reason)


def _usage_in(file: Path) -> UsedToday:
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

"""The record of what a device has released under differential privacy: how often, and what it released last.

It is on disk, counted, before a release leaves the device. So what is asked for again, because an answer was lost or this process was
restarted, is answered by the same numbers, noise included, and tells nothing new; and nothing has left that is not counted.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from zowarmup.client.errors import Final
from zowarmup.common.messages.small_floats import Precision
from zowarmup.common.messages.values import Scalars, Work
from zowarmup.common.system.files import read_given, write_durably

LONGEST_BYTES = 1 << 20
"""Of 8,192 scalars as JSON has them, and more."""


@dataclass(frozen=True, slots=True)
class Released:
    """What has been released so far.

    Args:
        count: How many releases there were.
        seed: Of the work that the last one answered.
        version: Which that work was to start from.
        told: The sum of 1 / multiplier^2 over all of them, each with the noise multiplier that it was made with: what they tell together is what one
            release with multiplier told^(-1/2) does (`algorithms.gaussian_privacy`).
        told_alone: The same of this device's own noise, which is less where devices share it.
        scalars: The last one; None where there was none, or where it was a masked part of a sum, which no later process can give.
    """

    count: int = 0
    seed: int = 0
    version: int = 0
    told: float = 0.0
    told_alone: float = 0.0
    scalars: Scalars | None = None

    def __post_init__(self) -> None:
        for name, value in (("count", self.count), ("seed", self.seed), ("version", self.version)):
            if type(value) is not int or value < 0:
                raise ValueError(f"releases: {name} = {value!r} is not a count")
        for name, told in (("told", self.told), ("told_alone", self.told_alone)):
            if type(told) is not float or not 0 <= told < math.inf or bool(told) != bool(self.count):
                raise ValueError(f"releases: {name} = {told!r} is not what {self.count} releases tell")

    def answer(self, work: Work) -> Scalars | None:
        """What was released to this very work; None where nothing was."""
        asked = (work.round, work.seed, work.version)
        known = self.scalars
        return known if known is not None and (known.round, self.seed, self.version) == asked else None

    def and_then(self, work: Work, scalars: Scalars | None, multiplier: float, alone: float) -> Self:
        """With one more, of these noise multipliers."""
        told, told_alone = self.told + multiplier**-2, self.told_alone + alone**-2
        return type(self)(self.count + 1, work.seed, work.version, told, told_alone, scalars)


class ReleaseFile:
    """Where it is kept.

    Args:
        file: Of one member of one run.

    Raises:
        Final: The file is damaged: nobody knows then what has left.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.released = _read(file)

    @property
    def passes(self) -> Path:
        """Where it is noted beside it which example is passed through the program (`PassFile`)."""
        return self._file.with_suffix(".passes")

    def keep(self, released: Released) -> None:
        """Write it, before it leaves. Raises Final where the disk refuses."""
        content = {name: getattr(released, name) for name in ("count", "seed", "version", "told", "told_alone")}
        if (scalars := released.scalars) is not None:
            content |= {
                "round": scalars.round,
                "probes": scalars.probes,
                "projections": scalars.projections,
                "precision": str(scalars.precision),
            }
        try:
            write_durably(self._file, json.dumps(content).encode())
        except OSError as error:
            raise Final(f"cannot write {self._file} ({error.strerror or error}): free space there") from None
        self.released = released


def _read(file: Path) -> Released:
    try:
        raw = json.loads(read_given(file, LONGEST_BYTES))
        scalars = None
        if "round" in raw:
            scalars = Scalars(
                raw["round"], tuple(raw["probes"]), tuple(raw["projections"]), precision=Precision(raw["precision"])
            )
        return Released(raw["count"], raw["seed"], raw["version"], raw["told"], raw["told_alone"], scalars)
    except FileNotFoundError:
        return Released()
    except OSError as error:
        raise Final(f"cannot read {file} ({error.strerror or error}): make it readable for this user") from None
    except (ValueError, TypeError, KeyError, RecursionError):
        raise Final(
            f"{file}, which counts what this device has released, is damaged: what it may still release is not known; "
            "leave this run"
        ) from None

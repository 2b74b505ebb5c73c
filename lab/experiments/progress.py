"""The progress of an experiment. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from zowarmup.cli.units import counted, duration

SHOWN = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """`done` of `total` cells are over, `failed` could not be; `running` are the jobs at work. `left_s`: about how long the
    rest will take; None: nobody knows yet."""

    total: int
    done: int
    failed: int
    running: tuple[str, ...]
    left_s: float | None

    def line(self) -> str:
        parts = [f"{self.done:,} of {counted(self.total, 'cell')}"]
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        if self.running:
            more = len(self.running) - SHOWN
            parts.append(", ".join(self.running[:SHOWN]) + (f" and {more} more" if more > 0 else ""))
        if self.left_s is not None and self.done + self.failed < self.total:
            parts.append(f"about {duration(self.left_s)} left")
        return " | ".join(parts)


def left_s(took: Mapping[str, Sequence[float]], waiting: Sequence[str], jobs: int) -> float | None:
    """About how many seconds the waiting jobs will take, `jobs` at a time: each as long as those of its kind have taken
    on average or, before there is one of them, as all have. `took` and `waiting` are by kind."""
    every = [seconds for some in took.values() for seconds in some]
    if not every:
        return None
    usual = sum(every) / len(every)
    means = {kind: sum(some) / len(some) for kind, some in took.items() if some}
    return sum(means.get(kind, usual) for kind in waiting) / jobs


def default_jobs(cores: int, memory_bytes: int, each_bytes: int) -> int:
    """How many jobs a machine carries at a time: a core each, and memory for all of them."""
    return max(1, min(cores, memory_bytes // each_bytes))

"""Where the event log of a run in a data directory is kept: in its SQLite file, or in memory beside it.

One object of these goes through a whole test, as the disk does: what lives have written is there for the next one. A crash
keeps an image of the log as of the moment, like the one of the data directory.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from zowarmup.server.store.data_dir import LEDGER
from zowarmup.server.store.event_log import EventLog, MemoryEventLog
from zowarmup.server.store.ledger import Ledger


class Logs(Protocol):
    """Event logs by data directory."""

    def open(self, data_dir: Path) -> EventLog:
        """The data directory's log, made where there is none; closed by whoever opened it."""
        ...

    def keep_image(self, data_dir: Path) -> None:
        """Keep what a kill at this moment would leave, unless the data directory holds it."""
        ...

    def restore(self, data_dir: Path) -> None:
        """Let that be the log."""
        ...

    def export(self, data_dir: Path) -> None:
        """Write the log to the data directory's file, for what reads only that (an archive, fsck), unless it is there."""
        ...


class SqliteLogs:
    """The data directory's own file."""

    def open(self, data_dir: Path) -> Ledger:
        return Ledger(data_dir / LEDGER)

    def keep_image(self, data_dir: Path) -> None:
        pass

    def restore(self, data_dir: Path) -> None:
        pass

    def export(self, data_dir: Path) -> None:
        pass


class MemoryLogs:
    """In this process."""

    def __init__(self) -> None:
        self._logs: dict[Path, MemoryEventLog] = {}
        self._images: dict[Path, MemoryEventLog] = {}

    def open(self, data_dir: Path) -> MemoryEventLog:
        return self._logs.setdefault(data_dir, MemoryEventLog())

    def keep_image(self, data_dir: Path) -> None:
        self._images[data_dir] = MemoryEventLog(self.open(data_dir).read())

    def restore(self, data_dir: Path) -> None:
        self._logs[data_dir] = self._images.pop(data_dir)

    def export(self, data_dir: Path) -> None:
        ledger = Ledger(data_dir / LEDGER)
        try:
            end = sum(1 for _ in ledger.read())
            for at, event in list(self.open(data_dir).read(end)):
                end = ledger.append([event], at, end)
            ledger.fold()
        finally:
            ledger.close()


EVENT_LOGS: Mapping[str, Callable[[], Logs]] = {"sqlite": SqliteLogs, "memory": MemoryLogs}

"""What `zowarmup fsck` says of a data directory, and `zowarmup backup` makes of it."""

import json
from dataclasses import asdict
from pathlib import Path

from zowarmup.cli.failure import CommandError
from zowarmup.server.store.archive import ArchiveError, Copied, back_up
from zowarmup.server.store.blobs import BlobError
from zowarmup.server.store.fsck import CheckReport, check, locked, repair
from zowarmup.server.store.ledger import LedgerError


def fsck(data_dir: Path, mend: bool) -> CheckReport:
    """Check a data directory, or repair it. Raises CommandError where it is in use or beyond both."""
    try:
        with locked(data_dir):
            return repair(data_dir) if mend else check(data_dir)
    except (ArchiveError, BlobError, LedgerError) as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(f"{data_dir} cannot be read: {error.strerror or error}") from error


def backup(data_dir: Path, out: Path) -> Copied:
    """Copy a data directory to a new folder. Raises CommandError where that cannot be done."""
    try:
        return back_up(data_dir, out)
    except (ArchiveError, BlobError, LedgerError) as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(f"{error.filename or out} cannot be copied: {error.strerror or error}") from error


def told(report: CheckReport, data_dir: Path, as_json: bool) -> str:
    """The report, for a person or a program."""
    if as_json:
        return json.dumps(asdict(report))
    lines = [f"{report.events} events, {report.checked} versions computed anew"]
    lines += [f"damaged: {problem}" for problem in report.problems]
    lines += [f"note: {note}" for note in report.notes[:3]]
    if report.digest:
        newest = "last good version" if report.problems else "version"
        lines.append(f"{newest} {report.version}, digest {report.digest}")
    if report.kept:
        lines.append(f"the run goes on from version {report.version}; all that was found is kept in {report.kept}")
    elif report.problems:
        lines.append(f"`zowarmup fsck {data_dir} --repair` goes back to the last good version and keeps what is there")
    else:
        lines.append("nothing is damaged")
    return "\n".join(lines)

"""The device's state directory, and its owner.

One directory belongs to one client of one run: `identity.json` (its name in the run and its secret, mode 600; before
it is a member, `enrolment.json`), `signing.key` (in a run with secure aggregation), `authority.pem` (who signs the coordinator's
certificate), `lock`, the replica (`replica`), what it was offered (`offer.json`), what was released under differential privacy (`releases`) and the run's artifacts. A
lock keeps a second process out; every file is written to a temporary name, synced and
renamed, so a power cut leaves the old file or the new one.
"""

import json
import logging
import os
import re
import secrets
import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from zowarmup.client.errors import Final
from zowarmup.common.messages.values import BASE, PROGRAM, TOKENIZER, Tier
from zowarmup.common.system.files import (
    Busy,
    OpenFolder,
    exclusive,
    holder,
    make_private,
    read_given,
    strangers,
    write_durably,
)

log = logging.getLogger(__name__)

IDENTITY = "identity.json"
ENROLMENT = "enrolment.json"
SIGNING = "signing.key"
AUTHORITY = "authority.pem"
LOCK = "lock"
SIGNING_BYTES = 32
USAGE = "usage.json"
RELEASES = "releases.json"
OFFERED = "offer.json"
OURS = (
    IDENTITY,
    ENROLMENT,
    SIGNING,
    AUTHORITY,
    LOCK,
    USAGE,
    RELEASES,
    OFFERED,
    "releases-*.json",
    "releases*.passes",
    "*.new",
    "snapshot-*",
    "commits-*.log",
    *(f"{name}-*" for name in (PROGRAM, BASE, TOKENIZER)),
)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this device is: the coordinator's name for it, its secret (hex), the run, the tier it enrolled in."""

    client: str
    credential: str = field(repr=False)
    run_id: str
    tier: Tier
    name: str

    def __post_init__(self) -> None:
        for said in ("client", "credential", "run_id"):
            if not (isinstance(getattr(self, said), str) and getattr(self, said)):
                raise ValueError(f"{said} is missing or empty")


def client_name(text: str) -> str:
    """A name that a client may have. Raises ValueError."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", text):
        raise ValueError(f"{text!r} must be 1 to 63 letters, digits, '.', '_' or '-', and begin with a letter or digit")
    return text


def default_name() -> str:
    """The host's name without its domain, in the characters that a client's name may have."""
    host = socket.gethostname().partition(".")[0]
    return re.sub(r"[^A-Za-z0-9-]+", "-", host).strip("-")[:63] or "client"


def default_directory(name: str) -> Path:
    """Where a client of this name keeps its state when it is not told (XDG base directories, by which a relative
    XDG_STATE_HOME does not count). Raises Final where this user has no home."""
    base = Path(os.environ.get("XDG_STATE_HOME", ""))
    if base.is_absolute():
        return base / "zowarmup" / name
    try:
        home = Path(os.environ["HOME"]) if "HOME" in os.environ else Path.home()
    except RuntimeError:
        home = Path()
    if not home.is_absolute():
        raise Final("this user has no home directory: say where to keep the state, with --state-dir or HOME")
    return home / ".local" / "state" / "zowarmup" / name


class Records:
    """What a client's directory says, for whoever may read it: beside the client that holds it, too."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def identity(self) -> Identity | None:
        """Who this device is, None where it never enrolled. Raises Final where the file is damaged."""
        file = self.path / IDENTITY
        try:
            raw = json.loads(read_given(file))
            return Identity(raw["client"], raw["credential"], raw["run_id"], Tier(raw["tier"]), str(raw["name"]))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Final(f"cannot read {file} ({error.strerror}): make it readable for this user") from None
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise Final(
                f"{file} is damaged ({error}): move it away to enrol this device anew, or give another --state-dir"
            ) from None

    def identity_for(self, run_id: str, run_name: str) -> Identity | None:
        """The identity that this device has in a run. Raises Final where the directory belongs to another run."""
        identity = self.identity()
        if identity is not None and identity.run_id != run_id:
            raise Final(
                f"the state directory {self.path} belongs to another run ({identity.run_id}) than the coordinator's "
                f"({run_name}, {run_id}): give another --state-dir, or remove this one if that run is over"
            )
        return identity

    def in_use(self) -> bool:
        """Whether a client holds the directory now."""
        try:
            return holder(self.path / LOCK) is not None
        except OSError:
            return False  # it cannot be looked at

    def authority(self) -> bytes:
        """PEM of the authority that signs the coordinator's certificate, empty where none has been kept."""
        try:
            return read_given(self.path / AUTHORITY)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise Final(f"cannot read {self.path / AUTHORITY} ({error.strerror})") from None


class StateDirectory(Records):
    """A client's directory, held by this process alone from construction to `close`.

    Raises Final where it cannot be made, written or is held by another process.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            known = (path / IDENTITY).exists() or (path / ENROLMENT).exists()
            if not known and (found := strangers(path, OURS)):
                raise Final(
                    f"the state directory {path} is not empty and holds no client's state ({found}): name a new or an "
                    "empty folder with --state-dir"
                )
            make_private(path)
            self._lock = exclusive(path / LOCK)
        except Busy:
            raise Final(
                f"another process takes part with the state directory {path}: stop it, or give this one its own with "
                "--state-dir"
            ) from None
        except OpenFolder as error:
            raise Final(
                f"cannot use the state directory {path}: {error.strerror}; give one in it that does not exist yet, or one "
                "of this user's, with --state-dir"
            ) from None
        except OSError as error:
            raise Final(
                f"cannot use the state directory {path} ({error.strerror or error}): give one that this user can "
                "write, with --state-dir"
            ) from None

    def close(self) -> None:
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def keep(self, identity: Identity) -> None:
        """Make the identity durable, readable for this user only. Raises Final where the disk refuses."""
        write_whole(self.path / IDENTITY, json.dumps(asdict(identity), indent=1).encode())
        remove(self.path, ENROLMENT)

    def credential_for(self, run_id: str, tier: Tier) -> str:
        """The secret to enrol with: the one of an enrolment of the same kind that got no answer, else a new one, durable
        before it is returned. Raises Final where the disk refuses."""
        file = self.path / ENROLMENT
        wanted = {"run_id": run_id, "tier": tier.value}
        try:
            known = json.loads(read_given(file))
            if {key: known[key] for key in wanted} == wanted:
                return str(known["credential"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # there is none, or it is of no use
        credential = secrets.token_hex(32)
        write_whole(file, json.dumps({**wanted, "credential": credential}).encode())
        return credential

    def signing_key(self) -> bytes:
        """The private key by which this device is known in a run with secure aggregation, 32 bytes; made, and durable, where
        there is none yet. Raises Final where the file is damaged, or the disk refuses."""
        file = self.path / SIGNING
        try:
            known = read_given(file)
        except FileNotFoundError:
            known = secrets.token_bytes(SIGNING_BYTES)
            write_whole(file, known)
        except OSError as error:
            raise Final(f"cannot read {file} ({error.strerror}): make it readable for this user") from None
        if len(known) != SIGNING_BYTES:
            raise Final(f"{file} is damaged: give another --state-dir to enrol this device anew")
        return known

    def keep_authority(self, pem: bytes) -> None:
        """Remember who signs the coordinator's certificate. Raises Final where the disk refuses."""
        if pem != self.authority():
            write_whole(self.path / AUTHORITY, pem)

    def artifact(self, name: str, sha256: bytes) -> Path:
        """Where the run's artifact of this name and hash is or will be. Those of other hashes are removed."""
        wanted = self.path / f"{name}-{sha256.hex()[:16]}"
        remove(self.path, f"{name}-*", but=lambda file: file.name.startswith(wanted.name))
        return wanted


def remove(folder: Path, *patterns: str, but: Callable[[Path], bool] = lambda file: False) -> None:
    """Remove files that are no longer needed. Where the system refuses they stay until the next time, and that is logged:
    no work is worth less for them."""
    try:
        for pattern in patterns:
            for file in folder.glob(pattern):
                if not but(file):
                    file.unlink(missing_ok=True)
    except OSError as error:
        log.warning("cannot remove what is no longer needed in %s (%s): it is tried again later", folder, error)


def write_whole(file: Path, content: bytes | memoryview) -> None:
    """The same as `write_durably`. Raises Final where the disk refuses."""
    try:
        write_durably(file, content)
    except OSError as error:
        raise Final(
            f"cannot write {file} ({error.strerror or error}): free space or give another --state-dir"
        ) from None

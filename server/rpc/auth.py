"""Authentication of callers, and the errors of refused calls.

One place maps every domain error to a gRPC status, so all calls refuse alike: a word for programs in the trailing
metadata `zowarmup-reason`, a sentence for people as the status's message. It counts the refusals by that word. Callers
show their secrets in metadata; only hashes are kept, and compared in constant time. The operator's own secret is made at the
first start, in a file of the data directory that only its owner can read; removing the file and starting again makes a new
one.
"""

import asyncio
import contextlib
import hashlib
import hmac
import logging
import os
import re
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from zowarmup.common.system.files import read_given, replacing
from zowarmup.server.coordinator import Coordinator, Unavailable
from zowarmup.server.core.errors import Rejected
from zowarmup.server.core.membership import check_member
from zowarmup.server.core.state import Client
from zowarmup.server.store.archive import OPERATOR_CREDENTIAL
from zowarmup.server.store.blobs import BlobError, DiskRefused, UploadError

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]

CLUSTER = "zowarmup-cluster"
"""Metadata by which the run's coordinators know each other."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_SECRET = re.compile(r"[0-9a-f]{64}")
_STATUS = {
    "unauthenticated": grpc.StatusCode.UNAUTHENTICATED,
    "operator_credential": grpc.StatusCode.UNAUTHENTICATED,
    "revoked": grpc.StatusCode.PERMISSION_DENIED,
    "invitation_missing": grpc.StatusCode.PERMISSION_DENIED,
    "invitation_unknown": grpc.StatusCode.PERMISSION_DENIED,
    "invitation_expired": grpc.StatusCode.PERMISSION_DENIED,
    "invitation_used": grpc.StatusCode.PERMISSION_DENIED,
    "invitation_revoked": grpc.StatusCode.PERMISSION_DENIED,
    "tier_not_invited": grpc.StatusCode.PERMISSION_DENIED,
    "invalid": grpc.StatusCode.INVALID_ARGUMENT,
    "malformed": grpc.StatusCode.INVALID_ARGUMENT,
    "not_found": grpc.StatusCode.NOT_FOUND,
    "superseded": grpc.StatusCode.ABORTED,
    "too_slow": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "too_many": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "too_long": grpc.StatusCode.INVALID_ARGUMENT,
    "uploads_full": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "disk_full": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "damaged": grpc.StatusCode.DATA_LOSS,
    "stopping": grpc.StatusCode.UNAVAILABLE,
    "unavailable": grpc.StatusCode.UNAVAILABLE,
}
DISK = "the coordinator's disk refuses to write"
# How long a refusal may wait for its reader.
STATUS_S = 1.0
# The ends of a stream that are nobody's fault.
_NO_REFUSAL = {"stopping", "superseded"}


@dataclass(frozen=True, slots=True)
class Admission:
    """Who may call. `operator_sha256`: hash of the operator's credential; `invited`: whether a device needs an
    invitation; `guarded`: whether the operator's credential is needed to look at status and history too. `cluster`: the secret
    that the run's other coordinators show, who have asked for the operator's credential already; empty where there are none."""

    coordinator: Coordinator
    operator_sha256: str
    invited: bool = False
    guarded: bool = False
    refusals: Counter[str] = field(default_factory=Counter)
    cluster: str = field(default="", repr=False)

    @asynccontextmanager
    async def refusing(self, context: Context) -> AsyncIterator[None]:
        """Turn domain errors raised inside into the call's status. Names of the coordinator's files stay in its log."""
        try:
            yield
        except Rejected as rejected:
            await self.refuse(context, rejected)
        except ValueError as error:
            await self.refuse(context, Rejected("invalid", str(error)))
        except UploadError as error:
            await self.refuse(context, Rejected("not_found", str(error)))
        except DiskRefused:  # which whoever writes has logged
            await self.refuse(context, Rejected("disk_full", f"{DISK}; nothing has changed, try again"))
        except BlobError as error:
            log.warning("a call is refused: %s", error)
            await self.refuse(context, Rejected("not_found", "it is not on the coordinator's disk; its log says more"))
        except TimeoutError:
            raise
        except OSError as error:  # no descriptor is left, say: passing, and nothing of the caller's
            found = error.strerror or type(error).__name__
            await self.refuse(context, Rejected("unavailable", f"{found}; nothing has changed, try again"))
        except Unavailable:  # which the coordinator has logged
            await self.refuse(context, Rejected("unavailable", f"{DISK}; nothing has changed, try again"))

    async def refuse(self, context: Context, rejected: Rejected) -> None:
        """End the call with the status of a refusal. Always raises."""
        await abort(context, rejected, self.refusals)

    async def client(self, context: Context) -> tuple[str, Client]:
        """The member of the fleet that is calling. Raises Rejected, Unavailable."""
        found = shown(context)
        name = found.get("zowarmup-client", "")
        client = self._member(found)
        if client is None:
            await self.coordinator.caught_up()
            client = self._member(found)
        if client is None:
            raise Rejected(
                "unauthenticated",
                "this coordinator does not know the client or its credential: "
                "enrol again with a new --state-dir, or restore the coordinator's data directory",
            )
        check_member(self.coordinator.state, name)
        return name, client

    def operator(self, context: Context) -> None:
        """Raises Rejected where it is not the operator who is calling."""
        if not self.is_operator(shown(context)):
            raise Rejected(
                "operator_credential",
                "this needs the operator's credential: give --data-dir where the coordinator's data directory is, "
                "or --credential-file with a copy of its operator.credential",
            )

    def knows(self, shown: Mapping[str, str]) -> bool:
        """Whether a call's metadata show the credential of a member, not a revoked one, or of the operator."""
        member = self._member(shown)
        return (member is not None and not member.revoked) or self.is_operator(shown)

    def _member(self, shown: Mapping[str, str]) -> Client | None:
        client = self.coordinator.state.clients.get(shown.get("zowarmup-client", ""))
        hashed = hash_secret(shown.get("zowarmup-credential", ""))
        return client if client is not None and hmac.compare_digest(client.credential_sha256, hashed) else None

    def is_coordinator(self, shown: Mapping[str, str]) -> bool:
        """Whether a call's metadata show what another of the run's coordinators has from the lease."""
        return bool(self.cluster) and hmac.compare_digest(self.cluster.encode(), shown.get(CLUSTER, "").encode())

    def is_operator(self, shown: Mapping[str, str]) -> bool:
        """Whether a call's metadata show the operator's credential, or that another coordinator has seen it."""
        if self.is_coordinator(shown):
            return True
        return hmac.compare_digest(self.operator_sha256, hash_secret(shown.get("zowarmup-operator", "")))

    def onlooker(self, context: Context) -> None:
        """Raises Rejected where not everyone may look and it is not the operator who is calling."""
        if self.guarded:
            self.operator(context)


async def abort(context: Context, rejected: Rejected, refusals: Counter[str]) -> None:
    """End the call with the status of a refusal, and count it. Always raises. A status waits behind what was written
    before; where the reader has stalled, the call is dropped instead, which resets its stream."""
    if rejected.reason not in _NO_REFUSAL:
        refusals[rejected.reason] += 1
        log.info("refused " + rejected.reason + " from %s: %s", context.peer(), rejected.detail)  # counted by reason
    code = _STATUS.get(rejected.reason, grpc.StatusCode.FAILED_PRECONDITION)
    try:
        async with asyncio.timeout(STATUS_S):
            await context.abort(code, rejected.detail, (("zowarmup-reason", rejected.reason),))
    except TimeoutError:
        raise grpc.aio.AbortError from None


async def begin(context: Context) -> None:
    """Send the headers of a call whose writes may be interrupted. Else they go with the first message, gRPC does not know that
    they have gone where that is interrupted, and can then send no status: the caller would wait for ever."""
    sending = asyncio.ensure_future(context.send_initial_metadata(()))
    try:
        await asyncio.shield(sending)
    except asyncio.CancelledError:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STATUS_S):
                await sending
        raise


def shown(context: Context) -> Mapping[str, str]:
    """What a call's metadata show."""
    metadata: Any = context.invocation_metadata() or ()
    return dict(metadata)


def check_secret(field: str, secret: str) -> None:
    """Raises Rejected, without repeating it, where a secret is not 32 bytes in hex."""
    if not _SECRET.fullmatch(secret):
        raise Rejected("invalid", f"{field} must be 64 lower-case hex digits")


def check_protocol(theirs: int, ours: int) -> None:
    """Raises Rejected where a client speaks another protocol."""
    if theirs != ours:
        newer = "the coordinator" if theirs > ours else "the client"
        raise Rejected(
            "protocol",
            f"the client speaks protocol {theirs} and the coordinator protocol {ours}: upgrade {newer}",
        )


def check_run(theirs: str, ours: str) -> None:
    """Raises Rejected where a client belongs to another run."""
    if theirs != ours:
        raise Rejected(
            "another_run",
            f"the client belongs to run {theirs[:40]!r}, this coordinator leads run {ours!r}: give it another --state-dir",
        )


def check_name(name: str) -> None:
    """Raises Rejected where a client's name could not be a file's name or a label."""
    if not _NAME.fullmatch(name):
        raise Rejected(
            "invalid",
            f"name {name[:80]!r}: must be 1 to 63 letters, digits, '.', '_' or '-', and begin with a letter or digit",
        )


class CredentialError(Exception):
    """The operator's credential cannot be used; the sentence says what to do."""


def hash_secret(secret: str) -> str:
    """What is kept of a credential or token. They are 256 random bits, so a plain hash gives nothing away."""
    return hashlib.sha256(secret.encode()).hexdigest()


def operator_sha256(data_dir: Path) -> str:
    """The hash of the operator's credential, made where there is none. Raises CredentialError."""
    path = data_dir / OPERATOR_CREDENTIAL
    try:
        if not path.exists():
            _make(path)
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
            log.warning(
                "%s could be read by others, and now cannot: if somebody may have, remove it and start again", path
            )
        credential = read_given(path).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CredentialError(
            f"{path} cannot be used: {getattr(error, 'strerror', None) or 'it is damaged'}; --data-dir must be readable and "
            "writable by this user, with room to write"
        ) from error
    if not _SECRET.fullmatch(credential):
        raise CredentialError(f"{path} is damaged: remove it, and the next start makes a new one")
    return hash_secret(credential)


def _make(path: Path) -> None:
    """Whole or not at all: a crash must not leave a file that is no credential."""
    with (
        replacing(path) as temporary,
        open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file,
    ):
        file.write(secrets.token_hex(32) + "\n")
        file.flush()
        os.fsync(file.fileno())

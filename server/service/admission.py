"""Who is calling, and what a call that is refused hears.

One place maps every domain error to a gRPC status, so all calls refuse alike: a word for programs in the trailing
metadata `zowarmup-reason`, a sentence for people as the status's message.
"""

import hashlib
import hmac
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from zowarmup.server.blobs import BlobError
from zowarmup.server.coordinator import Coordinator, Unavailable
from zowarmup.server.rejection import Rejected
from zowarmup.server.state import Client

Context = grpc.aio.ServicerContext[Any, Any]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_STATUS = {
    "unauthenticated": grpc.StatusCode.UNAUTHENTICATED,
    "invalid": grpc.StatusCode.INVALID_ARGUMENT,
    "malformed": grpc.StatusCode.INVALID_ARGUMENT,
    "not_found": grpc.StatusCode.NOT_FOUND,
    "superseded": grpc.StatusCode.ABORTED,
    "too_slow": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "stopping": grpc.StatusCode.UNAVAILABLE,
    "unavailable": grpc.StatusCode.UNAVAILABLE,
}


@asynccontextmanager
async def refusals(context: Context) -> AsyncIterator[None]:
    """Turn domain errors raised inside into the call's status."""
    try:
        yield
    except Rejected as rejected:
        await refuse(context, rejected)
    except ValueError as error:
        await refuse(context, Rejected("invalid", str(error)))
    except BlobError as error:
        await refuse(context, Rejected("not_found", str(error)))
    except Unavailable as error:
        await refuse(context, Rejected("unavailable", f"{error}; nothing has changed, try again"))


async def refuse(context: Context, rejected: Rejected) -> None:
    """End the call with the status of a refusal. Always raises."""
    code = _STATUS.get(rejected.reason, grpc.StatusCode.FAILED_PRECONDITION)
    await context.abort(code, rejected.detail, (("zowarmup-reason", rejected.reason),))


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


def authenticate(coordinator: Coordinator, context: Context) -> tuple[str, Client]:
    """The enrolled client that is calling. Raises Rejected."""
    metadata = dict(context.invocation_metadata() or ())
    name, credential = str(metadata.get("zowarmup-client", "")), str(metadata.get("zowarmup-credential", ""))
    client = coordinator.state.clients.get(name)
    hashed = hash_credential(credential)
    if client is None or not hmac.compare_digest(client.credential_sha256, hashed):
        raise Rejected(
            "unauthenticated",
            "this coordinator does not know the client or its credential: "
            "enrol again with a new --state-dir, or restore the coordinator's data directory",
        )
    return name, client


def hash_credential(credential: str) -> str:
    return hashlib.sha256(credential.encode()).hexdigest()

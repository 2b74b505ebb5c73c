"""The meaning of a failed call for a device: whose fault it is, and a sentence for people.

The coordinator says its word for programs in the trailing metadata; what grpc itself has to say is put in words that
name the option to look at.
"""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from typing import Any

import grpc

from zowarmup.client.errors import Broken, Declined, Distrust, Final, StillPreparing, Unreached
from zowarmup.client.net.tls import distrusted, shut

FINAL = {
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNIMPLEMENTED,
}
FINAL_IN_BULK = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED}
DECLINED_IN_BULK = {
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.ABORTED,
}

# Without a word for programs beside them, these are grpc's own: nobody answered.
SILENT = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
}


@contextmanager
def faults(final: AbstractSet[grpc.StatusCode], declined: AbstractSet[grpc.StatusCode] = frozenset()) -> Iterator[None]:
    """Map a failed call to Final, Declined, Distrust or Broken. `final`, `declined`: the codes that are."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        code, details = error.code(), (error.details() or error.code().name).strip()
        trailing: Any = error.trailing_metadata() or ()
        reason = dict(trailing).get("zowarmup-reason")
        if reason == "superseded":
            raise Final(
                "another process takes part with this device's identity and has taken its place: stop one of the two"
            ) from None
        if code is grpc.StatusCode.UNIMPLEMENTED:
            raise Final(
                f"no coordinator of this kind answers there ({details}): check --server and both versions"
            ) from None
        if reason == "preparing":
            raise StillPreparing(details) from None
        if reason == "offset":  # more had arrived than it said: ask where to go on
            raise Broken(details) from None
        if code in final:
            raise Final(details) from None
        if code in declined:
            raise Declined(details, reason or "") from None
        if code is grpc.StatusCode.UNAVAILABLE and (sentence := distrusted(details)):
            raise Distrust(sentence) from None
        if sentence := shut(details):
            raise Unreached(sentence) from None
        kind = Broken if reason or code not in SILENT else Unreached
        # When a connection cannot be made, grpc's long sentence ends in the system's short one.
        raise kind(details.rpartition(": ")[2] if "last error: " in details else details) from None

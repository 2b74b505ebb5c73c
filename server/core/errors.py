"""Rejections: how the coordinator says no."""

REASONS = (
    "another_run",
    "damaged",
    "disk_full",
    "exists",
    "finished",
    "fleet_full",
    "invalid",
    "invitation_expired",
    "invitation_missing",
    "invitation_revoked",
    "invitation_unknown",
    "invitation_used",
    "late",
    "malformed",
    "no_run",
    "not_assigned",
    "not_found",
    "not_warming_up",
    "offset",
    "operator_credential",
    "protocol",
    "revoked",
    "uploads_full",
    "stale",
    "tier_not_invited",
    "too_large",
    "too_long",
    "too_many",
    "too_slow",
    "unauthenticated",
    "unavailable",
    "unknown_client",
)
"""Every word there is for a refusal. Two more, "stopping" and "superseded", end a stream and are nobody's fault."""


class Rejected(Exception):
    """A command that changes nothing. `reason` is a word for programs and metrics, `detail` a sentence for people."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class TrackingError(Exception):
    """The run cannot be written where its run file says; the sentence says why and what to do."""


class ListeningError(Exception):
    """The coordinator cannot listen like this; the sentence says why and what to do."""

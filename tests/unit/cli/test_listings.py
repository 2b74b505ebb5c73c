"""What `zowarmup invitations` and `zowarmup revoke` say."""

from dataclasses import replace

from zowarmup.cli.listings import invitations_text, revoked_text
from zowarmup.cli.session.status import InvitationStatus
from zowarmup.common.messages.values import Tier

OPEN = InvitationStatus("0123456789ab", Tier.LOW, 20, 3, 1.8e9, "", ("pi-1", "pi-2", "pi-3"))
USED = replace(OPEN, name="ba9876543210", uses=1, used=1, closed="used up", clients=("pi-9",))


def test_open_ones_are_shown_and_the_others_counted() -> None:
    summary, titles, line = invitations_text([OPEN, USED], False).splitlines()
    assert summary == "1 invitation; 1 other used up, expired or revoked (--all)"
    assert titles.split() == ["id", "tier", "left", "until", "came", "by", "it"]
    assert line.startswith("0123456789ab  low   17 of 20    202")
    assert line.endswith("  pi-1, pi-2, pi-3")
    assert line.index("202") == titles.index("until") and line.index("pi-1") == titles.index("came")


def test_all_are_shown_with_why_they_are_closed() -> None:
    assert invitations_text([OPEN, USED], True).endswith("pi-9  (used up)")


def test_none() -> None:
    assert invitations_text([], False) == "no invitation is open"
    assert invitations_text([USED], False) == "no invitation is open; 1 other used up, expired or revoked (--all)"


def test_what_a_revocation_leaves_open() -> None:
    assert revoked_text("pi-1", None, False) == "pi-1 is revoked"
    told = revoked_text("pi-1", OPEN, False)
    assert "pi-2, pi-3 came by the same invitation" in told
    assert "good for 17 more devices" in told and "zowarmup uninvite 0123456789ab" in told
    revoked = replace(OPEN, closed="revoked: pi-1 came by it: stolen")
    assert "0123456789ab, is revoked" in revoked_text("pi-1", revoked, False)
    assert "anyone may enrol here without an invitation" in revoked_text("pi-1", None, True)


def test_json_says_how_many_are_left() -> None:
    assert OPEN.to_json()["left"] == 17
    assert replace(OPEN, closed="expired").to_json()["left"] == 0

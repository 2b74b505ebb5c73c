"""Who may join, who may stay, and what a round makes of one who was shut out."""

from collections.abc import Callable

import pytest

from tests.scenario.conftest import Script
from zowarmup.common.messages.values import Phase, Tier
from zowarmup.server.core import commands as cmd
from zowarmup.server.core import events as ev
from zowarmup.server.core.errors import Rejected
from zowarmup.server.core.membership import came_by, closed, identifier

DAY = 86400.0
Begin = Callable[..., Script]


def enrol(token: str, name: str = "pi", tier: Tier = Tier.LOW, credential: str = "c1") -> cmd.Enrol:
    return cmd.Enrol(name, tier, 100, credential, token, invited=True)


def kinds(events: list[ev.Event]) -> list[str]:
    return [type(event).__name__ for event in events]


def refused(script: Script, command: cmd.Command) -> str:
    """The reason; nothing may have changed."""
    before = script.state
    with pytest.raises(Rejected) as caught:
        script.do(command)
    assert script.state is before
    return caught.value.reason


@pytest.fixture
def invited(begin: Begin) -> Script:
    script = begin()
    (issued,) = script.do(cmd.Invite("t", Tier.LOW, DAY, 1))
    assert issued == ev.InvitationIssued("t", Tier.LOW, script.now + DAY, 1, script.now)
    return script


def test_an_invitation_lets_in_once(invited: Script) -> None:
    (enrolled,) = invited.do(enrol("t"))
    assert enrolled == ev.ClientEnrolled("pi", Tier.LOW, 100, "c1", "t")
    assert refused(invited, enrol("t", credential="c2")) == "invitation_used"
    assert invited.replayed().invitations == invited.state.invitations


def test_the_same_enrolment_again_is_answered_as_before_and_costs_no_second_use(invited: Script) -> None:
    invited.do(enrol("t"))
    invited.now += 2 * DAY
    assert invited.do(enrol("t")) == []
    assert list(invited.state.clients) == ["pi"]


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (enrol(""), "invitation_missing"),
        (enrol("guess"), "invitation_unknown"),
        (enrol("t", tier=Tier.HIGH), "tier_not_invited"),
    ],
)
def test_who_is_not_invited_stays_outside(invited: Script, command: cmd.Enrol, reason: str) -> None:
    assert refused(invited, command) == reason


def test_an_invitation_ends_at_its_second(invited: Script) -> None:
    invited.now += DAY - 1
    assert invited.do(enrol("t", credential="c2"))
    invited.do(cmd.Invite("u", Tier.LOW, 1.0, 2))
    invited.now += 1.0
    assert refused(invited, enrol("u", credential="c3")) == "invitation_expired"


@pytest.mark.parametrize(
    ("set_back_s", "after_s", "reason"),
    [
        (0.5 * DAY, DAY, ""),  # a clock that was corrected a little leaves it valid
        (1.5 * DAY, 0.0, "invitation_expired"),  # set back further, it would be valid for too long
        (400 * 365 * DAY, 5 * DAY, "invitation_expired"),
        (-2 * DAY, 0.0, "invitation_expired"),  # what the calendar says counts, also where it has just jumped
    ],
)
def test_an_invitation_is_valid_by_the_calendar_and_no_clock_set_back_prolongs_it_much(
    invited: Script, set_back_s: float, after_s: float, reason: str
) -> None:
    invited.now, invited.set_back_s = invited.now + after_s, set_back_s
    assert refused(invited, enrol("t")) == reason if reason else invited.do(enrol("t"))


def test_where_all_may_join_a_wrong_token_is_refused_all_the_same(begin: Begin) -> None:
    script = begin()
    assert script.do(cmd.Enrol("pi", Tier.LOW, 1, "c"))
    assert refused(script, cmd.Enrol("pi", Tier.LOW, 1, "d", "guess")) == "invitation_unknown"


@pytest.mark.parametrize(
    "command",
    [
        cmd.Invite("t", Tier.LOW, 0.0, 1),
        cmd.Invite("t", Tier.LOW, float("nan"), 1),
        cmd.Invite("t", Tier.LOW, float("inf"), 1),
        cmd.Invite("t", Tier.LOW, 1.0, 0),
        cmd.Invite("t", Tier.LOW, 1.0, 1 << 31),
    ],
)
def test_an_invitation_has_bounds(begin: Begin, command: cmd.Invite) -> None:
    assert refused(begin(), command) == "invalid"


def test_a_revoked_client_does_not_come_again_by_what_is_left_of_its_invitation(begin: Begin) -> None:
    script = begin()
    script.do(cmd.Invite("t", Tier.LOW, DAY, 3))
    script.do(cmd.Invite("other", Tier.LOW, DAY, 3))
    script.do(enrol("t", "thief", credential="c1"))
    script.do(enrol("t", "pi", credential="c2"))
    script.do(enrol("other", "else", credential="c3"))
    revoked, withdrawn = script.do(cmd.Revoke("thief", "stolen", with_invitation=True))
    assert revoked == ev.ClientRevoked("thief", "stolen")
    assert withdrawn == ev.InvitationRevoked("t", "thief came by it: stolen")
    assert refused(script, enrol("t", "thief", credential="c4")) == "invitation_revoked"
    assert script.do(enrol("t", "pi", credential="c2")) == [], "who came by it before stays"
    assert script.do(enrol("other", "more", credential="c5")), "another invitation is as good as before"
    assert script.do(cmd.Revoke("thief", "stolen", with_invitation=True)) == []
    assert came_by(script.state) == {"t": ["pi", "thief"], "other": ["else", "more"]}
    replayed = script.replayed()
    assert (replayed.invitations, replayed.clients) == (script.state.invitations, script.state.clients)


def test_without_its_invitation_a_revoked_client_may_come_again(begin: Begin) -> None:
    """Which the command says, with what to do: the line is not always in the wrong hands."""
    script = begin()
    script.do(cmd.Invite("t", Tier.LOW, DAY, 3))
    script.do(enrol("t", "thief", credential="c1"))
    script.do(cmd.Revoke("thief", "stolen"))
    assert script.do(enrol("t", "thief", credential="c2")) == [ev.ClientEnrolled("thief-2", Tier.LOW, 100, "c2", "t")]
    assert kinds(script.do(cmd.Revoke("thief", "late", with_invitation=True))) == ["InvitationRevoked"]
    assert refused(script, enrol("t", "thief", credential="c3")) == "invitation_revoked"


def test_one_that_came_without_an_invitation_is_revoked_all_the_same(begin: Begin) -> None:
    script = begin()
    script.join("a")
    assert kinds(script.do(cmd.Revoke("a", "stolen", with_invitation=True))) == ["ClientRevoked"]


def test_an_invitation_is_revoked_by_its_identifier(begin: Begin) -> None:
    script, token, other = begin(), "ab" * 32, "ab" * 5 + "cd" * 27
    script.do(cmd.Invite(token, Tier.LOW, DAY, 3))
    script.do(cmd.Invite(other, Tier.LOW, DAY, 3))
    for given in ("", "ab", "ab" * 5, "f" * 12, "f" * 64, token + "ab"):
        assert refused(script, cmd.Uninvite(given, "leaked")) == "not_found"
    assert script.do(cmd.Uninvite(identifier(token), "leaked")) == [ev.InvitationRevoked(token, "leaked")]
    assert script.do(cmd.Uninvite(token, "again")) == []
    assert refused(script, enrol(token)) == "invitation_revoked"
    assert script.do(enrol(other))


def test_why_an_invitation_is_closed(begin: Begin) -> None:
    script = begin()
    for token in ("a", "b", "c" * 64):
        script.do(cmd.Invite(token, Tier.LOW, DAY, 1))
    script.do(enrol("b"))
    script.do(cmd.Uninvite("c" * 64, "leaked"))
    invitations = script.state.invitations
    assert [closed(invitation, script.now) for invitation in invitations.values()] == ["", "used up", "revoked: leaked"]
    assert closed(invitations["a"], script.now + DAY) == "expired"
    assert closed(invitations["a"], script.now - 2 * DAY) == "the coordinator's clock is set back"


def in_zeroth_order(script: Script, *names: str) -> None:
    script.join("high", Tier.HIGH)
    script.contribute("high")
    script.commit()
    script.lose("high")
    for name in names:
        script.join(name)


def test_the_round_no_longer_waits_for_a_revoked_client(begin: Begin) -> None:
    script = begin(clients=3, quorum=1.0)
    in_zeroth_order(script, "a", "b", "c")
    script.contribute("a", "b")
    revoked, closed = script.do(cmd.Revoke("c", "stolen"))
    assert revoked == ev.ClientRevoked("c", "stolen")
    assert closed == ev.RoundClosed(script.state.round, "all 2 participants contributed")
    assert script.replayed().current == script.state.current


def test_what_a_revoked_client_gave_to_the_open_round_does_not_count(begin: Begin) -> None:
    script = begin(clients=2, quorum=1.0)
    in_zeroth_order(script, "a", "b")
    script.contribute("a")
    assert script.do(cmd.Revoke("a", "stolen")) == [ev.ClientRevoked("a", "stolen")]
    script.contribute("b")
    assert script.state.current is not None
    assert script.state.current.closed
    assert list(script.state.current.contributions) == ["b"]


def test_a_closed_round_keeps_what_it_has(begin: Begin) -> None:
    """It is being combined already, and a restart must combine the same."""
    script = begin(clients=2, quorum=1.0)
    in_zeroth_order(script, "a", "b")
    script.contribute("a", "b")
    before = script.state.current
    script.do(cmd.Revoke("a", "stolen"))
    assert script.state.current == before


def test_a_round_of_revoked_clients_only_is_abandoned(begin: Begin) -> None:
    script = begin(clients=2, quorum=1.0)
    in_zeroth_order(script, "a", "b")
    script.do(cmd.Revoke("a", "stolen"))
    _, abandoned = script.do(cmd.Revoke("b", "stolen"))
    assert isinstance(abandoned, ev.RoundAbandoned)
    assert abandoned.reason == "every participant has been revoked"


def test_a_revoked_client_is_refused_whatever_it_says_and_never_drawn_again(begin: Begin) -> None:
    script = begin(clients=2, quorum=1.0)
    in_zeroth_order(script, "a", "b")
    said = script.contribution("a")
    script.do(cmd.Revoke("a", "stolen"))
    again = cmd.Enrol("a", Tier.LOW, 100, script.state.clients["a"].credential_sha256)
    for command in (
        cmd.ConnectClient("a", 99, 100),
        cmd.Contribute("a", said),
        cmd.RecordReport("a", 1, "d" * 32, 1),
        again,
    ):
        assert refused(script, command) == "revoked"
    script.contribute("b")
    script.commit()
    assert script.state.current is None
    assert script.state.phase is Phase.ZEROTH_ORDER
    script.join("c")
    assert script.state.current is not None
    assert set(script.state.current.seeds) == {"b", "c"}
    assert script.do(cmd.Revoke("a", "again")) == []
    assert script.do(cmd.DisconnectClient("a", 1)) == []
    assert refused(script, cmd.Revoke("nobody", "x")) == "unknown_client"


def test_a_member_that_claims_another_count_is_on_record(begin: Begin) -> None:
    script = begin(warmup=0)
    script.join("a", examples=100)
    assert script.hello("a", 100)[0] == ev.ClientConnected("a", 2, 100), "nothing new"
    changed, connected = script.hello("a", (1 << 48) - 1)[:2]
    assert changed == ev.ExamplesChanged("a", (1 << 48) - 1, 100)
    assert isinstance(connected, ev.ClientConnected)
    assert script.state.clients["a"].examples == script.replayed().clients["a"].examples == (1 << 48) - 1


def test_what_a_member_claims_in_the_midst_of_a_round_is_for_the_next(begin: Begin) -> None:
    script = begin(warmup=0)
    script.join("a")
    script.join("b")
    script.hello("a", 5000)
    assert script.state.current is not None and script.state.current.examples["a"] == 100
    script.contribute("a", "b")
    script.commit()
    assert script.state.current is not None and script.state.current.examples["a"] == 5000

"""Payload bytes, counted by kind of message, and from one version to the next."""

from zowarmup.common.messages.values import Phase, Tier
from zowarmup.server.core.events import TrafficCount
from zowarmup.server.projections.traffic import MOST_CONNECTIONS, OCCURRING, Traffic, TrafficLog

PEER = "ipv4:10.0.0.7:40000"


def traffic(saved: tuple[TrafficCount, ...] = ()) -> Traffic:
    return Traffic(lambda: Phase.ZEROTH_ORDER, saved)


def test_messages_are_counted_under_their_kind() -> None:
    counted = traffic()
    line = counted.call(PEER, Tier.LOW, "pi")
    line.up("contribution", 264)
    line.up("contribution", 264)
    line.down("commit", 230)
    assert counted.counts() == (
        TrafficCount("down", "low", "zeroth-order", "commit", 230, 1),
        TrafficCount("up", "low", "zeroth-order", "contribution", 528, 2),
    )
    assert all((c.direction, c.tier, c.phase, c.kind) in OCCURRING for c in counted.counts())
    assert (counted.of("pi"), counted.of("jetson")) == ((528, 230), (0, 0))


def test_a_connection_is_its_members_and_a_strangers_until_then() -> None:
    counted = traffic()
    counted.call(PEER)
    assert counted.peers[PEER] is None and not counted.members()
    counted.call(PEER, Tier.LOW, "pi")
    counted.call(PEER)
    assert counted.peers[PEER] is Tier.LOW and counted.members() == {PEER}
    counted.forget(PEER)
    assert not counted.members()


def test_no_more_connections_are_remembered_than_there_may_be() -> None:
    counted = traffic()
    for number in range(MOST_CONNECTIONS + 3):
        counted.call(f"ipv4:10.0.0.7:{number}")
    assert len(counted.peers) == MOST_CONNECTIONS and "ipv4:10.0.0.7:0" not in counted.peers


def test_totals_go_on_from_those_saved_and_only_what_changed_is_saved_again() -> None:
    first = traffic()
    first.call(PEER, Tier.LOW, "pi").up("contribution", 10)
    first.call(PEER, Tier.HIGH, "jetson").down("commit", 10)
    saved = first.counts()
    assert first.since(saved) == ()
    again = traffic(saved)
    assert again.counts() == saved
    again.call(PEER, Tier.LOW, "pi").up("contribution", 5)
    assert again.since(saved) == (TrafficCount("up", "low", "zeroth-order", "contribution", 15, 2),)
    assert {key[-1]: count for key, count in again.since_start().items()} == {"contribution": 5, "commit": 0}


def test_the_log_knows_all_counts_of_every_version() -> None:
    log, counted, tables = TrafficLog(), traffic(), {}
    for version in range(1, 30):
        line = counted.call(PEER, Tier.LOW if version % 3 else Tier.HIGH, "pi")
        line.up("contribution", version)
        if version % 5 == 0:
            line.down("snapshot", 1000)
        # As older ledgers have it, every seventh time: all of them.
        log.record(version, counted.counts() if version % 7 == 0 else counted.since(log.latest))
        tables[version] = counted.counts()
        assert log.latest == counted.counts()
    assert {version: log.at(version) for version in tables} == tables
    assert log.at(0) == ()
    assert log.at(1000) == log.latest


def test_what_others_have_carried_is_in_the_run_s_totals_and_not_in_this_coordinator_s() -> None:
    here, leader = Traffic(lambda: Phase.WARM_UP), Traffic(lambda: Phase.WARM_UP)
    call = here.call("peer", Tier.LOW, "pi")
    call.up("control", 10)
    first = here.take()
    call.up("control", 5)
    call.down("commit", 7)
    assert here.take() != first and here.take() == (), "each byte once"
    call.up("control", 1)
    leader.call("other", Tier.LOW).up("control", 100)
    for counts in (first, here.take()):
        leader.include(counts)
    assert [(c.payload_bytes, c.messages) for c in leader.counts()] == [(111, 3)]
    assert leader.since_start()["up", "low", "warm-up", "control"] == 100
    assert leader.take() == (TrafficCount("up", "low", "warm-up", "control", 100, 1),)


def test_totals_go_on_where_the_leader_before_has_saved_them() -> None:
    front_end = Traffic(lambda: Phase.WARM_UP)
    front_end.call("peer", Tier.LOW, "pi").up("control", 40)
    front_end.take()  # told to the leader, which has saved it among 3,000 bytes
    front_end.call("peer", Tier.LOW, "pi").up("control", 5)
    saved = [
        TrafficCount("up", "low", "warm-up", "control", 3040, 12),
        TrafficCount("down", "", "warm-up", "control", 9, 1),
    ]
    front_end.go_on_from(saved)
    totals = {(c.direction, c.payload_bytes, c.messages) for c in front_end.counts()}
    assert totals == {("up", 3045, 13), ("down", 9, 1)}
    assert front_end.since_start()["up", "low", "warm-up", "control"] == 45, "its own, for its metrics"
    assert front_end.take() == ()
    front_end.call("peer", Tier.LOW, "pi").up("control", 1)
    assert {c.payload_bytes for c in front_end.since(front_end.counts()[:0])} == {9, 3046}

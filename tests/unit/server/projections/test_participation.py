"""What each client did last, by the events."""

from zowarmup.common.messages.values import Abstention, Phase, Scalars
from zowarmup.server.core import events as ev
from zowarmup.server.projections.participation import Participation, Participations

DIGESTS = {10: "a" * 32, 11: "b" * 32}


def record(*events: tuple[float, ev.Event]) -> Participations:
    known = Participations(lambda version: DIGESTS.get(version, ""))
    for at, event in events:
        known.record(at, event)
    return known


def opened(version: int) -> ev.RoundOpened:
    return ev.RoundOpened(4, Phase.ZEROTH_ORDER, version, ("pi",), (1,), (10,), 99.0)


def test_a_client_that_was_never_here_has_done_nothing() -> None:
    assert record()["pi"] == Participation()


def test_a_stream_opens_and_closes() -> None:
    hello = ev.ClientConnected("pi", 1, 10, 10, "a" * 32, "zowarmup 0.1.0")
    assert record((5.0, hello))["pi"] == Participation(5.0, version=10, agrees=True, software="zowarmup 0.1.0")
    assert record((5.0, hello), (7.0, ev.ClientDisconnected("pi", 6.0)))["pi"].changed_at == 7.0


def test_a_replica_is_the_runs_or_not_or_it_has_none() -> None:
    for version, digest, agrees in ((10, "a" * 32, True), (11, "a" * 32, False), (99, "a" * 32, False), (0, "", None)):
        assert record((1.0, ev.ClientConnected("pi", 1, 10, version, digest)))["pi"].agrees is agrees
        assert record((1.0, ev.ClientReported("pi", version, digest, 5)))["pi"].agrees is agrees


def test_a_contribution_of_scalars_was_made_at_its_rounds_version() -> None:
    report = ev.ClientReported("pi", 10, "a" * 32, 5)
    did = record((1.0, report), (2.0, opened(11)), (3.0, ev.Contributed("pi", Scalars(4, (0.5,), ()))))["pi"]
    assert (did.contributed_at, did.version, did.agrees) == (3.0, 11, True)


def test_an_abstention_lasts_until_the_next_contribution() -> None:
    abstained = (2.0, ev.Abstained("pi", Abstention(4, "no data")))
    contributed = (3.0, ev.Contributed("pi", Scalars(4, (0.5,), ())))
    assert record((1.0, opened(10)), abstained)["pi"].abstained == "no data"
    assert record((1.0, opened(10)), abstained, contributed)["pi"].abstained == ""

"""The guard on progress: evaluations in, and how the run goes back, gives up, or goes on."""

import math
from collections.abc import Callable

import pytest

from tests.scenario.conftest import WHITENED, Script
from tests.tasks import accuracy_of
from zowarmup.common.messages.values import Abstention, Phase, Scalars, Tier
from zowarmup.common.settings.data_card import DataCard
from zowarmup.common.settings.run import Guard
from zowarmup.common.tasks.protocol import Baseline, Metric
from zowarmup.server.core import commands as cmd
from zowarmup.server.core import events as ev
from zowarmup.server.core.decide import waiting, work_for
from zowarmup.server.core.errors import Rejected
from zowarmup.server.core.guard import Progress, fault

Begin = Callable[..., Script]
GUARD = Guard(factor=3.0, rollbacks=2)


def evaluate(script: Script, loss: float, version: int | None = None) -> list[ev.Event]:
    """The accuracy is that of a model that is right as often as its loss says."""
    at = script.state.version if version is None else version
    return script.do(cmd.RecordEvaluation(at, accuracy_of(right(loss)), loss, 10))


def right(loss: float) -> float:
    return math.exp(-loss) if math.isfinite(loss) else 0.0


def started(begin: Begin, *, warmup: int = 0, zeroth_order: int = 20) -> Script:
    script = begin(warmup=warmup, zeroth_order=zeroth_order, clients=1, guard=GUARD)
    script.join("pi", Tier.HIGH)
    evaluate(script, 2.0)
    return script


def test_a_run_that_goes_back_to_its_pivot_whitens_again_what_the_head_reads(begin: Begin) -> None:
    """The pivot's model knows nothing of the first round. From a later version it goes on as it was."""
    script = begin(warmup=0, zeroth_order=20, clients=1, guard=Guard(factor=3.0, rollbacks=3), layout=WHITENED)
    script.join("pi", Tier.HIGH)
    evaluate(script, 2.0)

    def done() -> int:
        work = work_for(script.state, "pi", script.now)
        assert work is not None
        return work.done

    def whiten() -> None:
        current = script.state.current
        assert current is not None and done() == 0
        with pytest.raises(Rejected, match="1 projections, 7 were asked for"):
            script.do(cmd.Contribute("pi", Scalars(current.number, (), (1.0,))))
        script.do(cmd.Contribute("pi", Scalars(current.number, (), (1.0,) * 7)))
        script.commit()

    for _ in range(2):
        whiten()
        assert done() == 1
        round_of(script)
        evaluate(script, 9.0)
        assert kinds(go_back(script)) == ["RolledBack", "RoundOpened"]
    whiten()
    evaluate(script, 1.9)
    round_of(script)
    evaluate(script, 9.0)
    go_back(script)
    assert done() == script.state.rounds_done == 2
    assert script.replayed().rounds_done == 2


def round_of(script: Script, loss: float | None = None) -> list[ev.Event]:
    """A round is committed and, once the next one is open, evaluated."""
    script.contribute("pi")
    caused = script.commit()
    return caused if loss is None else caused + evaluate(script, loss)


def go_back(script: Script) -> list[ev.Event]:
    """What the round jobs would hand back."""
    good, version = script.state.progress.good, script.state.version + 1
    assert good is not None
    snapshot = ev.Snapshot(version, "e" * 64, 20, good.digest) if script.state.phase is Phase.WARM_UP else None
    return script.do(cmd.RollBack(version, good.digest, (), snapshot, ()))


def kinds(events: list[ev.Event]) -> list[str]:
    return [type(event).__name__ for event in events]


@pytest.mark.parametrize("loss", [7.0, math.inf, -math.inf, math.nan])
def test_a_rejected_version_ends_the_round_that_began_at_it_and_the_run_goes_back(begin: Begin, loss: float) -> None:
    script = started(begin)
    round_of(script, 1.9)
    digest = script.state.digest
    round_of(script)
    caused = evaluate(script, loss)
    assert kinds(caused) == ["Evaluated", "RoundAbandoned"], "and no other round opens meanwhile"
    assert "held-out loss of version 2" in waiting(script.state, script.now)
    assert script.advance(1000) == []
    back = go_back(script)
    assert kinds(back) == ["RolledBack", "RoundOpened"]
    assert isinstance(back[0], ev.RolledBack)
    assert (back[0].version, back[0].to, back[0].rate_factor) == (3, 1, 0.5)
    state = script.state
    assert (state.version, state.digest, state.rounds_done) == (3, digest, 2), "rounds taken back are not given anew"
    assert state.evaluation == ev.Evaluated(3, accuracy_of(right(1.9)), 1.9, 10)
    assert state.algorithm(Phase.ZEROTH_ORDER).spec.rate == state.run_file.zeroth_order.rate / 2  # type: ignore[attr-defined]
    assert script.replayed().progress == state.progress


def test_three_times_the_lowest_loss_is_the_limit(begin: Begin) -> None:
    script = started(begin)
    for loss in (1.0, 3.0, 1.5, 3.0):
        assert "RoundAbandoned" not in kinds(round_of(script, loss))
    assert "RoundAbandoned" in kinds(round_of(script, 3.0001))
    assert script.state.progress.good is not None
    assert script.state.progress.good.version == 4, "the last good one, not the best"


def test_a_small_loss_may_be_three_times_as_large(begin: Begin) -> None:
    """Of two classes; a tenth of ln 2 is 0.0693."""
    script = started(begin)
    round_of(script, 0.001)
    assert "RoundAbandoned" not in kinds(round_of(script, 0.2))
    assert "RoundAbandoned" in kinds(round_of(script, 0.21))


def test_a_model_that_is_right_as_often_as_before_is_not_lost_however_sure_it_is_where_it_is_wrong(
    begin: Begin,
) -> None:
    script = started(begin)
    round_of(script, 1.0)
    for accuracy, loss in ((0.34, 8.9), (0.33, 2.9)):  # the highest so far is exp(-1) = 0.368
        round_of(script)
        assert kinds(script.do(cmd.RecordEvaluation(script.state.version, accuracy_of(accuracy), loss, 10))) == [
            "Evaluated"
        ]
    round_of(script)
    assert "RoundAbandoned" in kinds(script.do(cmd.RecordEvaluation(script.state.version, accuracy_of(0.33), 8.9, 10)))


def test_a_loss_beyond_the_square_of_the_factor_is_no_accuracys_to_excuse(begin: Begin) -> None:
    script = started(begin)
    round_of(script, 1.0)
    round_of(script)
    assert "RoundAbandoned" in kinds(script.do(cmd.RecordEvaluation(script.state.version, accuracy_of(1.0), 9.1, 10)))


@pytest.mark.parametrize(
    ("highest", "accuracy", "constant", "lost"),
    [
        (0.88, 0.5, True, True),
        (0.88, 0.7, True, True),
        (0.88, 0.8, True, False),
        (0.74, 0.5, True, False),
        (0.88, 0.5, False, False),
    ],
)
def test_a_model_that_says_the_same_of_everything_after_one_that_had_learnt_is_lost_however_small_its_loss(
    begin: Begin, highest: float, accuracy: float, constant: bool, lost: bool
) -> None:
    """Of two classes, one guess in two is right."""
    script = started(begin)
    round_of(script)
    script.do(cmd.RecordEvaluation(script.state.version, accuracy_of(highest), 0.4, 10))
    round_of(script)
    caused = script.do(cmd.RecordEvaluation(script.state.version, accuracy_of(accuracy), 0.7, 10, constant))
    assert ("RoundAbandoned" in kinds(caused)) == lost
    if lost:
        assert (
            f"version 2 says the same of every held-out example; its accuracy is {100 * accuracy:.1f} %, the best so far"
            in script.state.progress.rejected
        )


def test_clients_of_the_abandoned_round_get_other_work_at_the_lower_rate(begin: Begin) -> None:
    script = started(begin, warmup=5)
    round_of(script, 1.0)
    before = work_for(script.state, "pi", script.now)
    assert before is not None and before.rate_factor == 1
    round_of(script, 100.0)
    assert work_for(script.state, "pi", script.now) is None
    go_back(script)
    work = work_for(script.state, "pi", script.now)
    assert work is not None and (work.version, work.rate_factor) == (3, 0.5)
    assert work.round > before.round and work.seed != before.seed
    assert script.state.algorithm(Phase.WARM_UP).spec.rate == script.state.run_file.warmup.rate / 2  # type: ignore[attr-defined]


def test_after_so_many_returns_the_next_one_gives_up_at_the_good_version(begin: Begin) -> None:
    script = started(begin)
    digest = script.state.digest
    for returns in range(1, 4):
        round_of(script, 1000.0)
        caused = go_back(script)
        assert script.state.progress.rollbacks == returns
        assert script.state.progress.rate_factor == 0.5**returns
    assert kinds(caused) == ["RolledBack", "RunGaveUp"]
    state = script.state
    assert (state.phase, state.digest) == (Phase.FINISHED, digest)
    assert "went back 3 times" in state.gave_up and "1000 nats" in state.gave_up
    assert waiting(state, script.now) == f"gave up: {state.gave_up}" == state.finished
    assert script.advance(100) == [] and script.replayed().gave_up == state.gave_up


def test_a_run_that_begins_with_a_model_that_is_no_good_gives_up_at_once(begin: Begin) -> None:
    script = begin(warmup=3, guard=GUARD)
    script.join("pi", Tier.HIGH)
    assert kinds(evaluate(script, math.nan)) == ["Evaluated", "RoundAbandoned", "RunGaveUp"]
    assert "no version to go back to" in script.state.gave_up


def test_neither_pivot_nor_end_comes_from_a_version_that_is_not_evaluated(begin: Begin) -> None:
    script = started(begin, warmup=2, zeroth_order=2)
    round_of(script)
    assert kinds(round_of(script)) == ["Committed"]
    assert waiting(script.state, script.now) == "waiting: version 2 is being evaluated"
    assert kinds(evaluate(script, 50.0)) == ["Evaluated"]
    assert kinds(go_back(script)) == ["RolledBack", "Pivoted", "RoundOpened"]
    assert script.state.pivot_version == 3 and script.state.progress.good is not None
    round_of(script)
    assert kinds(round_of(script)) == ["Committed"]
    evaluate(script, math.nan)
    assert kinds(go_back(script)) == ["RolledBack", "RunFinished"]
    taken_back = "the model is that of version 3: what followed was rejected"
    assert script.state.finished == f"all 2 zeroth-order rounds are done, but {taken_back}" and not script.state.gave_up


def all_abstain(script: Script) -> list[ev.Event]:
    """Round after round, until there is none to abstain from."""
    caused: list[ev.Event] = []
    while (current := script.state.current) is not None:
        caused += script.do(cmd.Abstain("pi", Abstention(current.number, "its loss is not finite")))
        caused += script.advance(60)
    return caused


def test_a_version_at_which_everyone_abstains_is_evaluated_before_the_run_pauses(begin: Begin) -> None:
    """Where evaluations are rare, a model that is lost first shows in clients whose losses are not finite."""
    script = started(begin)
    round_of(script, 1.9)
    round_of(script)
    caused = all_abstain(script)
    assert {*kinds(caused)} == {"Abstained", "RoundAbandoned", "RoundOpened"}
    assert waiting(script.state, script.now) == "waiting: version 2 is being evaluated"
    assert kinds(evaluate(script, math.nan)) == ["Evaluated"]
    assert kinds(go_back(script)) == ["RolledBack", "RoundOpened"]
    assert script.state.version == 3 and script.state.abandoned == 0


def test_where_everyone_abstains_from_a_good_model_the_run_pauses(begin: Begin) -> None:
    script = started(begin)
    round_of(script)
    all_abstain(script)
    assert kinds(evaluate(script, 1.9)) == ["Evaluated", "RoundOpened"]
    assert kinds(all_abstain(script))[-1] == "RunPaused"
    script.do(cmd.Resume())
    assert kinds(all_abstain(script))[-1] == "RunPaused", "it is known to be good already"


def test_a_stop_is_obeyed_once_the_model_is_good_again(begin: Begin) -> None:
    script = started(begin)
    round_of(script)
    assert kinds(script.do(cmd.Stop("enough"))) == ["StopRequested"]
    evaluate(script, 50.0)
    assert kinds(go_back(script)) == ["RolledBack", "RunFinished"]


def test_a_stop_between_rounds_waits_for_the_evaluation(begin: Begin) -> None:
    script = started(begin)
    round_of(script)
    script.do(cmd.Pause("hold on"))
    script.contribute("pi")
    script.commit()
    assert kinds(script.do(cmd.Stop("enough"))) == ["StopRequested"]
    assert kinds(evaluate(script, 1.0)) == ["Evaluated", "RunFinished"]


def test_an_evaluation_that_comes_late_counts_for_the_versions_that_descend_from_it(begin: Begin) -> None:
    script = started(begin)
    round_of(script)
    round_of(script)
    assert kinds(evaluate(script, 90.0, version=1)) == ["Evaluated", "RoundAbandoned"]
    go_back(script)
    assert script.state.version == 3
    assert kinds(evaluate(script, 90.0, version=2)) == ["Evaluated"], "it goes back from that one already"
    assert script.state.progress.rollbacks == 1


def test_the_optimizer_goes_on_with_what_it_remembered_at_the_good_version(begin: Begin) -> None:
    script = started(begin)
    for moments, loss in (((0.5, 1.0), 1.0), ((0.25, 9.0), 99.0)):
        script.contribute("pi")
        current, version = script.state.current, script.state.version + 1
        assert current is not None
        commit = ev.Committed(version, current.number, f"{version:032x}", (), None, (), moments=moments)
        script.do(cmd.CommitRound(commit))
        evaluate(script, loss)
    go_back(script)
    assert script.state.moments == (0.5, 1.0)


def test_only_the_good_version_is_gone_back_to_and_only_once(begin: Begin) -> None:
    script = started(begin)
    good = script.state.digest
    with pytest.raises(Rejected, match="does not go back"):
        script.do(cmd.RollBack(1, good, (), None, ()))
    round_of(script, 1000.0)
    with pytest.raises(Rejected, match="not the last good one"):
        script.do(cmd.RollBack(2, "f" * 32, (), None, ()))
    go_back(script)
    with pytest.raises(Rejected, match="does not go back"):
        script.do(cmd.RollBack(2, good, (), None, ()))


def test_switched_off_it_lets_everything_pass(begin: Begin) -> None:
    script = begin(warmup=0, clients=1)
    script.join("pi", Tier.HIGH)
    evaluate(script, 1.0)
    for loss in (1e9, math.nan):
        round_of(script, loss)
    assert "RoundAbandoned" not in kinds(script.events)
    assert script.state.phase is Phase.FINISHED and not script.state.gave_up


@pytest.mark.parametrize(
    ("value", "loss", "constant", "lost"),
    [
        (2.1, 8.9, False, False),
        (2.3, 8.9, False, True),
        (2.1, 9.1, False, True),
        (2.3, 2.9, False, False),
        (2.3, 2.9, True, True),
        (2.1, 2.9, True, False),
    ],
)
def test_a_metric_of_which_less_is_better_is_worse_when_it_rises(
    value: float, loss: float, constant: bool, lost: bool
) -> None:
    """The lowest loss so far is 1, the best error 2, and a model that says the same of everything has an error of 5."""
    error = Metric("error", best=0.0, higher_is_better=False)
    program = ev.ProgramRecord("", 0, "", DataCard(shape=(1,), classes=2), 0, 0, (error,), Baseline(10.0, 5.0))
    progress = Progress()
    for version, found in enumerate((3.0, 2.0, 2.5)):
        event = ev.Evaluated(version, {"error": found}, found - 1, 10)
        progress = progress.evaluated(event, error, version, "", ())
    assert (progress.best, progress.best_metric) == (1.0, 2.0)
    assert bool(fault(GUARD, progress, program, ev.Evaluated(3, {"error": value}, loss, 10), constant)) == lost

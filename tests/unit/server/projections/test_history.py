from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.tasks import scored
from zowarmup.common.exact.layout import Block, Layout, Tensor
from zowarmup.common.exact.steps import Step
from zowarmup.common.messages.values import Phase
from zowarmup.common.settings.data_card import DataCard
from zowarmup.common.settings.run import Evaluation, Model, RunFile
from zowarmup.server.core import events as ev
from zowarmup.server.projections.history import History

ALL = Block("all", 0, 4)
LAYOUT = Layout((Tensor("w", (4,), 0),), 4, 4, (ALL,))
RUN = RunFile(
    name="x",
    model=Model(name="mlp"),
    warmup=warmup_settings(rounds=1),
    zeroth_order=zeroth_order_settings(rounds=9),
    evaluation=Evaluation(data="digits:test"),
)


def digest(version: int) -> str:
    return f"{version:032x}"


def committed(version: int, snapshot: bool = False) -> ev.Committed:
    kept = ev.Snapshot(version, f"{version:064x}", 20, digest(version)) if snapshot else None
    return ev.Committed(version, version, digest(version), () if snapshot else (Step(version, ALL, (5, -6)),), kept, ())


def history() -> History:
    """Version 1 is the warm-up's snapshot, 2 to 6 are steps, 7 changes the grid, 8 and 9 are steps."""
    told = History()
    program = ev.ProgramRecord("b" * 64, 1, LAYOUT.to_json(), DataCard(shape=(1,), classes=2), 1, 1, *scored(2))
    told.record(0.0, [ev.RunCreated("run", RUN, program, ev.Snapshot(0, "c" * 64, 20, digest(0)))])
    told.record(1.0, [committed(1, snapshot=True), ev.Pivoted(1, "done")])
    for version in range(2, 10):
        told.record(float(version), [committed(version, snapshot=version == 7)])
    return told


def test_commits_are_kept_as_they_travel() -> None:
    commits = history().since(1, 6)
    assert commits is not None
    assert [commit.version for commit in commits] == [2, 3, 4, 5, 6]
    assert commits[0].steps == (Step(2, ALL, (5, -6)),)
    assert commits[0].digest.hex() == digest(2)


def test_no_steps_lead_across_a_change_of_grid() -> None:
    assert history().since(5, 9) is None
    assert history().since(7, 9) is not None


def test_steps_are_chosen_where_they_are_cheaper_than_the_snapshot() -> None:
    way = history().catch_up(3, digest(3), 6, snapshot=1, snapshot_bytes=45_000_000)
    assert way.snapshot is None and len(way.commits) == 3
    assert way.cost_bytes == sum(map(len, way.commits))
    assert way.reason.startswith("3 commits cost")


def test_the_snapshot_is_chosen_where_it_is_cheaper() -> None:
    way = history().catch_up(1, digest(1), 6, snapshot=5, snapshot_bytes=40)
    assert way.snapshot == 5 and len(way.commits) == 1
    assert way.cost_bytes == 40 + len(way.commits[0])
    assert way.reason.startswith("the snapshot costs")


def test_a_replica_that_is_not_this_runs_is_replaced() -> None:
    told = history()
    assert told.catch_up(3, "f" * 32, 6, 1, 10**9).reason == "its replica at version 3 is not this run's"
    assert told.catch_up(99, digest(99), 6, 1, 10**9).snapshot == 1
    assert told.catch_up(0, "", 6, 1, 10**9).reason == "it holds no replica"
    assert told.catch_up(5, digest(5), 9, 7, 10**9).reason == "steps alone do not lead from version 5"


def test_an_up_to_date_replica_needs_nothing() -> None:
    way = history().catch_up(6, digest(6), 6, 1, 10**9)
    assert (way.snapshot, way.commits, way.cost_bytes) == (None, (), 0)


def test_versions_know_their_round_and_phase() -> None:
    versions = history().versions
    assert [versions[v].phase for v in (0, 1, 2)] == [Phase.WARM_UP, Phase.WARM_UP, Phase.ZEROTH_ORDER]
    assert versions[4].committed_at == 4.0

"""Tables and what comes of them: read, refused, and made into cells, warm-ups and choices."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from zowarmup.common.system.command import Usage
from zowarmup.lab.experiments.grid import after_warm_up, at_the_edge, cells, choices, choose, choosing, said, trials
from zowarmup.lab.experiments.table import ExperimentTable, read_table, table_of

RAW: dict[str, Any] = {
    "title": "A table",
    "data": "digits,alpha=0.1",
    "clients": 10,
    "high_percent": [10, 50],
    "seeds": [0, 1, 2],
    "rounds": 40,
    "model": {"name": "mlp"},
    "warmup": {"rounds": 10, "epochs": 2},
    "zeroth_order": {"probes": 8},
    "evaluation": {"data": "digits:test"},
    "method": [
        {"name": "high only", "warmup": {"rounds": 40}},
        {"name": "Ours", "zeroth_order": {"rate": 0.8}},
        {"name": "Theirs", "zeroth_order": {"slices": "whole"}},
        {"name": "alone", "warmup": {"rounds": 0}},
    ],
}
TUNE = {"data": "digits,without=validation", "evaluation": "digits:validation", "high_percent": [50], "seeds": [7, 8]}


def table(**changes: Any) -> ExperimentTable:
    return table_of({**RAW, **changes}, "t.toml")


def test_every_method_split_and_seed_is_a_cell() -> None:
    made = [cell for method in table().method for cell in cells(table(), method, {})]
    assert len(made) == len({cell.job.name for cell in made}) == 4 * 2 * 3
    assert {(cell.high_percent, cell.job.high) for cell in made} == {(10, 1), (50, 5)}
    assert {cell.job.data for cell in made if cell.seed == 2} == {"digits,alpha=0.1,seed=2"}
    assert all(cell.job.run.seed == cell.seed for cell in made)


def test_a_method_is_a_run_file_with_what_the_warm_up_leaves_of_the_rounds() -> None:
    first = {method.name: cells(table(), method, {})[0].job for method in table().method}
    only, ours, alone = first["high only"], first["Ours"], first["alone"]
    assert (only.run.warmup.rounds, only.run.zeroth_order.rounds, only.after) == (40, 0, None)
    assert (ours.run.warmup.rounds, ours.run.zeroth_order.rounds, ours.run.zeroth_order.rate) == (0, 30, 0.8)
    assert (alone.run.warmup.rounds, alone.run.zeroth_order.rounds, alone.after) == (0, 40, None)
    assert (ours.run.zeroth_order.quorum, ours.run.zeroth_order.clients_per_round) == (1.0, 10)


def test_methods_that_warm_up_alike_share_the_warm_up_of_their_split_and_seed() -> None:
    _, ours, theirs, _ = ({(c.high_percent, c.seed): c.job for c in cells(table(), m, {})} for m in table().method)
    warm_ups = {place: job.after for place, job in ours.items()}
    assert warm_ups == {place: job.after for place, job in theirs.items()}
    assert len({first.name for first in warm_ups.values() if first}) == 6
    first = warm_ups[50, 1]
    assert first is not None
    assert asdict(first.run.warmup)["epochs"] == 2 and (first.run.warmup.rounds, first.run.zeroth_order.rounds) == (
        10,
        0,
    )
    assert (first.high, first.data, first.shared) == (5, "digits,alpha=0.1,seed=1", True)


def test_another_warm_up_is_another_job() -> None:
    methods = [{"name": "a"}, {"name": "b", "warmup": {"rate": 0.2}}]
    a, b = (cells(table(method=methods), method, {})[0].job.after for method in table(method=methods).method)
    assert a is not None and b is not None and a.name != b.name


def test_participants_are_drawn_once_everybody_is_there() -> None:
    of_four = table(participants=4)
    ours, first = (job := cells(of_four, of_four.method[1], {})[1].job), job.after
    assert (ours.run.zeroth_order.clients_per_round, ours.run.zeroth_order.minimum_clients) == (4, 10)
    assert first is not None
    assert (first.run.warmup.clients_per_round, first.run.warmup.minimum_clients) == (4, 5)


def test_where_the_low_tier_trains_everybody_is_drawn() -> None:
    both = table(method=[{"name": "heterofl", "warmup": {"algorithm": "heterofl", "rounds": 40}}])
    (run, *_) = (cell.job.run for cell in cells(both, both.method[0], {}))
    assert (run.warmup.clients_per_round, run.warmup.minimum_clients) == (10, 10)


def test_a_fingerprint_tells_work_apart_and_not_where_it_is_done() -> None:
    job = cells(table(), table().method[1], {})[0].job
    moved = replace(job, run=replace(job.run, name="other", server=replace(job.run.server, address="127.0.0.1:1")))
    assert job.fingerprint("aa") == moved.fingerprint("aa")
    slower = replace(job, run=replace(job.run, zeroth_order=replace(job.run.zeroth_order, rate=0.1)))
    others = [
        job.fingerprint("bb"),
        job.fingerprint(),
        slower.fingerprint("aa"),
        replace(job, high=2).fingerprint("aa"),
    ]
    assert len({job.fingerprint("aa"), *others}) == 5


def test_a_warm_up_that_ends_by_itself_leaves_the_rest_of_all_rounds() -> None:
    auto = table(warmup={"rounds": 30, "pivot": "auto"}, watched="digits:validation")
    job = cells(auto, auto.method[1], {})[0].job
    assert job.after is not None
    assert job.after.run.evaluation.data == "digits:validation"
    assert after_warm_up(job, 12).run.zeroth_order.rounds == 28
    fixed = cells(table(), table().method[1], {})[0].job
    assert after_warm_up(fixed, 10) == fixed
    with pytest.raises(Usage, match="took 40 of 40 rounds"):
        after_warm_up(job, 40)


def test_tuning_tries_every_combination_away_from_the_test_set() -> None:
    tuned = {"name": "x", "tune": {"zeroth_order": {"rate": [0.1, 0.2, 0.4], "eps": [1e-3, 1e-2]}}}
    made = table(method=[tuned, {"name": "y"}], tune=TUNE)
    tried = trials(made, made.method[0])
    assert len(tried) == 6 * 1 * 2
    assert len({cell.job.name for cell in tried}) == 12
    assert all(cell.trial and cell.job.run.evaluation.data == "digits:validation" for cell in tried)
    assert {cell.job.data for cell in tried} == {f"digits,without=validation,seed={seed}" for seed in (7, 8)}
    assert trials(made, made.method[1]) == []
    (cell, *_) = cells(made, made.method[0], {"zeroth_order": {"rate": 0.2}})
    assert (cell.job.run.zeroth_order.rate, cell.job.run.evaluation.data) == (0.2, "digits:test")
    assert said(cell.choice) == "zeroth_order.rate=0.2"


def test_a_tuning_without_splits_is_one_for_each_of_the_tables() -> None:
    tuned = {"name": "x", "tune": {"zeroth_order": {"rate": [0.1, 0.2]}}}
    by_itself = {name: value for name, value in TUNE.items() if name != "high_percent"}
    made, once = table(method=[tuned], tune=by_itself), table(method=[tuned], tune=TUNE)
    assert choosing(made) == [[10], [50]]
    assert choosing(once) == [[10, 50]]
    for split in (10, 50):
        tried = trials(made, made.method[0], [split])
        assert len(tried) == 2 * 2
        assert {cell.high_percent for cell in tried} == {split}
        assert {cell.high_percent for cell in cells(made, made.method[0], {}, [split])} == {split}
    assert {cell.high_percent for cell in trials(once, once.method[0], [10])} == {50}
    assert len(trials(made, made.method[0])) == 2 * 2 * 2


def test_the_best_mean_is_chosen_and_of_equal_ones_the_first() -> None:
    made = table(method=[{"name": "x", "tune": {"zeroth_order": {"rate": [0.1, 0.2, 0.4]}}}], tune=TUNE)
    low, middle, high = choices(made.method[0])
    assert choose([(low, 0.5), (low, 0.9), (middle, 0.8), (middle, 0.7)]) == middle
    assert choose([(low, 0.7), (middle, 0.7)]) == low
    assert choose([(low, None), (low, 0.9), (high, 0.1), (high, 0.1)]) == high, "one that gave up is no choice"
    assert choose([(low, None), (high, None)]) == low
    assert [at_the_edge(made.method[0], choice) for choice in (low, middle, high)] == [True, False, True]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"clints": 3}, "t.toml: clints is not a setting; allowed here: title, data, clients"),
        ({"clients": "ten"}, "clients = 'ten': input should be a valid integer"),
        ({"seeds": [0, 0]}, "seeds = [0, 0]: must be"),
        ({"high_percent": [101]}, "high_percent = [101]: must be 0 to 100, each once"),
        ({"plots": ["round"]}, "plots.1 = 'round': must be 'rounds', 'uplink'"),
        ({"method": [{"name": "a"}, {"name": "A"}]}, "must be names that differ"),
        (
            {"method": [{"name": "a", "rate": 1}]},
            "method.1.rate is not a setting; allowed here: name, model, text, warmup",
        ),
        ({"method": [{"name": "a/b"}]}, "method.1.name = 'a/b': must be"),
        (
            {"method": [{"name": "a", "tune": {"zeroth_order": {"rate": [1]}}}]},
            "tune = None: must be given, since a tunes",
        ),
        (
            {"tune": {**TUNE, "evaluation": "digits:test"}},
            "evaluation = 'digits:test': must be another than the test set",
        ),
    ],
)
def test_what_is_wrong_with_a_table_is_named(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Usage) as refused:
        table(**changes)
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"zeroth_order": {"prbes": 3}},
            'zeroth_order.prbes is not a setting of algorithm "zowarmup"; allowed here: algorithm, rounds',
        ),
        ({"model": {}}, "ours-10-0: model.name is missing"),
        ({"evaluation": {}}, "ours-10-0: evaluation.data is missing: name the held-out set"),
        ({"warmup": {"rounds": 10, "rate": -1.0}}, "warmup.rate = -1.0: must be above 0"),
        ({"high_percent": [0]}, "high_percent leaves no client of 10 to train"),
        ({"rounds": 0, "warmup": {"rounds": 0}, "zeroth_order": {"rounds": 0}}, "has no rounds"),
        ({"warmup": {"rounds": 30, "pivot": "auto"}}, "name one that is no test set as watched"),
    ],
)
def test_a_cell_that_no_coordinator_would_run_is_refused_by_name(changes: dict[str, Any], sentence: str) -> None:
    made = table(**changes)
    with pytest.raises(Usage) as refused:
        cells(made, made.method[1], {})
    assert sentence in str(refused.value)


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Usage, match="cannot be read"):
        read_table(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("title = ")
    with pytest.raises(Usage, match="is not TOML"):
        read_table(tmp_path / "bad.toml")

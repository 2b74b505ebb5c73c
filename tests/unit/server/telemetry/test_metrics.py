"""What /metrics says, against what has happened."""

import ast
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from tests.algorithms import changed, warmup_settings, zeroth_order_settings
from tests.tasks import accuracy_of, scored
from zowarmup.common.exact.layout import Block, Layout, Tensor
from zowarmup.common.exact.steps import Step
from zowarmup.common.messages.values import Abstention, Delta, Phase, Scalars, Tier
from zowarmup.common.settings.data_card import DataCard
from zowarmup.common.settings.run import Evaluation, Model, RunFile
from zowarmup.server.coordinator import Coordinator
from zowarmup.server.core import events as ev
from zowarmup.server.core.errors import REASONS
from zowarmup.server.core.evolve import evolve
from zowarmup.server.core.sorted_names import SortedNames
from zowarmup.server.core.state import State
from zowarmup.server.projections.history import History
from zowarmup.server.projections.traffic import OCCURRING, Traffic
from zowarmup.server.store.ledger import Ledger
from zowarmup.server.telemetry.cluster_metrics import ClusterFigures
from zowarmup.server.telemetry.metrics import WAITING, RunMetrics, Sources, waits_for
from zowarmup.server.telemetry.tcp_info import WireBytes

REPOSITORY = Path(__file__).parents[4]
DOCUMENT = (REPOSITORY / "docs/metrics.md").read_text(encoding="utf-8")
ALL = Block("all", 0, 4)
LAYOUT = Layout((Tensor("w", (4,), 0),), 4, 4, (ALL,))
VECTOR = 16
RUN = RunFile(
    name="x",
    model=Model(name="mlp"),
    warmup=warmup_settings(rounds=1),
    zeroth_order=zeroth_order_settings(rounds=9),
    evaluation=Evaluation(data="digits:test"),
)
Told = tuple[float, ev.Event]


def digest(version: int) -> str:
    return f"{version:032x}"


def story() -> list[Told]:
    """A warm-up round of two, an abandoned one, the pivot, a zeroth-order round of three of whom one abstains."""
    program = ev.ProgramRecord("b" * 64, 1, LAYOUT.to_json(), DataCard(shape=(1,), classes=2), 1, 1, *scored(2))
    traffic = (ev.TrafficCount("up", "high", "warm-up", "delta", 100, 2),)
    return [
        (0.0, ev.RunCreated("run", RUN, program, ev.Snapshot(0, "c" * 64, 20, digest(0)))),
        *((1.0, ev.ClientEnrolled(name, Tier.HIGH, 10, name)) for name in ("h1", "h2")),
        *((1.0, ev.ClientEnrolled(name, Tier.LOW, 10, name)) for name in ("l1", "l2")),
        (2.0, ev.RoundOpened(1, Phase.WARM_UP, 0, ("h1", "h2"), (1, 2), (10, 10), 99.0, opened_at=2.0)),
        (3.0, ev.Contributed("h1", Delta(1, "a" * 32, 10, 1.0))),
        (4.0, ev.Contributed("h2", Delta(1, "b" * 32, 10, 1.0))),
        (4.0, ev.RoundClosed(1, "all")),
        (5.5, ev.Committed(1, 1, digest(1), (), ev.Snapshot(1, "d" * 64, 20, digest(1)), traffic, 0, 1)),
        (6.0, ev.RoundOpened(2, Phase.WARM_UP, 1, ("h1", "h2"), (3, 4), (10, 10), 99.0, opened_at=6.0)),
        (7.0, ev.ClientRevoked("h2", "lost")),
        (8.0, ev.RoundAbandoned(2, "deadline")),
        (9.0, ev.Pivoted(1, "done")),
        (
            10.0,
            ev.RoundOpened(3, Phase.ZEROTH_ORDER, 1, ("h1", "l1", "l2"), (5, 6, 7), (10, 10, 10), 99.0, opened_at=10.0),
        ),
        (11.0, ev.Contributed("h1", Scalars(3, (0.5,), ()))),
        (11.0, ev.Contributed("l1", Scalars(3, (0.5,), ()))),
        (11.5, ev.Abstained("l2", Abstention(3, "a value is not finite"))),
        (12.0, ev.RoundClosed(3, "quorum")),
        (13.0, ev.Committed(2, 3, digest(2), (Step(5, ALL, (1,)),), None, (), 3, 0)),
        (14.0, ev.Evaluated(2, accuracy_of(0.5), 1.25, 10)),
        (15.0, ev.RoundOpened(4, Phase.ZEROTH_ORDER, 2, ("h1", "l1"), (8, 9), (10, 10), 99.0, opened_at=15.0)),
        (16.0, ev.Contributed("l1", Scalars(4, (0.5,), ()))),
    ]


def told(
    events: Sequence[Told], folder: Path, *soft: ev.Event, before: int = 1, leads: Callable[[], bool] = lambda: True
) -> CollectorRegistry:
    """What a coordinator shows that has been through these events, the first of them `before` its process started."""
    every = [*events, *((99.0, event) for event in soft)]
    state: State | None = None
    history = History()
    for at, event in every[:before]:
        state = evolve(state, event)
        history.record(at, [event])
    assert state is not None
    coordinator = Coordinator(Ledger(folder / "ledger.sqlite"), state)
    traffic = Traffic(lambda: coordinator.state.phase, history.traffic.latest)
    metrics = RunMetrics(RUN.name)
    metrics.show(
        Sources(
            coordinator,
            history,
            traffic,
            Counter[str](),
            folder,
            folder / "ledger.sqlite",
            folder,
            {},
            WireBytes(1, traffic, lambda: coordinator.state.phase),
            lambda: 9e9,
            leads,
            lambda: ClusterFigures(leads(), 3, 2, 1, 0.25, 7, {"two": 5}),
        )
    )
    if leads():
        metrics.count(coordinator)
    metrics.appended(0.002)
    for at, event in every[before:]:
        coordinator.state = evolve(coordinator.state, event)
        history.record(at, [event])
        for observer in coordinator._observers:
            observer(at, [event], coordinator.state)
    traffic.call("ipv4:10.0.0.7:1", Tier.HIGH, "h1").up("delta", 100)
    return metrics.registry


def scrape(shown: CollectorRegistry) -> dict[str, dict[tuple[str, ...], float]]:
    """Samples by name, and then by the values of their labels but for `run`, in the labels' order."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(generate_latest(shown).decode()):
        for sample in family.samples:
            words = tuple(value for label, value in sorted(sample.labels.items()) if label != "run")
            found.setdefault(sample.name, {})[words] = sample.value
    return found


def test_sums_are_those_of_the_events(tmp_path: Path) -> None:
    seen = scrape(told(story(), tmp_path))
    assert {k: v for k, v in seen["zowarmup_rounds_total"].items() if v} == {
        ("committed", "warm-up"): 1,
        ("abandoned", "warm-up"): 1,
        ("committed", "zeroth-order"): 1,
    }
    assert seen["zowarmup_contributions_total"] == {
        ("warm-up", "high"): 2,
        ("zeroth-order", "high"): 1,
        ("zeroth-order", "low"): 2,
    }
    # h2 was revoked before its round ended: nobody waited for it.
    assert seen["zowarmup_dropouts_total"] == {
        ("warm-up", "high"): 1,
        ("zeroth-order", "high"): 0,
        ("zeroth-order", "low"): 1,
    }
    assert {k: v for k, v in seen["zowarmup_abstentions_total"].items() if v} == {("zeroth-order", "low"): 1}
    assert seen["zowarmup_fedavg_bytes_total"] == {
        ("down", "warm-up", "high"): 2 * VECTOR,
        ("up", "warm-up", "high"): 2 * VECTOR,
        ("down", "warm-up", "low"): 0,
        ("up", "warm-up", "low"): 0,
        ("down", "zeroth-order", "high"): VECTOR,
        ("up", "zeroth-order", "high"): VECTOR,
        ("down", "zeroth-order", "low"): 2 * VECTOR,
        ("up", "zeroth-order", "low"): VECTOR,
    }
    assert seen["zowarmup_rounds_below_tick_total"] == {(): 1}
    assert seen["zowarmup_clipped_total"] == {("scalar",): 3, ("delta",): 1}
    assert seen["zowarmup_round_duration_seconds_sum"] == {("warm-up",): 3.5, ("zeroth-order",): 3.0}
    assert seen["zowarmup_round_duration_seconds_bucket"]["2.5", "warm-up"] == 0
    assert seen["zowarmup_round_duration_seconds_bucket"]["5.0", "warm-up"] == 1
    assert seen["zowarmup_round_duration_seconds_count"] == {("warm-up",): 1, ("zeroth-order",): 1}
    assert seen["zowarmup_last_round_timestamp_seconds"] == {(): 13.0}
    assert seen["zowarmup_payload_bytes_total"]["up", "delta", "zeroth-order", "high"] == 100
    assert seen["zowarmup_ledger_append_duration_seconds_count"] == {(): 1}


def test_counters_begin_at_zero_with_their_process_and_the_round_in_progress_counts(tmp_path: Path) -> None:
    """Restarted in the midst of the last committed round: two of three participants had contributed."""
    restarted = next(n for n, (_, event) in enumerate(story()) if isinstance(event, ev.Abstained))
    seen = scrape(told(story(), tmp_path, before=restarted))
    assert {k: v for k, v in seen["zowarmup_rounds_total"].items() if v} == {("committed", "zeroth-order"): 1}
    assert {k: v for k, v in seen["zowarmup_contributions_total"].items() if v} == {("zeroth-order", "low"): 1}
    assert {k: v for k, v in seen["zowarmup_dropouts_total"].items() if v} == {("zeroth-order", "low"): 1}
    assert seen["zowarmup_fedavg_bytes_total"]["down", "zeroth-order", "low"] == 2 * VECTOR
    assert seen["zowarmup_fedavg_bytes_total"]["up", "zeroth-order", "low"] == VECTOR
    assert seen["zowarmup_payload_bytes_total"]["up", "delta", "zeroth-order", "high"] == 100
    assert seen["zowarmup_payload_bytes_total"].get(("up", "delta", "warm-up", "high")) == 0
    assert seen["zowarmup_clipped_total"] == {("scalar",): 3, ("delta",): 0}
    assert seen["zowarmup_last_round_timestamp_seconds"] == {(): 13.0}


def test_the_present_is_that_of_the_state(tmp_path: Path) -> None:
    soft = (ev.ClientConnected("h1", 1, 10), ev.ClientConnected("l1", 2, 10), ev.ClientDisconnected("l1", 98.0))
    reports = (ev.ClientReported("l1", 2, digest(2), 60), ev.ClientReported("h1", 2, digest(7), 300))
    seen = scrape(told(story(), tmp_path, *soft, *reports))
    assert {k: v for k, v in seen["zowarmup_clients"].items() if v} == {
        ("connected", "high"): 1,
        ("revoked", "high"): 1,
        ("away", "low"): 2,
    }
    assert seen["zowarmup_client_peak_memory_bytes"] == {("high",): 300, ("low",): 60}
    assert seen["zowarmup_replica_disagreements_total"] == {(): 1}
    assert seen["zowarmup_round_participants"] == {("warm-up",): 0, ("zeroth-order",): 2}
    assert seen["zowarmup_round_missing"] == {(): 1}
    assert seen["zowarmup_phase"] == {("warm-up",): 0, ("zeroth-order",): 1, ("finished",): 0}
    assert seen["zowarmup_pivot_version"] == {(): 1}
    assert seen["zowarmup_model_version"] == {(): 2}
    assert seen["zowarmup_evaluation_metric"] == {("higher", "accuracy", "ratio"): 0.5}
    assert seen["zowarmup_loss"] == {(): 1.25}
    assert {k for k, v in seen["zowarmup_waiting"].items() if v} == {("contributions",)}


def test_before_the_pivot_and_the_first_commit_there_is_nothing_to_tell_of_them(tmp_path: Path) -> None:
    seen = scrape(told(story()[:6], tmp_path))
    absent = ["pivot_version", "last_round_timestamp_seconds", "evaluation_metric", "loss", "evaluated_version"]
    assert [name for name in absent if f"zowarmup_{name}" in seen] == []


def test_a_model_that_diverged_can_be_scraped(tmp_path: Path) -> None:
    events = [*story(), (17.0, ev.Evaluated(2, accuracy_of(0.1), math.nan, 10))]
    assert math.isnan(scrape(told(events, tmp_path))["zowarmup_loss"][()])


def test_every_combination_that_can_occur_is_there_from_the_beginning(tmp_path: Path) -> None:
    begun, later = scrape(told(story()[:1], tmp_path)), scrape(told(story(), tmp_path))
    absent = {"zowarmup_pivot_version", "zowarmup_last_round_timestamp_seconds", "zowarmup_evaluation_metric"}
    absent |= {"zowarmup_loss", "zowarmup_evaluated_version", "zowarmup_lowest_loss", "zowarmup_loss_limit"}
    for name in later.keys() - absent:
        assert set(later[name]) == set(begun[name]), name
    assert len(begun["zowarmup_payload_bytes_total"]) == len(OCCURRING)
    assert {reason for (reason,) in begun["zowarmup_refusals_total"]} == set(REASONS)


def test_where_the_low_tier_trains_its_series_are_there_too(tmp_path: Path) -> None:
    (at, created), *_ = story()
    assert isinstance(created, ev.RunCreated)
    both = replace(created, run_file=replace(RUN, warmup=changed(RUN.warmup, "heterofl")))
    begun = scrape(told([(at, both)], tmp_path))
    assert ("up", "delta", "warm-up", "low") in begun["zowarmup_payload_bytes_total"]
    assert begun["zowarmup_contributions_total"]["warm-up", "low"] == 0


def test_the_table_in_the_documents_is_what_is_shown(tmp_path: Path) -> None:
    rows = re.findall(r"^\| `(zowarmup_\w+)` \| (\w+) \|([^|]*)\| [^|]+ \|$", DOCUMENT, re.MULTILINE)
    documented = {name: (kind, {label.strip() for label in labels.split(",")} - {""}) for name, kind, labels in rows}
    shown = {}
    for family in text_string_to_metric_families(generate_latest(told(story(), tmp_path)).decode()):
        if family.name.startswith("zowarmup_"):
            name = family.name + ("_total" if family.type == "counter" else "")
            shown[name] = (family.type, {label for s in family.samples for label in s.labels} - {"run", "le"})
            assert ("run" in family.samples[0].labels) == (name != "zowarmup_build_info")
    assert documented == shown


def test_names_follow_the_conventions(tmp_path: Path) -> None:
    """What `promtool check metrics` looks for, which tests/monitoring runs where there is one."""
    for family in openmetrics_families(openmetrics(told(story(), tmp_path)).decode()):
        assert re.fullmatch(r"[a-z][a-z0-9_]*", family.name) and family.documentation
        assert not re.search(r"_(count|sum|bucket|milli\w+|kilo\w+|minutes|hours)$", family.name)


def rejections(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in (
            "Rejected",
            "_dropped",
        ):
            first: Any = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value


def test_every_word_for_a_refusal_is_known() -> None:
    """So that each is a series from the first scrape on, and there are no others."""
    found = {word for path in (REPOSITORY / "server").rglob("*.py") for word in rejections(path)}
    assert found - {"stopping", "superseded"} == set(REASONS)


@pytest.mark.parametrize(
    ("changes", "disk", "word"),
    [
        ({}, False, "clients"),
        ({}, True, "disk"),
        ({"ready": {Tier.HIGH: SortedNames(map(str, range(99)))}}, False, "opening"),
        ({"paused": "lunch"}, False, "paused"),
        ({"paused": "3 abandoned", "abandoned": 100}, False, "paused-itself"),
        ({"phase": Phase.FINISHED}, False, "finished"),
    ],
)
def test_a_word_for_what_the_run_waits_for(changes: dict[str, Any], disk: bool, word: str) -> None:
    state: State | None = None
    for _, event in story()[:5]:
        state = evolve(state, event)
    assert state is not None and word in WAITING
    assert waits_for(replace(state, **changes), disk) == word


def test_words_while_a_round_lasts() -> None:
    state: State | None = None
    words = []
    for _, event in story()[:9]:
        state = evolve(state, event)
        words.append(waits_for(state, False))
    assert words[5:] == ["contributions", "contributions", "contributions", "aggregating"]


def test_a_front_end_tells_of_itself_and_not_of_the_run(tmp_path: Path) -> None:
    shown = scrape(told(story(), tmp_path, leads=lambda: False))
    assert shown["zowarmup_leads"][()] == 0 and shown["zowarmup_streams"][()] == 7
    for counter in ("rounds_total", "contributions_total", "dropouts_total", "round_duration_seconds_count"):
        counts = shown[f"zowarmup_{counter}"]
        assert counts and not any(counts.values()), (
            "at zero, so that what it counts first when it leads is seen as an increase"
        )
    assert "zowarmup_payload_bytes_total" in shown and "zowarmup_refusals_total" in shown
    of_the_run = {"clients", "phase", "model_version", "round_participants", "replica_disagreements_total"}
    assert not {f"zowarmup_{name}" for name in of_the_run} & set(shown)

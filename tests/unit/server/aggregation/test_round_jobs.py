"""The aggregator (`zowarmup.server.aggregation.aggregator`): a round whose contributions cannot be aggregated is abandoned, and the
replica stays as it was, bit for bit."""

import asyncio
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.tasks import accuracy_of, scored
from zowarmup.common.algorithms import settings_class
from zowarmup.common.exact.grid import Grid, HeadroomExceeded
from zowarmup.common.exact.layout import Block, Layout, Tensor
from zowarmup.common.exact.replica import Replica
from zowarmup.common.messages.values import Contribution, Delta, Scalars, Tier
from zowarmup.common.settings.data_card import DataCard
from zowarmup.common.settings.run import Evaluation, Guard, Model, RunFile
from zowarmup.server.aggregation.evaluation import MeasuredModel
from zowarmup.server.aggregation.round_jobs import RoundJobs
from zowarmup.server.coordinator import Coordinator
from zowarmup.server.core import commands as cmd
from zowarmup.server.core import events as ev
from zowarmup.server.core.contributions import AlgorithmFault, naming_faults, upload_name
from zowarmup.server.core.evolve import evolve
from zowarmup.server.projections.history import History
from zowarmup.server.store.blobs import MemoryBlobs
from zowarmup.server.store.ledger import Ledger
from zowarmup.server.store.uploads import UploadStore

PLUGINS = Path(__file__).parents[4] / "examples/plugins"
FAULTY = """
from dataclasses import dataclass
from majority_vote import MajorityVote, MajorityVoteSettings
from zowarmup import Aggregate, Update

@dataclass(frozen=True, kw_only=True, slots=True)
class FaultySettings(MajorityVoteSettings):
    def build(self, layout, pool_seed=0, warmup=None):
        return Faulty(self, layout)

class Faulty(MajorityVote):
    Settings = FaultySettings
    def aggregate(self, start, contributions):
        {}
"""
LAYOUT = Layout((Tensor("w", (4,), 0),), 4, 4, (Block("all", 0, 4),))


class NoEvaluator:
    def evaluate(self, weights: object) -> MeasuredModel:
        return MeasuredModel(accuracy_of(0.5), 1.0, 1)


async def _after_one_round(
    tmp_path: Path,
    warmup: int,
    content: bytes,
    contribution: Contribution,
    rate: float,
    settle: bool = False,
    local_steps: int = 1,
    largest: float = 1.0,
    clip: float = 5.0,
    rules: Any = None,
    **limits: int,
) -> tuple[Coordinator, Replica, list[ev.Event]]:
    run_file = RunFile(
        name="x",
        model=Model(name="mlp"),
        warmup=warmup_settings(rounds=warmup, clients_per_round=1, clip=clip),
        zeroth_order=rules
        or zeroth_order_settings(
            rounds=3, clients_per_round=1, probes=1, step="raw", rate=rate, local_steps=local_steps, clip=clip
        ),
        evaluation=Evaluation(data="digits:test", every=1),
        guard=Guard(factor=0),  # nobody evaluates the version that the run begins with
    )
    blobs, uploaded, ledger = MemoryBlobs(), MemoryBlobs(), Ledger(tmp_path / "ledger")
    digest = xxhash.xxh3_128_hexdigest(content)
    upload = upload_name("pi", 1, digest)
    uploaded.write(upload, 0, content)
    uploaded.finish(upload, upload)
    replica = Replica(LAYOUT, Grid(20), np.array([0.5, -0.25, largest, 0.0], np.float32), 0)
    created = ev.RunCreated(
        "run",
        run_file,
        ev.ProgramRecord("b" * 64, 1, LAYOUT.to_json(), DataCard(shape=(1,), classes=2), 1, 1, *scored(2)),
        ev.Snapshot(0, blobs.put(replica.weights.tobytes()), 20, replica.digest().hex()),
    )
    ledger.append([created], 0.0, 0)
    state = evolve(None, created)
    coordinator = Coordinator(ledger, state, clock=lambda: 5.0, end=1)
    evaluator: Any = NoEvaluator()
    uploads = UploadStore(uploaded, 1 << 20, state)
    round_jobs = RoundJobs(coordinator, blobs, uploads, replica, evaluator, History(), lambda: (), **limits)
    seen: list[ev.Event] = []
    coordinator.observe(round_jobs)
    coordinator.observe(lambda now, events, state: seen.extend(events))
    tasks = [asyncio.create_task(coordinator.run()), asyncio.create_task(round_jobs.run())]
    await coordinator.handle(cmd.Enrol("pi", Tier.HIGH, 8, "0" * 64))
    await coordinator.handle(cmd.ConnectClient("pi", 1, 8))
    await coordinator.handle(cmd.Contribute("pi", contribution))
    async with asyncio.timeout(20):
        while not any(isinstance(event, ev.RoundAbandoned | ev.Committed) for event in seen) or (
            settle and coordinator.state.evaluation != ev.Evaluated(1, accuracy_of(0.5), 1.0, 1)
        ):
            await asyncio.sleep(0.01)
            assert not any(task.done() for task in tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return coordinator, replica, seen


@pytest.mark.parametrize("delta", [1e30, 3e38])
def test_deltas_that_no_grid_holds(tmp_path: Path, delta: float) -> None:
    content = np.full(4, delta, "<f4").tobytes()
    contribution = Delta(1, xxhash.xxh3_128_hexdigest(content), 8, 1.0)
    coordinator, replica, seen = asyncio.run(_after_one_round(tmp_path, 1, content, contribution, 0.1, clip=0.0))
    assert any(isinstance(e, ev.RoundAbandoned) and "cannot be aggregated" in e.reason for e in seen)
    assert coordinator.state.version == replica.version == 0
    assert coordinator.state.round == 2, "the next round opens"
    assert replica.weights.tolist() == [0.5, -0.25, 1.0, 0.0]


@pytest.mark.parametrize("delta", [10.0, 1e30])
def test_the_only_delta_of_a_round_moves_the_model_by_its_own_size_at_most(tmp_path: Path, delta: float) -> None:
    """Nobody else's says what is too long."""
    content = np.full(4, -delta, "<f4").tobytes()
    contribution = Delta(1, xxhash.xxh3_128_hexdigest(content), 8, 1.0)
    _, replica, seen = asyncio.run(_after_one_round(tmp_path, 1, content, contribution, 0.1))
    (committed,) = (event for event in seen if isinstance(event, ev.Committed))
    assert committed.clipped_deltas == 1
    size = np.sqrt(np.mean(np.square([0.5, -0.25, 1.0, 0.0])))
    assert replica.weights == pytest.approx(np.array([0.5, -0.25, 1.0, 0.0]) - size, abs=1e-5)


def test_the_only_scalars_of_a_round_make_a_raw_step_as_long_as_the_model_is_large_at_most(tmp_path: Path) -> None:
    contribution = Scalars(1, (2.0**32,), ())
    _, replica, seen = asyncio.run(_after_one_round(tmp_path, 0, b"", contribution, 1000.0))
    (committed,) = (event for event in seen if isinstance(event, ev.Committed))
    assert committed.snapshot is None and committed.steps
    size = np.sqrt(np.mean(np.square([0.5, -0.25, 1.0, 0.0])))
    assert np.abs(replica.weights - np.array([0.5, -0.25, 1.0, 0.0])) == pytest.approx(np.full(4, size), rel=1e-3)


def test_a_step_too_long_for_the_grid_makes_a_snapshot_on_a_coarser_one(tmp_path: Path) -> None:
    contribution = Scalars(1, (2.0**32,), ())
    _, replica, seen = asyncio.run(_after_one_round(tmp_path, 0, b"", contribution, 1000.0, clip=0.0))
    # The model is lost, but the run is not.
    assert any(isinstance(e, ev.Committed) and e.snapshot is not None for e in seen)
    assert replica.version == 1
    assert replica.grid.contains(replica.weights)


@pytest.mark.parametrize(("local_steps", "largest", "exponent"), [(2, -3.0, 17), (2, 1.5, 20), (1, -3.0, 20)])
def test_clients_that_step_by_themselves_are_left_room(
    tmp_path: Path, local_steps: int, largest: float, exponent: int
) -> None:
    """The grid's limit is 8: weights of 3 leave too little for moves that only the client makes."""
    contribution = Scalars(1, (1.0,) * local_steps, ())
    _, replica, seen = asyncio.run(
        _after_one_round(tmp_path, 0, b"", contribution, 1e-3, local_steps=local_steps, largest=largest)
    )
    (committed,) = (event for event in seen if isinstance(event, ev.Committed))
    assert (committed.snapshot is not None) == (exponent != 20)
    assert replica.grid == Grid(exponent)
    assert replica.grid.contains(replica.weights)


@pytest.mark.parametrize(("replay_signs", "snapshots"), [(4, [1]), (5, [])])
def test_a_snapshot_is_due_when_a_restart_would_replay_too_much(
    tmp_path: Path, replay_signs: int, snapshots: list[int]
) -> None:
    """One direction over four parameters is four signs."""
    contribution = Scalars(1, (1.0,), ())
    ended = _after_one_round(tmp_path, 0, b"", contribution, 1e-3, settle=True, replay_signs=replay_signs)
    coordinator, replica, _ = asyncio.run(ended)
    assert replica.version == 1
    assert [version for version in coordinator.state.snapshots if version] == snapshots
    assert coordinator.state.replay_signs == (0 if snapshots else 4)


@pytest.mark.parametrize(
    ("number", "body", "said"),
    [
        (0, "return {}['weight']", r"KeyError: 'weight' \(.*faulty_0.py, line 14\)"),
        (1, "return None", "TypeError: its `aggregate` gives NoneType, not an Aggregate"),
        (2, "raise ValueError('no vote')", r"ValueError: no vote \(.*faulty_2.py, line 14\)"),
        (3, "return Aggregate(update=Update(lambda place, piece: None, 4))", "TypeError: .*NoneType.*"),
        (4, "return Aggregate(moves=(1,))", "AttributeError: .*int.*"),
        (5, "return 1 / 0", r"ZeroDivisionError: division by zero \(.*faulty_5.py, line 14\)"),
    ],
)
def test_an_algorithm_whose_code_fails_is_named_and_the_coordinator_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, body: str, said: str
) -> None:
    monkeypatch.syspath_prepend(str(PLUGINS))
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / f"faulty_{number}.py").write_text(FAULTY.format(body))
    name = f"faulty_{number}:Faulty"
    settings: Any = settings_class("zeroth_order", name)
    rules = settings(algorithm=name, rounds=3, clients_per_round=1, probes=1)
    contribution = Scalars(1, (1.0,), ())
    coordinator, replica, seen = asyncio.run(_after_one_round(tmp_path, 0, b"", contribution, 0.1, rules=rules))
    (abandoned,) = (event for event in seen if isinstance(event, ev.RoundAbandoned))
    assert re.fullmatch(f"algorithm {name}: {said}", abandoned.fault), abandoned.reason
    assert coordinator.state.fault == abandoned.fault
    assert coordinator.state.version == replica.version == 0
    assert replica.weights.tolist() == [0.5, -0.25, 1.0, 0.0]


def test_what_is_no_fault_of_an_algorithms_code_stays_what_it_is() -> None:
    for error in (HeadroomExceeded("x"), FileNotFoundError("x"), AlgorithmFault("x"), LookupError("x")):
        with pytest.raises(type(error)) as raised, naming_faults("mine:Mine", LookupError):
            raise error
        assert raised.value is error

"""What crosses the cut on a device: kept within a bound, held in pieces, and the same scalars whether it was kept or not."""

import json
import threading
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.algorithms import zeroth_order_settings
from tests.language import ENCODER
from tests.tasks import classification
from zowarmup.client.errors import ComputingStopped, Final
from zowarmup.client.work.activations import HELD_BYTES, KEPT_BYTES, Activations, most_bytes, never_moves_below
from zowarmup.client.work.probing import Prober, load_on
from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.layout import Block, Cut, Layout, Tensor
from zowarmup.common.exact.replica import Replica
from zowarmup.common.lora import Lora
from zowarmup.common.messages.values import Phase, Work
from zowarmup.common.models.base import Constant
from zowarmup.common.models.construction import build
from zowarmup.common.models.description import constants_of, describe, flatten
from zowarmup.common.models.export import export_program
from zowarmup.common.models.program import Crossing, Program
from zowarmup.common.settings.architecture import Architecture
from zowarmup.common.settings.data_card import PADDING
from zowarmup.common.settings.language import Language
from zowarmup.common.settings.run import Model
from zowarmup.data import Dataset

CUT = Cut(1, 2, 4, 6)
SHAPE = (12,)


def crossing(lengths: list[int], longest: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    random = np.random.default_rng(len(lengths))
    shape = (len(lengths), longest, CUT.hidden)
    return random.normal(size=shape).astype(np.float32), random.normal(size=(len(lengths), 6)).astype(np.float32)


def test_what_is_kept_comes_back_in_batches_of_another_length() -> None:
    store, every = Activations(CUT, 5), np.arange(5)
    lengths = np.array([3, 1, 2, 3, 2])
    held, means = crossing(lengths.tolist(), 3)
    store.keep(every[:4], lengths[:4], (held[:4], means[:4]))
    alone = Activations(CUT, 1)
    alone.keep(every[:1], lengths[:1], (held[:1],))
    assert [part.shape for part in alone.kept(every[:1], 5) or ()] == [(1, 5, 4)], "no means cross"
    assert store.kept(every, 3) is None, "the last one is not known"
    found = store.kept(np.array([2, 1]), 2)
    assert found is not None
    np.testing.assert_array_equal(found[1], means[[2, 1]])
    np.testing.assert_array_equal(found[0][0], held[2, :2])
    np.testing.assert_array_equal(found[0][1], [held[1, 0], np.zeros(4)])


def test_no_more_is_kept_than_there_is_room_for() -> None:
    lengths, size = np.full(10, 3), 4 * (3 * 4 + 6)
    held, means = crossing(lengths.tolist(), 3)
    store = Activations(CUT, 10, 4 * size + size // 2)
    for _ in range(2):
        store.keep(np.arange(10), lengths, (held, means))
    known = [store.kept(np.array([place]), 3) is not None for place in range(10)]
    assert known == [True] * 4 + [False] * 6


def layout(lower: int) -> Layout:
    blocks = [Block("all", 0, 8)] + ([Block("lower", 0, lower)] if lower else []) + [Block("upper", lower, 8)]
    tensors = (Tensor("a", (4,), 0), Tensor("b", (4,), 4))
    return Layout(tensors, 8, 8, tuple(blocks), cut=CUT)


def test_a_devices_footprint_has_what_is_held_and_kept() -> None:
    each = 4 * (10 * 4 + 6)
    assert most_bytes(Layout((Tensor("a", (8,), 0),), 8, 8, (Block("all", 0, 8),)), 100, 10) == 0
    assert most_bytes(layout(4), 100, 10) == 2 * 100 * each, "both sides of a direction below"
    assert most_bytes(layout(0), 100, 10) == 2 * 100 * each, "what is held, and what is kept"
    assert most_bytes(layout(4), 0, 10) == 2 * HELD_BYTES, "nobody knows how many"
    assert most_bytes(layout(0), 0, 10) == HELD_BYTES + KEPT_BYTES
    assert never_moves_below(layout(0)) and not never_moves_below(layout(4))


class Counting(Program):
    """Counts its passes below the cut, in examples."""

    below = 0

    def lower(self, inputs: NDArray[Any]) -> Crossing:
        self.below += len(inputs)
        return super().lower(inputs)


def exported(train: str, only_above: bool) -> tuple[Layout, bytes, NDArray[np.float32], dict[str, Constant]]:
    language = Language(architecture=Architecture.from_config(json.dumps(ENCODER)), lora=Lora.of(train), cut=1)
    module = build(Model(name="hf:m"), SHAPE, 2, 0, language=language)
    place = describe(module, SHAPE, train=train, pretrained=True, only_above=only_above)
    constants = {name: Constant("F32", tensor.detach().numpy()) for name, tensor in constants_of(module).items()}
    return place, export_program(module, place, SHAPE), flatten(module, place), constants


@pytest.fixture(scope="module")
def made() -> Any:
    """By whether what lies below the cut moves: the layout, the program, the weights and the constants."""
    return {moves: exported("norm", not moves) for moves in (True, False)}


def texts(count: int = 14) -> Dataset:
    random = np.random.default_rng(5)
    tokens = random.integers(0, 30, (count, 12)).astype(np.int32)
    for place, row in enumerate(tokens):
        row[1 + place % 11 :] = PADDING
    return Dataset(tokens, random.integers(0, 2, count), 2)


def prober(made: Any, moves: bool, held_bytes: int = HELD_BYTES, **others: Any) -> tuple[Prober, Replica, Counting]:
    place, graph, weights, constants = made[moves]
    grid = Grid(18)
    replica = Replica(place, grid, grid.quantise(weights), 3)
    program = Counting(graph, place, replica.weights, constants=constants)
    spec = zeroth_order_settings(
        **{"algorithm": "fedspzo", "rounds": 9, "cut": 1, "probes": (2 if moves else 0, 3), "micro_batch": 4, **others}
    )
    asked = Prober(spec, replica, program, classification(), texts(), threading.Event(), held_bytes=held_bytes)
    return asked, replica, program


def work(number: int) -> Work:
    return Work(number, Phase.ZEROTH_ORDER, 3, 100 + number, 60.0)


@pytest.mark.parametrize("slices", ["own", "whole"])
def test_what_never_changes_is_computed_once_and_the_scalars_are_the_same(made: Any, slices: str) -> None:
    keeping, replica, program = prober(made, False, slices=slices)
    first, second = (keeping.contribute(replica, work(number)) for number in (1, 2))
    assert program.below == 14, "in two rounds"
    fresh, other, _ = prober(made, False, slices=slices)
    again = fresh.contribute(other, work(2))
    assert second.probes == pytest.approx(again.probes, rel=1e-3, abs=1e-4)
    assert second.projections == pytest.approx(again.projections, rel=1e-4, abs=1e-5)
    assert len(first.probes) == 3


def test_what_moves_is_computed_in_each_round(made: Any) -> None:
    probing_, replica, program = prober(made, True)
    for number in (1, 2):
        probing_.contribute(replica, work(number))
    assert program.below == 2 * (2 * 14 + 14), "whole probes below, and once for those above"


def test_pieces_hold_so_much_and_no_more(made: Any) -> None:
    most = 4 * 3 * (12 * 16 + 32)
    nested: dict[str, Any] = {"split": "nested", "slices": "whole"}
    (roomy, replica, _), (tight, other, _) = prober(made, True, **nested), prober(made, True, most, **nested)
    assert len(list(roomy.pieces(np.arange(14)))) == 1
    pieces = list(tight.pieces(np.arange(14)))
    assert len(pieces) > 2 and sorted(np.concatenate(pieces).tolist()) == list(range(14))
    for piece in pieces:
        held = tight.lower(piece)
        assert sum(value.nbytes for part in held for value in part.crossing) <= most or len(held) == 1
    whole, found = roomy.contribute(replica, work(1)), tight.contribute(other, work(1))
    assert found.probes == pytest.approx(whole.probes, rel=1e-3, abs=1e-4)


def test_adapters_are_probed_below_the_cut_several_directions_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    train = "lora:r=2,modules=q,v"
    made = {True: exported(train, False)}
    adapters = made[True][2]
    adapters += np.random.default_rng(0).normal(0, 0.3, adapters.size).astype(np.float32)
    (together, replica, program), (alone, other, _) = (prober(made, True, train=train) for _ in range(2))
    monkeypatch.setattr(alone, "at_once", lambda block: 0)
    found, wanted = together.contribute(replica, work(1)), alone.contribute(other, work(1))
    assert len(program.own) == 4 and together.at_once(replica.layout.block("lower")) > 2
    assert found.probes == pytest.approx(wanted.probes, rel=1e-2, abs=1e-4)
    assert found.projections == pytest.approx(wanted.projections, rel=1e-4, abs=1e-5)


def test_passes_above_the_cut_end_when_the_device_is_to_stop(made: Any) -> None:
    asked, replica, _ = prober(made, True)
    before = replica.weights.copy()
    asked._stop.set()
    with pytest.raises(ComputingStopped):
        asked.contribute(replica, work(1))
    assert replica.weights.tobytes() == before.tobytes()


def test_a_cut_model_is_probed_on_the_processor(made: Any) -> None:
    with pytest.raises(Final, match="--device cuda: a model that is cut is probed on the processor: leave it out"):
        load_on("cuda", zeroth_order_settings(rounds=1), made[True][0])

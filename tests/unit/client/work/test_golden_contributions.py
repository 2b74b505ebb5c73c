"""The worked contributions of docs/protocol.md: what the reference makes, and what our client makes of the same model."""

import json
import runpy
import threading
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.algorithms import zeroth_order_settings
from tests.tasks import classification
from zowarmup.client.work.probing import Prober
from zowarmup.common.algorithms import settings_class
from zowarmup.common.algorithms.fedspzo import FedSPZOSettings
from zowarmup.common.algorithms.protocol import LossAndGradient
from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.layout import Block, Cut, Head, Layout, Tensor, no_whitening
from zowarmup.common.exact.replica import Replica
from zowarmup.common.exact.steps import Weights
from zowarmup.common.messages.small_floats import Precision
from zowarmup.common.messages.values import Phase, Work
from zowarmup.common.tasks.protocol import Batch

GOLDEN = Path(__file__).parents[3] / "golden"
REFERENCE = runpy.run_path(str(GOLDEN / "reference.py"))
CONTRIBUTIONS = json.loads((GOLDEN / "contributions.json").read_text())
CASES, PARTS = CONTRIBUTIONS["cases"], CONTRIBUTIONS["in_two_parts"]
LAYOUT = Layout(
    tensors=(Tensor("w", (2, 2), 0), Tensor("out.weight", (2, 2), 4), Tensor("out.bias", (2,), 8)),
    trainable=10,
    size=10,
    blocks=tuple(Block(name, *bounds) for name, bounds in CONTRIBUTIONS["blocks"].items()),
    head=Head("out.weight", "out.bias", 2, 2),
)

IN_PARTS = Layout(
    tensors=(
        *(Tensor(name, (2, 2), 4 * place) for place, name in enumerate(("w", "u", "out.weight"))),
        Tensor("out.bias", (2,), 12),
    ),
    trainable=14,
    size=14,
    blocks=tuple(Block(name, *bounds) for name, bounds in PARTS["blocks"].items()),
    head=LAYOUT.head,
    cut=Cut(1, 2, 2, 0),
)


def close(found: Any, golden: Any) -> bool:
    """The same, but for the last digits of floats: logarithms and exponentials differ between machines."""
    if isinstance(golden, dict):
        return found.keys() == golden.keys() and all(close(found[key], value) for key, value in golden.items())
    if isinstance(golden, list):
        return len(found) == len(golden) and all(map(close, found, golden))
    return bool(found == pytest.approx(golden, rel=1e-11)) if isinstance(golden, float) else bool(found == golden)


def test_the_worked_contributions_are_what_the_reference_makes() -> None:
    assert close(json.loads(json.dumps(REFERENCE["contributions"]())), CONTRIBUTIONS)


@dataclass
class Toy:
    """The model and its data, in float64."""

    labels: NDArray[np.int64]
    weights: Weights | None = None

    def load(self, weights: NDArray[np.float32]) -> Weights:
        self.weights = weights
        return weights

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        return Batch(np.array(CONTRIBUTIONS["inputs"])[indices], self.labels[indices])

    def forward(self, inputs: Any) -> Any:
        w = np.asarray(self.weights, dtype=np.float64)
        features = inputs @ w[:4].reshape(2, 2).T
        return features @ w[4:8].reshape(2, 2).T + w[8:10], features


@dataclass(frozen=True)
class Pass:
    """What one side of a probe was asked: on which examples, with which mean loss, and at which weights in ticks."""

    examples: list[int]
    loss: float
    at: list[int]


class Watched(Prober):
    """Notes what it evaluates."""

    toy: Toy
    seen: list[Pass]

    def evaluate(self, examples: NDArray[np.int64], head_gradient: bool) -> LossAndGradient:
        found = super().evaluate(examples, head_gradient)
        at = np.asarray(self.toy.weights) * 2.0 ** CONTRIBUTIONS["exponent"]
        self.seen.append(Pass(examples.tolist(), found.loss_sum / len(examples), at.astype(int).tolist()))
        return found


@pytest.mark.parametrize("case", CASES)
def test_our_client_makes_the_worked_contribution(case: str) -> None:
    golden = CASES[case]
    said = {"algorithm" if name == "method" else name: value for name, value in golden["zeroth_order"].items()}
    known = {field.name for field in fields(settings_class("zeroth_order", said.get("algorithm")))}
    given = {name: value for name, value in said.items() if name in known}
    spec = zeroth_order_settings(**{"rounds": 10, **given})
    grid = Grid(CONTRIBUTIONS["exponent"])
    weights = grid.quantise(np.array(CONTRIBUTIONS["weights"]) * grid.tick)
    replica = Replica(LAYOUT, grid, weights, 12)
    toy = Toy(np.array(CONTRIBUTIONS["labels"]))
    pool_seed = int(golden["zeroth_order"].get("pool_seed", 0))
    prober = Watched(spec, replica, toy, classification(2), toy, threading.Event(), pool_seed)
    prober.toy, prober.seen = toy, []
    work = Work(3, Phase.ZEROTH_ORDER, 12, int(golden["seed"]), 60.0, golden["zeroth_order"].get("done", 0))
    scalars = prober.contribute(replica, work)

    assert scalars.probes == pytest.approx(golden["probes"], rel=1e-7)
    assert scalars.projections == pytest.approx(golden["projections"], rel=1e-7)
    assert (replica.weights * 2.0**grid.exponent).tolist() == CONTRIBUTIONS["weights"]
    sides = list(zip(prober.seen[::2], prober.seen[1::2], strict=True))
    for probe, (above, below) in zip(golden["probed"], sides, strict=True):
        assert above.examples == below.examples == probe["examples"]
        assert (above.loss, below.loss) == pytest.approx((probe["above"], probe["below"]), rel=1e-12)
    # Half-way between the two sides of a probe is where it began.
    begun = [tuple((up + low) // 2 for up, low in zip(above.at, below.at, strict=True)) for above, below in sides]
    expected = [CONTRIBUTIONS["weights"], *golden["weights_after_local_steps"]]
    assert list(dict.fromkeys(begun)) == [tuple(at) for at in expected]


class TwoParts(Toy):
    """The model that is cut between W and U."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.ones(len(self), np.int64)

    def lower(self, inputs: Any) -> Any:
        return (np.asarray(inputs @ np.asarray(self.weights, np.float64)[:4].reshape(2, 2).T),)

    def upper(self, inputs: Any, crossing: Any) -> Any:
        w = np.asarray(self.weights, np.float64)
        features = crossing[0] @ w[4:8].reshape(2, 2).T
        return features @ w[8:12].reshape(2, 2).T + w[12:14], features

    def forward(self, inputs: Any) -> Any:
        return self.upper(inputs, self.lower(inputs))


@pytest.mark.parametrize("split", PARTS["cases"])
def test_our_client_makes_the_worked_contribution_of_a_model_in_two_parts(split: str) -> None:
    golden = PARTS["cases"][split]
    spec = FedSPZOSettings(
        rounds=10, cut=1, **{**golden["zeroth_order"], "probes": tuple(golden["zeroth_order"]["probes"])}
    )
    grid = Grid(CONTRIBUTIONS["exponent"])
    replica = Replica(IN_PARTS, grid, grid.quantise(np.array(PARTS["weights"]) * grid.tick), 12)
    toy = TwoParts(np.array(CONTRIBUTIONS["labels"]))
    prober = Prober(spec, replica, toy, classification(2), toy, threading.Event())
    scalars = prober.contribute(replica, Work(3, Phase.ZEROTH_ORDER, 12, int(golden["seed"]), 60.0))
    assert scalars.probes == pytest.approx(golden["probes"], rel=1e-6)
    assert scalars.projections == pytest.approx(golden["projections"], rel=1e-6, abs=1e-9)
    assert (replica.weights * 2.0**grid.exponent).tolist() == PARTS["weights"]


@pytest.mark.parametrize("rank", [1, 11])
def test_our_client_describes_the_features_of_the_worked_model(rank: int) -> None:
    """In the first round of a run that whitens. The page has what one direction gives."""
    seed, grid = 9876543210987654321, Grid(CONTRIBUTIONS["exponent"])
    layout = replace(LAYOUT, tensors=(*LAYOUT.tensors, Tensor("out.whitening", (rank + 2, 2), 10)), size=14 + 2 * rank)
    weights = np.append(grid.quantise(np.array(CONTRIBUTIONS["weights"]) * grid.tick), no_whitening(rank, 2))
    replica, toy = Replica(layout, grid, weights, 12), Toy(np.array(CONTRIBUTIONS["labels"]))
    spec = zeroth_order_settings(rounds=10, scalars="byte")
    prober = Prober(spec, replica, toy, classification(2), toy, threading.Event())
    scalars = prober.contribute(replica, Work(3, Phase.ZEROTH_ORDER, 12, seed, 60.0))
    wanted = REFERENCE["described"](seed, rank)
    assert (scalars.probes, scalars.precision) == ((), Precision.FLOAT32)
    assert scalars.projections == pytest.approx(wanted, rel=1e-6)
    assert len(scalars.projections) == (rank + 1) * 2 + 1
    if rank == 1:
        page = (Path(__file__).parents[4] / "docs/protocol.md").read_text()
        assert ", ".join(f"{value:.9f}" for value in wanted) in page
    ordinary = prober.contribute(replica, Work(4, Phase.ZEROTH_ORDER, 13, seed, 60.0, 1))
    assert len(ordinary.projections) == spec.head_projections


def test_the_page_has_the_values() -> None:
    page = (Path(__file__).parents[4] / "docs/protocol.md").read_text()
    for name, case in (*CASES.items(), *PARTS["cases"].items()):
        for value in (*case["probes"], *case["projections"]):
            assert f"{value:.9f}" in page, f"{name}: {value:.9f}"
    for probe in CASES["signs"]["probed"]:
        assert f"{probe['above']:.9f}" in page and f"{probe['below']:.9f}" in page

"""What a client probes: blocks, slices that share its examples out, and how many of each there are."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import aggregating
from tests.algorithms import zeroth_order_algorithm, zeroth_order_settings
from tests.closed_forms import (
    GRID,
    HEADLESS,
    LAYOUT,
    PART,
    TRUNK,
    Classifier,
    Recorded,
    algorithm,
    drawn,
    work,
)
from zowarmup.common.algorithms.probe_plan import DECAY, ProbePlan
from zowarmup.common.algorithms.protocol import ClientScalars
from zowarmup.common.exact.layout import Block, Head, Layout, Tensor
from zowarmup.common.messages.values import Scalars


@settings(max_examples=50)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**64 - 1))
def test_own_slices_partition_the_data(examples: int, probes: int, seed: int) -> None:
    weights = drawn()
    forward = Recorded(weights)
    zo = algorithm(probes=probes)
    scalars = zo.contribute(weights, GRID, forward, examples, work(seed))
    above, below = forward.asked[::2], forward.asked[1::2]
    slices = [chosen for chosen, _ in above]
    assert slices == [chosen for chosen, _ in below]
    assert sorted(itertools.chain(*slices)) == list(range(examples))
    assert len(slices) == len(scalars.probes) == zo.plan.probes(examples) == min(probes, examples)
    sizes = [len(chosen) for chosen in slices]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] - sizes[-1] <= 1


def test_slices_are_new_every_round_and_follow_the_seed() -> None:
    def order(seed: int) -> list[int]:
        weights = drawn()
        forward = Recorded(weights)
        algorithm().contribute(weights, GRID, forward, 40, work(seed))
        return list(itertools.chain(*(chosen for chosen, _ in forward.asked[::2])))

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert order(1) != list(range(40))


def test_whole_slices_are_all_of_the_data() -> None:
    weights = drawn()
    forward = Recorded(weights)
    zo = algorithm(slices="whole")
    zo.contribute(weights, GRID, forward, 3, work())
    assert [chosen for chosen, _ in forward.asked] == [[0, 1, 2]] * 8
    assert zo.plan.probes(3) == 4


def test_what_is_probed() -> None:
    assert algorithm().plan.probed == LAYOUT.block("trunk")
    assert algorithm(head_projections=0).plan.probed == LAYOUT.block("all")
    assert algorithm(HEADLESS).plan.probed == HEADLESS.block("all")
    assert algorithm(HEADLESS).plan.projections == 0


def test_of_a_trunk_that_is_trained_in_part_only_that_part_is_probed_and_moves() -> None:
    zo, weights = algorithm(PART, train="norm"), drawn()
    assert zo.plan.probed == Block("probed", 4, TRUNK)
    forward = Classifier(weights)
    scalars = zo.contribute(weights, GRID, forward, 10, work())
    for chosen, seen in forward.asked:
        assert np.array_equal(seen[:4], weights[:4]) and not np.array_equal(seen[4:TRUNK], weights[4:TRUNK]), chosen
    steps = aggregating.steps(zo, GRID, 0, [ClientScalars(7, 10, scalars)])
    assert {step.block.name for step in steps} == {"probed", "head"}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"slices": "whole"},
        {"local_steps": 3},
        {"train": "all"},
        {"algorithm": "fedkseed", "pool": 3, "step": "raw"},
    ],
    ids=str,
)
@pytest.mark.parametrize("examples", [1, 3, 10])
def test_who_aggregates_scalars_makes_the_plan_that_the_client_followed(options: Any, examples: int) -> None:
    spec = zeroth_order_settings(rounds=10, **{"probes": 4, **options})
    plan = zeroth_order_algorithm(spec, LAYOUT, 99).plan
    by_step = plan.by_step(7, examples)
    followed = [probe for probes in by_step for probe in probes]
    part = ClientScalars(7, examples, Scalars(3, (1.0,) * len(followed), ()))
    assert plan.directions(part) == [(probe.direction.seed, probe.direction.index) for probe in followed]
    assert plan.steps(part) == len(by_step)
    weights = iter(plan.weights(part))
    for probes in by_step:
        held = sum(len(probe.examples) for probe in probes)
        assert [next(weights) for _ in probes] == pytest.approx([len(probe.examples) / held for probe in probes])


def on_constants() -> Layout:
    """A head of 2 x 3 and its bias, which is all of the vector."""
    tensors = (Tensor("out.weight", (2, 3), 0), Tensor("out.bias", (2,), 6))
    return Layout(tensors, 8, 8, (Block("all", 0, 8), Block("head", 0, 8)), Head("out.weight", "out.bias", 3, 2))


def test_a_head_decays_by_default_where_all_below_it_is_constant() -> None:
    settings = zeroth_order_settings(rounds=1)
    assert ProbePlan(settings, on_constants()).decay == DECAY
    assert ProbePlan(settings, LAYOUT).decay == ProbePlan(settings, HEADLESS).decay == 0
    for layout in (on_constants(), LAYOUT):
        assert ProbePlan(zeroth_order_settings(rounds=1, weight_decay=0.5), layout).decay == 0.5


def test_a_head_on_constants_is_probed_where_it_is_not_projected() -> None:
    layout = on_constants()
    assert ProbePlan(zeroth_order_settings(rounds=1), layout).probed is None
    assert ProbePlan(zeroth_order_settings(rounds=1, head_projections=0), layout).probed == layout.block("all")


@pytest.mark.parametrize("decay", [-0.1, 1.5, "some"])
def test_a_weight_decay_out_of_its_range(decay: Any) -> None:
    with pytest.raises(ValueError, match="weight_decay"):
        zeroth_order_settings(rounds=1, weight_decay=decay)

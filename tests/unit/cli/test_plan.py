"""A plan's arithmetic, over sizes from the real codec and a footprint made up; tests/e2e/test_plan.py has the rest."""

from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from tests.algorithms import changed, warmup_settings, zeroth_order_settings
from tests.faults.small import LAYOUT
from zowarmup.cli.failure import Usage
from zowarmup.cli.forecast import CostRow, Fleet, Forecast, PlannedLink, drawn, forecast, sampled
from zowarmup.cli.plan import Plan, bits_per_second, fleet_for
from zowarmup.cli.plan_view import plan_view
from zowarmup.cli.sample_messages import Specimens
from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.layout import half_width
from zowarmup.common.messages.values import Phase, Tier
from zowarmup.common.settings.data_card import DataCard
from zowarmup.common.settings.run import ClientSpec, Evaluation, Model, RunFile
from zowarmup.server.projections.framing import Wire
from zowarmup.server.setup.prepare import DeviceFootprint, Prepared

RUN = RunFile(
    name="planned",
    model=Model(name="mlp"),
    warmup=warmup_settings(rounds=10, clients_per_round=5, epochs=2),
    zeroth_order=zeroth_order_settings(rounds=100, clients_per_round=50, probes=8, head_projections=8),
    evaluation=Evaluation(data="digits:test"),
)
FLEET = Fleet(high=5, low=195)
LINK = PlannedLink(up_bps=1e6, down_bps=8e6, speed=0.5)
WORK = {tier: DeviceFootprint(100_000_000, 2e-3, 1e-3, 1e-2, 1e-4) for tier in Tier}
EXAMPLES = 100


def specimens(run: RunFile) -> Specimens:
    spec = ClientSpec(
        model=run.model, card=DataCard(shape=(20,), classes=4), warmup=run.warmup, zeroth_order=run.zeroth_order
    )
    return Specimens(run, spec, LAYOUT, np.ones(LAYOUT.size, np.float32), Grid(18), b"program" * 100, EXAMPLES)


def reckoned(run: RunFile = RUN, fleet: Fleet = FLEET, link: PlannedLink = LINK) -> Forecast:
    return forecast(specimens(run), fleet, Wire(), link, WORK)


def test_fedavg_is_a_model_down_and_a_delta_up_for_everyone_drawn() -> None:
    found = reckoned()
    for direction in ("up", "down"):
        total = sum(c.payload_bytes for row, c in found.fedavg.rows.items() if row.direction == direction)
        assert total == pytest.approx((10 * 5 + 100 * 50) * 4 * LAYOUT.size)


def test_a_low_tier_uploads_its_scalars_and_little_else() -> None:
    found = reckoned()
    assert found.a_round.total("up", Tier.LOW, Phase.WARM_UP).payload_bytes == 0
    a_round = found.a_round.total("up", Tier.LOW, Phase.ZEROTH_ORDER).payload_bytes
    assert 16 * 4 < a_round < 16 * 4 + 16, "sixteen float32 and the words around them"
    whole = found.traffic.total("up", Tier.LOW, Phase.ZEROTH_ORDER).payload_bytes
    reports = 195 * 30
    assert whole == pytest.approx(a_round * 100 * 50 * 195 / 200, abs=reports)


def test_twice_the_rounds_are_twice_the_contributions_and_not_twice_the_joining() -> None:
    once, twice = reckoned(), reckoned(replace(RUN, zeroth_order=replace(RUN.zeroth_order, rounds=200)))
    for tier in Tier:
        more = twice.traffic.total("up", tier, Phase.ZEROTH_ORDER).payload_bytes
        assert more == pytest.approx(2 * once.traffic.total("up", tier, Phase.ZEROTH_ORDER).payload_bytes, rel=0.12)
        joining = (once.traffic.total("up", tier, Phase.WARM_UP), twice.traffic.total("up", tier, Phase.WARM_UP))
        assert joining[0].payload_bytes == joining[1].payload_bytes


def test_a_round_takes_its_bytes_over_the_link_and_its_work_over_the_speed() -> None:
    found = reckoned()
    up, down = (found.a_round.total(way, Tier.LOW, Phase.ZEROTH_ORDER).wire_bytes for way in ("up", "down"))
    probing = 2 * EXAMPLES * 1e-3 + (2 * 8 + 1) * 1e-2
    applying = 50 * 1e-4  # fifty clients with a group of directions in each block
    expected = 8 * up / 1e6 + 8 * down / 8e6 + (probing + applying) / 0.5 + applying
    assert found.round_s[Phase.ZEROTH_ORDER, Tier.LOW] == pytest.approx(expected)
    training = found.round_s[Phase.WARM_UP, Tier.HIGH]
    assert training > 2 * EXAMPLES * 2e-3 / 0.5
    assert reckoned(link=replace(LINK, speed=1.0)).round_s[Phase.WARM_UP, Tier.HIGH] < training


def test_where_the_high_tier_trains_on_every_version_is_a_whole_model() -> None:
    mixed = replace(RUN, zeroth_order=changed(RUN.zeroth_order, "mixed"))
    found = reckoned(mixed, Fleet(high=100, low=100))
    down = found.a_round.total("down", Tier.LOW, Phase.ZEROTH_ORDER).payload_bytes
    assert 4 * LAYOUT.size < down < 4 * LAYOUT.size + 300
    assert found.a_round.total("up", Tier.HIGH, Phase.ZEROTH_ORDER).payload_bytes > 4 * LAYOUT.size


def test_where_both_tiers_train_the_low_one_uploads_its_half() -> None:
    both = replace(RUN, warmup=changed(RUN.warmup, "heterofl"))
    found = reckoned(both, Fleet(high=10, low=40))
    assert {tier: found.participants[Phase.WARM_UP, tier] for tier in Tier} == {Tier.HIGH: 1.0, Tier.LOW: 4.0}
    for tier, size in ((Tier.HIGH, LAYOUT.size), (Tier.LOW, half_width(LAYOUT).layout.size)):
        rows = found.a_round.rows
        assert 4 * size < rows[CostRow("up", tier, Phase.WARM_UP, "delta")].payload_bytes < 4 * size + 100
        assert (
            4 * LAYOUT.size
            < rows[CostRow("down", tier, Phase.WARM_UP, "snapshot")].payload_bytes
            < 4 * LAYOUT.size + 100
        )
    up, down = (found.fedavg.total(way, Tier.LOW, Phase.WARM_UP).payload_bytes for way in ("up", "down"))
    assert up == down == 10 * 4 * 4 * LAYOUT.size, "as FedAvg it had been whole models"
    assert fleet_for(both, 1, None) == Fleet(1, 49)
    warm_only = replace(both, zeroth_order=replace(both.zeroth_order, rounds=0))
    assert (fleet_for(warm_only, 1, None), fleet_for(warm_only, None, None)) == (Fleet(1, 4), Fleet(5, 0))
    with pytest.raises(
        Usage, match=r"--high and --low: a round of \[warmup\] opens with 5 clients and there would be 4"
    ):
        fleet_for(warm_only, 0, 4)
    everyone_low = reckoned(warm_only, Fleet(high=0, low=5))
    assert everyone_low.participants == {(Phase.WARM_UP, Tier.LOW): 5.0, (Phase.ZEROTH_ORDER, Tier.LOW): 5.0}


def test_a_fleet_is_as_large_as_a_round_asks_for_unless_told() -> None:
    assert fleet_for(RUN, None, None) == Fleet(5, 45)
    assert fleet_for(RUN, 7, 1000) == Fleet(7, 1000)
    with pytest.raises(Usage, match=r"--high: a round of \[warmup\] opens with 5 clients and there would be 2"):
        fleet_for(RUN, 2, 1000)
    with pytest.raises(Usage, match=r"--high and --low: a round of \[zeroth_order\] opens with 50"):
        fleet_for(RUN, 5, 44)


def test_over_selection_is_paid_for() -> None:
    assert drawn(replace(RUN.warmup, over_selection=0.2), 100) == 6
    assert drawn(replace(RUN.warmup, over_selection=0.2), 5) == 5


@pytest.mark.parametrize("rounds", [1, 2, 9, 10, 1000])
def test_samples_are_rounds_of_the_run(rounds: int) -> None:
    assert sampled(rounds) == sorted(set(sampled(rounds)))
    assert set(sampled(rounds)) <= set(range(rounds))


@pytest.mark.parametrize(
    ("text", "bps"), [("10Mbit", 1e7), ("250kbit", 2.5e5), ("1.5Gbit/s", 1.5e9), ("56 kbps", None), ("9600bit", 9600)]
)
def test_rates_are_bits_a_second(text: str, bps: float | None) -> None:
    if bps is None:
        with pytest.raises(Usage, match="--up '56 kbps': must be bits a second"):
            bits_per_second("--up", text)
    else:
        assert bits_per_second("--up", text) == bps


def test_the_table_fits_a_terminal_and_says_its_units() -> None:
    weights = np.zeros(LAYOUT.size, np.float32)
    prepared = Prepared(LAYOUT, b"program", weights, WORK[Tier.HIGH], WORK[Tier.LOW])
    whole = Plan(RUN, specimens(RUN).spec, prepared, EXAMPLES, LINK, False, reckoned())
    out = StringIO()
    Console(file=out, width=80, highlight=False).print(plan_view(whole))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "low tier" in out.getvalue()
    assert any(line.startswith("together") and "times" in line for line in lines)
    assert "1 Mbit/s up, 8 Mbit/s down and 0.5 of the speed" in " ".join(out.getvalue().split())
    told = whole.to_json()
    assert told["memory_bytes"] == {"high": 100_000_000, "low": 100_000_000}
    assert told["assumed"]["examples"] == EXAMPLES

"""A plan's arithmetic, over a footprint made up; tests/e2e/test_plan.py has the rest."""

from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from tests.algorithms import changed, warmup_settings, zeroth_order_settings
from tests.faults.small import LAYOUT
from zowarmup.cli import message_sizes as sizes
from zowarmup.cli.message_sizes import OVERHEAD
from zowarmup.cli.plan import Bytes, CostRow, Fleet, Plan, PlannedLink, bits_per_second, drawn, fleet_for, plan_of
from zowarmup.cli.plan_view import plan_view
from zowarmup.common.exact.submodel import half_width
from zowarmup.common.messages import codec
from zowarmup.common.messages.values import Delta, Phase, Scalars, Tier, Work
from zowarmup.common.settings.data_card import DataCard
from zowarmup.common.settings.privacy import Privacy
from zowarmup.common.settings.run import PROTOCOL, ClientSpec, Evaluation, Model, RunFile
from zowarmup.common.system.command import Usage
from zowarmup.server.setup.prepare import DeviceFootprint, Prepared
from zowarmup.v1 import coordinator_pb2 as wire

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


def planned(run: RunFile = RUN, fleet: Fleet = FLEET, link: PlannedLink = LINK) -> Plan:
    card = DataCard(shape=(20,), classes=4)
    spec = ClientSpec(model=run.model, card=card, warmup=run.warmup, zeroth_order=run.zeroth_order)
    weights = np.ones(LAYOUT.size, np.float32)
    prepared = Prepared(LAYOUT, b"program" * 100, weights, WORK[Tier.HIGH], WORK[Tier.LOW])
    return plan_of(run, spec, prepared, fleet, EXAMPLES, link)


def payload(rows: Bytes, direction: str, tier: Tier, phase: Phase) -> float:
    return rows.total(direction, tier, phase) - rows[CostRow(direction, tier, phase, OVERHEAD)]


def test_the_constants_are_what_messages_have() -> None:
    """Within some bytes: names and numbers differ in length."""
    run_id, name, digest, secret = "0" * 32, "device-1", bytes(16), "0" * 64
    software = "zowarmup 0.1.0"
    offer = wire.GetRunResponse(
        protocol=PROTOCOL,
        run_id=run_id,
        name="digits",
        program_sha256=bytes(32),
        program_bytes=40_000,
        high_memory_bytes=1 << 28,
        low_memory_bytes=1 << 27,
        now_s=1.0,
        software=software,
    )
    enrol = wire.EnrolRequest(run_id=run_id, name=name, tier=wire.TIER_LOW, examples=360, credential=secret)
    welcome = wire.Welcome(
        epoch=1, phase=wire.PHASE_WARM_UP, waiting="waiting: 1 of 2 high-tier clients connected", software=software
    )
    for message, size in (
        (offer, sizes.OFFER),
        (enrol, sizes.ENROL),
        (wire.EnrolRequest(token=secret), sizes.TOKEN),
        (wire.EnrolResponse(client=name, credential=secret), sizes.ENROLLED),
        (wire.Hello(run_id=run_id, protocol=PROTOCOL, examples=360, software=software), sizes.HELLO),
        (welcome, sizes.WELCOME),
        (codec.work_to_wire(Work(30, Phase.ZEROTH_ORDER, 29, 1 << 62, 100.0, 0)), sizes.WORK),
        (wire.Accepted(round=300), sizes.ACCEPTED),
        (wire.Fetch(version=10, reason="it holds no replica"), sizes.FETCH),
        (codec.scalars_to_wire(Scalars(300, (), ())), sizes.SCALARS),
        (codec.delta_to_wire(Delta(3, digest.hex(), 360, 1.5)), sizes.DELTA_READY),
        (wire.DeltaHeader(round=3, digest=digest, size_bytes=1 << 20), sizes.DELTA_HEADER),
        (wire.GetUploadRequest(round=3, digest=digest), sizes.UPLOAD_ASKED),
        (wire.SnapshotHeader(version=10, grid_exponent=18, digest=digest, size_bytes=40_000), sizes.SNAPSHOT_HEADER),
        (wire.Report(version=300, digest=digest, peak_memory_bytes=1 << 27), sizes.REPORT),
        (wire.Finished(version=300, digest=digest), sizes.FINISHED),
    ):
        assert message.ByteSize() == pytest.approx(size, abs=10), type(message).__name__


def test_fedavg_is_a_model_down_and_a_delta_up_for_everyone_drawn() -> None:
    assert planned().fedavg_bytes(*Tier) == pytest.approx((10 * 5 + 100 * 50) * 4 * LAYOUT.size)


def test_a_low_tier_uploads_its_scalars_and_little_else() -> None:
    found = planned()
    assert payload(found.a_round, "up", Tier.LOW, Phase.WARM_UP) == 0
    a_round = payload(found.a_round, "up", Tier.LOW, Phase.ZEROTH_ORDER)
    assert 16 * 4 < a_round < 16 * 4 + 16, "sixteen float32 and the words around them"
    whole = payload(found.traffic, "up", Tier.LOW, Phase.ZEROTH_ORDER)
    reports = 195 * 30
    assert whole == pytest.approx(a_round * 100 * 50 * 195 / 200, abs=reports)


def test_twice_the_rounds_are_twice_the_contributions_and_not_twice_the_joining() -> None:
    once, twice = planned(), planned(replace(RUN, zeroth_order=replace(RUN.zeroth_order, rounds=200)))
    for tier in Tier:
        more = payload(twice.traffic, "up", tier, Phase.ZEROTH_ORDER)
        assert more == pytest.approx(2 * payload(once.traffic, "up", tier, Phase.ZEROTH_ORDER), rel=0.12)
        joining = (payload(plan.traffic, "up", tier, Phase.WARM_UP) for plan in (once, twice))
        assert next(joining) == next(joining)


def test_a_round_takes_its_bytes_over_the_link_and_its_work_over_the_speed() -> None:
    found = planned()
    up, down = (found.a_round.total(way, Tier.LOW, Phase.ZEROTH_ORDER) for way in ("up", "down"))
    probing = 2 * EXAMPLES * 1e-3 + (2 * 8 + 1) * 1e-2
    applying = 50 * 1e-4  # fifty clients with a group of directions in each block
    expected = 8 * up / 1e6 + 8 * down / 8e6 + (probing + applying) / 0.5 + applying
    assert found.round_s[Phase.ZEROTH_ORDER, Tier.LOW] == pytest.approx(expected)
    training = found.round_s[Phase.WARM_UP, Tier.HIGH]
    assert training > 2 * EXAMPLES * 2e-3 / 0.5
    assert planned(link=replace(LINK, speed=1.0)).round_s[Phase.WARM_UP, Tier.HIGH] < training


def test_a_private_round_takes_the_passes_of_a_release() -> None:
    """All examples on both sides of each probe, and once more for the head's gradient of each."""
    whole = changed(RUN.zeroth_order, slices="whole", whitening=0)
    open_to_all = replace(RUN, zeroth_order=whole, warmup=replace(RUN.warmup, rounds=0))
    private = replace(open_to_all, privacy=Privacy(mode="local", epsilon=8.0))
    took, takes = (
        planned(run, Fleet(high=0, low=50)).round_s[Phase.ZEROTH_ORDER, Tier.LOW] for run in (open_to_all, private)
    )
    assert takes - took == pytest.approx(EXAMPLES * 1e-3 / 0.5)


def test_where_the_high_tier_trains_on_every_version_is_a_whole_model() -> None:
    mixed = replace(RUN, zeroth_order=changed(RUN.zeroth_order, "mixed"))
    found = planned(mixed, Fleet(high=100, low=100))
    down = payload(found.a_round, "down", Tier.LOW, Phase.ZEROTH_ORDER)
    assert 4 * LAYOUT.size < down < 4 * LAYOUT.size + 300
    assert payload(found.a_round, "up", Tier.HIGH, Phase.ZEROTH_ORDER) > 4 * LAYOUT.size


def test_where_both_tiers_train_the_low_one_uploads_its_half() -> None:
    both = replace(RUN, warmup=changed(RUN.warmup, "heterofl"))
    found = planned(both, Fleet(high=10, low=40))
    assert {tier: found.participants[Phase.WARM_UP, tier] for tier in Tier} == {Tier.HIGH: 1.0, Tier.LOW: 4.0}
    for tier, size in ((Tier.HIGH, LAYOUT.size), (Tier.LOW, half_width(LAYOUT).layout.size)):
        up = found.a_round[CostRow("up", tier, Phase.WARM_UP, "delta")]
        down = found.a_round[CostRow("down", tier, Phase.WARM_UP, "snapshot")]
        assert 4 * size < up < 4 * size + 100
        assert 4 * LAYOUT.size < down < 4 * LAYOUT.size + 100
    whole = (10 * 4 + 100 * 50 * 0.8) * 4 * LAYOUT.size
    assert found.fedavg_bytes(Tier.LOW) == pytest.approx(whole), "as FedAvg it had been whole models"
    assert fleet_for(both, 1, None) == Fleet(1, 49)
    warm_only = replace(both, zeroth_order=replace(both.zeroth_order, rounds=0))
    assert (fleet_for(warm_only, 1, None), fleet_for(warm_only, None, None)) == (Fleet(1, 4), Fleet(5, 0))
    with pytest.raises(
        Usage, match=r"--high and --low: a round of \[warmup\] opens with 5 clients and there would be 4"
    ):
        fleet_for(warm_only, 0, 4)
    everyone_low = planned(warm_only, Fleet(high=0, low=5))
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
    whole = planned()
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

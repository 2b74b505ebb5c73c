"""A plan on a terminal of 80 columns: what a device needs, what a round costs it, and what the run costs the fleet."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from zowarmup.cli.forecast import Cost
from zowarmup.cli.plan import Plan
from zowarmup.cli.units import counted, duration, size
from zowarmup.common.messages.values import Phase

PHASES = (Phase.WARM_UP, Phase.ZEROTH_ORDER)


def plan_view(plan: Plan) -> RenderableType:
    return Group(
        _heading(plan), Text(), _devices(plan), Text(), _rounds(plan), Text(), _run(plan), Text(), _notes(plan)
    )


def _heading(plan: Plan) -> Text:
    layout, fleet = plan.prepared.layout, plan.forecast.fleet
    what = f"  {plan.run.model.name}, {layout.trainable:,} parameters, {size(plan.weights_bytes)} of weights; "
    clients = f"{fleet.high:,} high-tier and {fleet.low:,} low-tier clients"
    return Text.assemble((plan.run.name, "bold"), (what, "dim"), clients)


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for index, name in enumerate(columns):
        table.add_column(name, justify="left" if index < 2 else "right")
    return table


def _devices(plan: Plan) -> Table:
    table = _table("a device needs", "", "memory", "once, down")
    for tier in plan.forecast.fleet.tiers:
        count = plan.forecast.fleet.of(tier)
        first = [
            cost.wire_bytes
            for row, cost in plan.forecast.traffic.rows.items()
            if (row.direction, row.tier) == ("down", tier)
            and row.phase is not Phase.WARM_UP
            and row.kind in ("snapshot", "program")
        ]
        table.add_row(f"{tier} tier", "", size(plan.memory_bytes(tier)), size(sum(first) / count))
    return table


def _rounds(plan: Plan) -> Table:
    table = _table("a round costs it", "", "up", "down", "takes", "rounds")
    found = plan.forecast
    rounds = {Phase.WARM_UP: plan.run.warmup.rounds, Phase.ZEROTH_ORDER: plan.run.zeroth_order.rounds}
    for tier in found.fleet.tiers:
        for phase in PHASES:
            if (phase, tier) in found.round_s:
                up, down = (found.a_round.total(direction, tier, phase) for direction in ("up", "down"))
                share = found.participants[phase, tier] / found.fleet.of(tier)
                table.add_row(
                    f"{tier} tier",
                    phase.value,
                    size(up.wire_bytes),
                    size(down.wire_bytes),
                    brief(found.round_s[phase, tier]),
                    f"{rounds[phase] * share:,.0f} of {rounds[phase]:,}",
                )
    fedavg = found.fedavg_round_s
    table.add_row("FedAvg", "", size(plan.weights_bytes), size(plan.weights_bytes), brief(fedavg), "", style="dim")
    return table


def _run(plan: Plan) -> Table:
    table = _table("the run costs", "", "up", "down", "FedAvg, each way", "saved, up")
    found = plan.forecast
    all_up, all_down, all_fedavg = Cost(0, 0), Cost(0, 0), Cost(0, 0)
    for tier in (*found.fleet.tiers, None):
        up, down = found.traffic.total("up", tier), found.traffic.total("down", tier)
        fedavg = found.fedavg.total("up", tier)
        all_up, all_down, all_fedavg = (
            Cost(a.payload_bytes + b.payload_bytes, a.wire_bytes + b.wire_bytes)
            for a, b in ((all_up, up), (all_down, down), (all_fedavg, fedavg))
        )
        if tier is not None:
            clients = counted(found.fleet.of(tier), "client")
            table.add_row(f"{tier} tier", clients, *_costs(up, down, fedavg))
    table.add_row("together", counted(found.fleet.size, "client"), *_costs(all_up, all_down, all_fedavg), style="bold")
    return table


def _costs(up: Cost, down: Cost, fedavg: Cost) -> tuple[str, ...]:
    saved = f"{fedavg.wire_bytes / up.wire_bytes:,.0f} times" if up.wire_bytes else "-"
    return size(up.wire_bytes), size(down.wire_bytes), size(fedavg.wire_bytes), saved


def _notes(plan: Plan) -> Text:
    link = plan.link
    wire = "with gRPC, HTTP/2 and TLS" if plan.tls else "with gRPC and HTTP/2, without TLS"
    return Text(
        f"Bytes are those on the wire, {wire}. FedAvg is of the same clients at equal rounds; for the same accuracy it may "
        f"need fewer. Memory is what a client's process was seen to take here, "
        f"with {plan.examples:,} examples. A round's time is for {rate(link.up_bps)} up, {rate(link.down_bps)} down and "
        f"{link.speed:g} of the speed of one thread here; all rounds take about {duration(plan.forecast.run_s)}.",
        style="dim",
    )


def brief(seconds: float) -> str:
    """Seconds, short ones too: 40 ms, 1.2 s, 3 min 20 s."""
    if seconds < 0.9995:
        return f"{1000 * seconds:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 9.95 else duration(seconds)


def rate(bps: float) -> str:
    """Bits a second: 250 kbit/s, 10 Mbit/s."""
    for unit, factor in (("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3)):
        if bps >= factor:
            return f"{bps / factor:g} {unit}"
    return f"{bps:g} bit/s"

"""A plan on a terminal of 80 columns: what a device needs, what a round costs it, and what the run costs the fleet."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from zowarmup.cli.plan import PHASES, Plan
from zowarmup.common.messages.values import BASE, PROGRAM, TOKENIZER, Phase, Tier
from zowarmup.common.text import amount, counted, duration


def plan_view(plan: Plan) -> RenderableType:
    return Group(
        _heading(plan), Text(), _devices(plan), Text(), _rounds(plan), Text(), _run(plan), Text(), _notes(plan)
    )


def _heading(plan: Plan) -> Text:
    what = f"  {plan.run.model.name}, {plan.prepared.layout.trainable:,} parameters, {amount(plan.sizes.weights_bytes)} of weights; "
    clients = f"{plan.fleet.high:,} high-tier and {plan.fleet.low:,} low-tier clients"
    return Text.assemble((plan.run.name, "bold"), (what, "dim"), clients)


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for index, name in enumerate(columns):
        table.add_column(name, justify="left" if index < 2 else "right")
    return table


def _devices(plan: Plan) -> Table:
    table = _table("a device needs", "", "memory", "once, down")
    for tier in plan.fleet.tiers:
        first = sum(
            count
            for row, count in plan.traffic.items()
            if (row.direction, row.tier) == ("down", tier)
            and row.phase is not Phase.WARM_UP
            and row.kind in ("snapshot", PROGRAM, BASE, TOKENIZER)
        )
        table.add_row(f"{tier} tier", "", amount(plan.memory_bytes(tier)), amount(first / plan.fleet.of(tier)))
    return table


def _rounds(plan: Plan) -> Table:
    table = _table("a round costs it", "", "up", "down", "takes", "rounds")
    rounds = {Phase.WARM_UP: plan.run.warmup.rounds, Phase.ZEROTH_ORDER: plan.run.zeroth_order.rounds}
    for tier in plan.fleet.tiers:
        for phase in PHASES:
            if (phase, tier) in plan.round_s:
                share = plan.participants[phase, tier] / plan.fleet.of(tier)
                table.add_row(
                    f"{tier} tier",
                    phase.value,
                    *(amount(plan.a_round.total(direction, tier, phase)) for direction in ("up", "down")),
                    brief(plan.round_s[phase, tier]),
                    f"{rounds[phase] * share:,.0f} of {rounds[phase]:,}",
                )
    whole = amount(plan.sizes.weights_bytes)
    table.add_row("FedAvg", "", whole, whole, brief(plan.fedavg_round_s), "", style="dim")
    return table


def _run(plan: Plan) -> Table:
    table = _table("the run costs", "", "up", "down", "FedAvg, each way", "saved, up")

    def costs(*tiers: Tier) -> tuple[str, ...]:
        of = tiers[0] if len(tiers) == 1 else None
        up, down = (plan.traffic.total(direction, of) for direction in ("up", "down"))
        fedavg = plan.fedavg_bytes(*tiers)
        return amount(up), amount(down), amount(fedavg), f"{fedavg / up:,.0f} times" if up else "-"

    for tier in plan.fleet.tiers:
        table.add_row(f"{tier} tier", counted(plan.fleet.of(tier), "client"), *costs(tier))
    table.add_row("together", counted(plan.fleet.size, "client"), *costs(*Tier), style="bold")
    return table


def _notes(plan: Plan) -> Text:
    link = plan.link
    wire = "with gRPC, HTTP/2 and TLS" if plan.sizes.tls else "with gRPC and HTTP/2, without TLS"
    return Text(
        f"Bytes are those on the wire, {wire}. FedAvg is of the same clients at equal rounds; for the same accuracy it may "
        f"need fewer. Memory is what a client's process was seen to take here, "
        f"with {plan.sizes.examples:,} examples. A round's time is for {rate(link.up_bps)} up, {rate(link.down_bps)} down and "
        f"{link.speed:g} of the speed of one thread here; all rounds take about {duration(plan.run_s)}.",
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

"""The dashboard *Fleet cost*: what training has cost on the network, and what that has bought.

Counters begin at zero with the coordinator's process, so totals are increases, over a window as long as the time shown: where
that begins before the run, they are the run's so far.
"""

from deploy.grafana.panels import LOGARITHMIC, PIVOT, SELECTED, areas, bars, board, lines, number, steps

TIMES = "suffix:\N{MULTIPLICATION SIGN}"
UP = f'{SELECTED}, direction="up"'
WORKING = f'{SELECTED}, phase!="finished"'
ENROLLED = f'{SELECTED}, tier!="none"'
MEMBERS = f'{UP}, tier!="none"'
ZEROTH_ORDER = f'{UP}, phase="zeroth-order"'


def total(metric: str, matchers: str) -> str:
    """The increase of a counter in a window as long as the time shown."""
    return f"increase(zowarmup_{metric}_total{{{matchers}}}[$__range])"


SPENT = f"sum({total('payload_bytes', UP)})"
FEDAVG = f"sum({total('fedavg_bytes', UP)})"
METRICS = f"max by (metric) (zowarmup_evaluation_metric{{{SELECTED}}})"
POINTS = f'(100 * max(zowarmup_evaluation_metric{{{SELECTED}, unit="ratio"}}))'
CONTRIBUTED = f"(sum by (tier, phase) ({total('contributions', SELECTED)}) > 0)"
BY_TIER_AND_PHASE = "{{tier}} tier, {{phase}}"


def per_contribution(metric: str, direction: str) -> str:
    """Bytes by tier and phase, of the phases in which there are contributions."""
    carried = total(metric, f'{SELECTED}, direction="{direction}", tier!="none"')
    return f"sum by (tier, phase) ({carried}) / {CONTRIBUTED}"


TOTALS = (
    number(
        "Saving at equal rounds",
        "How many times more FedAvg had sent up in the same rounds, of which it may need fewer for the same accuracy.",
        TIMES,
        (f"{FEDAVG} / {SPENT}", "saving"),
    ).decimals(1),
    number(
        "Saving since the pivot",
        "The same, at equal rounds, for the zeroth-order phase alone, where clients answer with scalars.",
        TIMES,
        (
            f"sum({total('fedavg_bytes', ZEROTH_ORDER)}) / sum({total('payload_bytes', ZEROTH_ORDER)})",
            "zeroth-order",
        ),
    ).decimals(1),
    number(
        "Uplink",
        "All that clients have sent, as payload: serialised messages, without gRPC, HTTP/2 and TLS.",
        "decbytes",
        (SPENT, "payload"),
    ),
    number(
        "FedAvg at equal rounds",
        "A full update from each contribution to a committed round, which is what FedAvg sends up.",
        "decbytes",
        (FEDAVG, "FedAvg"),
    ),
    number(
        "Metrics",
        "Those of the run's task on the held-out set, such as accuracy (0 to 1), at the last evaluation.",
        "none",
        (METRICS, "{{metric}}"),
    )
    .decimals(3)
    .no_value("not yet evaluated"),
    number(
        "Uplink per point",
        "Payload that clients have sent for each percentage point, of accuracy or such, that the model now has.",
        "decbytes",
        (f"{SPENT} / {POINTS}", "per point"),
    ).no_value("not yet evaluated"),
)

UPLINK = (
    lines(
        "Uplink by tier and phase",
        "Payload that clients of a tier send, a second; logarithmic, as the phases differ by orders of magnitude.",
        "Bps",
        (
            f"sum by (tier, phase) (rate(zowarmup_payload_bytes_total{{{MEMBERS}}}[$__rate_interval]))",
            BY_TIER_AND_PHASE,
        ),
    ).scale_distribution(LOGARITHMIC),
    lines(
        "Uplink per contribution",
        "Payload that a client of a tier has sent for each contribution that counts, small talk included.",
        "decbytes",
        (per_contribution("payload_bytes", "up"), BY_TIER_AND_PHASE),
    ).scale_distribution(LOGARITHMIC),
    areas(
        "Uplink, cumulative",
        "Payload that clients have sent, by tier and phase, stacked.",
        "decbytes",
        (f"sum by (tier, phase) ({total('payload_bytes', MEMBERS)}) > 0", BY_TIER_AND_PHASE),
    ),
    lines(
        "Uplink against FedAvg at equal rounds",
        "What clients have sent, and what FedAvg had made them send in the same rounds.",
        "decbytes",
        (SPENT, "as it was"),
        (FEDAVG, "FedAvg at equal rounds"),
    ).scale_distribution(LOGARITHMIC),
    lines(
        "Saving at equal rounds, by tier and phase",
        "The ratio of those two for each tier and phase: 1 is what FedAvg sends.",
        TIMES,
        (
            (
                f"(sum by (tier, phase) ({total('fedavg_bytes', UP)}) > 0)"
                f" / sum by (tier, phase) ({total('payload_bytes', UP)})"
            ),
            BY_TIER_AND_PHASE,
        ),
    ).scale_distribution(LOGARITHMIC),
    lines(
        "Downlink by tier and phase",
        "Payload that the coordinator sends to clients of a tier, a second: snapshots, commits and small talk.",
        "Bps",
        (
            (
                "sum by (tier, phase) (rate(zowarmup_payload_bytes_total"
                f'{{{SELECTED}, direction="down", tier!="none"}}[$__rate_interval]))'
            ),
            BY_TIER_AND_PHASE,
        ),
    ).scale_distribution(LOGARITHMIC),
)

WIRE = (
    lines(
        "Payload against wire, uplink",
        "Serialised messages from clients, and the same bytes as sockets carry them.",
        "Bps",
        (f"sum(rate(zowarmup_wire_bytes_total{{{UP}}}[$__rate_interval]))", "wire"),
        (f"sum(rate(zowarmup_payload_bytes_total{{{UP}}}[$__rate_interval]))", "payload"),
    )
    .span(8)
    .scale_distribution(LOGARITHMIC),
    lines(
        "What the wire adds",
        "Framing, headers and encryption as a share of the payload: large for small messages.",
        "percentunit",
        (
            (
                f"sum by (direction, phase) ({total('wire_bytes', WORKING)})"
                f" / (sum by (direction, phase) ({total('payload_bytes', WORKING)}) > 0) - 1"
            ),
            "{{direction}}, {{phase}}",
        ),
    )
    .span(8)
    .scale_distribution(LOGARITHMIC),
    bars(
        "Payload by kind",
        "What has been sent, in each direction, by what it was.",
        "decbytes",
        (f"sum by (direction, kind) ({total('payload_bytes', SELECTED)}) > 0", "{{direction}}: {{kind}}"),
    ).span(8),
    lines(
        "Wire bytes per contribution, uplink",
        "All that sockets have carried up from a tier for each contribution that counts, "
        "which is what a tariff counts but for the headers of TCP and IP.",
        "decbytes",
        (per_contribution("wire_bytes", "up"), BY_TIER_AND_PHASE),
    )
    .span(8)
    .scale_distribution(LOGARITHMIC),
    lines(
        "Wire bytes per contribution, downlink",
        "The same down to a tier: snapshots, commits, small talk, and what connections take.",
        "decbytes",
        (per_contribution("wire_bytes", "down"), BY_TIER_AND_PHASE),
    )
    .span(8)
    .scale_distribution(LOGARITHMIC),
    areas(
        "Wire bytes, cumulative",
        "What sockets have carried both ways, by tier.",
        "decbytes",
        (
            f"sum by (tier, direction) ({total('wire_bytes', ENROLLED)}) > 0",
            "{{tier}} tier, {{direction}}",
        ),
    ).span(8),
)

BOUGHT = (
    steps(
        "Metrics by time",
        "Those of the run's task on the held-out set; the coordinator evaluates as often as the run file says.",
        "none",
        (METRICS, "{{metric}}"),
    )
    .span(8)
    .min(0),
    steps(
        "Loss by time",
        "On the held-out set, in nats an example, beside the lowest so far.",
        "suffix: nats",
        (f"max(zowarmup_loss{{{SELECTED}}})", "loss"),
        (f"max(zowarmup_lowest_loss{{{SELECTED}}})", "lowest"),
    )
    .span(8)
    .min(0),
    lines(
        "Uplink per point by time",
        "Payload that clients have sent for each percentage point, of accuracy or such, that the model had by then.",
        "decbytes",
        (f"{SPENT} / {POINTS}", "as it was"),
    )
    .span(8)
    .scale_distribution(LOGARITHMIC),
)

FLEET_COST = board(
    "zowarmup-fleet-cost",
    "Fleet cost",
    "What a run of zowarmup costs on the network by tier and phase, against FedAvg at equal rounds, and what it has bought; "
    "totals are of a time as long as the one shown.",
    {"In the time shown": TOTALS, "Uplink": UPLINK, "Payload and wire": WIRE, "What it has bought": BOUGHT},
    PIVOT,
)

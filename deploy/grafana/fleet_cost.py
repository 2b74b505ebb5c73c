"""The dashboard *Fleet cost*: what training has cost on the network, and what that has bought.

Totals are read from counters that the coordinator keeps over its restarts, so they are the whole run's whatever time is
shown; rates are of the time shown.
"""

from deploy.grafana.panels import PIVOT, SELECTED, Board, Panel, Query, Row

TIMES = "suffix:\N{MULTIPLICATION SIGN}"
UP = f'{SELECTED}, direction="up"'
MEMBERS = f'{UP}, tier!="none"'
SPENT = f"sum(zowarmup_payload_bytes_total{{{UP}}})"
FEDAVG = f"sum(zowarmup_fedavg_bytes_total{{{UP}}})"
METRICS = f"max by (metric) (zowarmup_evaluation_metric{{{SELECTED}}})"
POINTS = f'(100 * max(zowarmup_evaluation_metric{{{SELECTED}, unit="ratio"}}))'


def _per_contribution(direction: str) -> str:
    """Wire bytes by tier and phase, of the phases in which there are contributions."""
    carried = f'zowarmup_wire_bytes_total{{{SELECTED}, direction="{direction}", tier!="none"}}'
    return f"sum by (tier, phase) ({carried}) / sum by (tier, phase) (zowarmup_contributions_total{{{SELECTED}}} > 0)"


TOTALS = Row(
    "The run so far",
    (
        Panel(
            title="Saving at equal rounds",
            says="How many times more FedAvg had sent up in the same rounds, of which it may need fewer for the same accuracy.",
            unit=TIMES,
            queries=(Query(f"{FEDAVG} / {SPENT}", "whole run"),),
            kind="number",
            width=4,
            height=4,
            decimals=1,
        ),
        Panel(
            title="Saving since the pivot",
            says="The same, at equal rounds, for the zeroth-order phase alone, where clients answer with scalars.",
            unit=TIMES,
            queries=(
                Query(
                    f'sum(zowarmup_fedavg_bytes_total{{{UP}, phase="zeroth-order"}})'
                    f' / sum(zowarmup_payload_bytes_total{{{UP}, phase="zeroth-order"}})',
                    "zeroth-order",
                ),
            ),
            kind="number",
            width=4,
            height=4,
            decimals=1,
        ),
        Panel(
            title="Uplink",
            says="All that clients have sent, as payload: serialised messages, without gRPC, HTTP/2 and TLS.",
            unit="decbytes",
            queries=(Query(SPENT, "payload"),),
            kind="number",
            width=4,
            height=4,
        ),
        Panel(
            title="FedAvg at equal rounds",
            says="A full update from each contribution to a committed round, which is what FedAvg sends up.",
            unit="decbytes",
            queries=(Query(FEDAVG, "FedAvg"),),
            kind="number",
            width=4,
            height=4,
        ),
        Panel(
            title="Metrics",
            says="Those of the run's task on the held-out set, such as accuracy (0 to 1), at the last evaluation.",
            unit="none",
            queries=(Query(METRICS, "{{metric}}"),),
            kind="number",
            width=4,
            height=4,
            decimals=3,
            absent="not yet evaluated",
        ),
        Panel(
            title="Uplink per point",
            says="Payload that clients have sent for each percentage point, of accuracy or such, that the model now has.",
            unit="decbytes",
            queries=(Query(f"{SPENT} / {POINTS}", "per point"),),
            kind="number",
            width=4,
            height=4,
            absent="not yet evaluated",
        ),
    ),
)

UPLINK = Row(
    "Uplink",
    (
        Panel(
            title="Uplink by tier and phase",
            says="Payload that clients of a tier send, a second; logarithmic, as the phases differ by orders of magnitude.",
            unit="Bps",
            queries=(
                Query(
                    f"sum by (tier, phase) (rate(zowarmup_payload_bytes_total{{{MEMBERS}}}[$__rate_interval]))",
                    "{{tier}} tier, {{phase}}",
                ),
            ),
            logarithmic=True,
        ),
        Panel(
            title="Uplink per contribution",
            says="Payload that a client of a tier has sent for each contribution that counts, small talk included, since the "
            "phase began.",
            unit="decbytes",
            queries=(
                Query(
                    f"sum by (tier, phase) (zowarmup_payload_bytes_total{{{MEMBERS}}})"
                    f" / sum by (tier, phase) (zowarmup_contributions_total{{{SELECTED}}} > 0)",
                    "{{tier}} tier, {{phase}}",
                ),
            ),
            logarithmic=True,
        ),
        Panel(
            title="Uplink, cumulative",
            says="Payload that clients have sent since the run began, by tier and phase, stacked.",
            unit="decbytes",
            queries=(
                Query(
                    f"sum by (tier, phase) (zowarmup_payload_bytes_total{{{MEMBERS}}}) > 0", "{{tier}} tier, {{phase}}"
                ),
            ),
            kind="areas",
        ),
        Panel(
            title="Uplink against FedAvg at equal rounds",
            says="What clients have sent since the run began, and what FedAvg had made them send in the same rounds.",
            unit="decbytes",
            queries=(Query(SPENT, "as it was"), Query(FEDAVG, "FedAvg at equal rounds")),
            logarithmic=True,
        ),
        Panel(
            title="Saving at equal rounds, by tier and phase",
            says="The ratio of those two for each tier and phase, over the whole run so far: 1 is what FedAvg sends.",
            unit=TIMES,
            queries=(
                Query(
                    f"(sum by (tier, phase) (zowarmup_fedavg_bytes_total{{{UP}}}) > 0)"
                    f" / sum by (tier, phase) (zowarmup_payload_bytes_total{{{UP}}})",
                    "{{tier}} tier, {{phase}}",
                ),
            ),
            logarithmic=True,
        ),
        Panel(
            title="Downlink by tier and phase",
            says="Payload that the coordinator sends to clients of a tier, a second: snapshots, commits and small talk.",
            unit="Bps",
            queries=(
                Query(
                    "sum by (tier, phase) (rate(zowarmup_payload_bytes_total"
                    f'{{{SELECTED}, direction="down", tier!="none"}}[$__rate_interval]))',
                    "{{tier}} tier, {{phase}}",
                ),
            ),
            logarithmic=True,
        ),
    ),
)

WIRE = Row(
    "Payload and wire",
    (
        Panel(
            title="Payload against wire, uplink",
            says="Serialised messages from clients, and the same bytes as sockets carry them.",
            unit="Bps",
            queries=(
                Query(f"sum(rate(zowarmup_wire_bytes_total{{{UP}}}[$__rate_interval]))", "wire"),
                Query(f"sum(rate(zowarmup_payload_bytes_total{{{UP}}}[$__rate_interval]))", "payload"),
            ),
            width=8,
            logarithmic=True,
        ),
        Panel(
            title="What the wire adds",
            says="Framing, headers and encryption as a share of the payload, over the whole run so far: large for small "
            "messages.",
            unit="percentunit",
            queries=(
                Query(
                    f'sum by (direction, phase) (zowarmup_wire_bytes_total{{{SELECTED}, phase!="finished"}})'
                    f" / (sum by (direction, phase) (zowarmup_payload_bytes_total{{{SELECTED}}}) > 0) - 1",
                    "{{direction}}, {{phase}}",
                ),
            ),
            width=8,
            logarithmic=True,
        ),
        Panel(
            title="Payload by kind",
            says="What has been sent since the run began, in each direction, by what it was.",
            unit="decbytes",
            queries=(
                Query(
                    f"sum by (direction, kind) (zowarmup_payload_bytes_total{{{SELECTED}}}) > 0",
                    "{{direction}}: {{kind}}",
                ),
            ),
            kind="bars",
            width=8,
        ),
        Panel(
            title="Wire bytes per contribution, uplink",
            says="All that sockets have carried up from a tier for each contribution that counts, since the phase began, "
            "which is what a tariff counts but for the headers of TCP and IP.",
            unit="decbytes",
            queries=(Query(_per_contribution("up"), "{{tier}} tier, {{phase}}"),),
            width=8,
            logarithmic=True,
        ),
        Panel(
            title="Wire bytes per contribution, downlink",
            says="The same down to a tier: snapshots, commits, small talk, and what connections take.",
            unit="decbytes",
            queries=(Query(_per_contribution("down"), "{{tier}} tier, {{phase}}"),),
            width=8,
            logarithmic=True,
        ),
        Panel(
            title="Wire bytes, cumulative",
            says="What sockets have carried both ways since the run began, by tier.",
            unit="decbytes",
            queries=(
                Query(
                    f'sum by (tier, direction) (zowarmup_wire_bytes_total{{{SELECTED}, tier!="none"}}) > 0',
                    "{{tier}} tier, {{direction}}",
                ),
            ),
            kind="areas",
            width=8,
        ),
    ),
)

BOUGHT = Row(
    "What it has bought",
    (
        Panel(
            title="Metrics by time",
            says="Those of the run's task on the held-out set; the coordinator evaluates as often as the run file says.",
            unit="none",
            queries=(Query(METRICS, "{{metric}}"),),
            kind="steps",
            width=8,
            lowest=0,
        ),
        Panel(
            title="Loss by time",
            says="On the held-out set, in nats an example, beside the lowest so far.",
            unit="suffix: nats",
            queries=(
                Query(f"max(zowarmup_loss{{{SELECTED}}})", "loss"),
                Query(f"max(zowarmup_lowest_loss{{{SELECTED}}})", "lowest"),
            ),
            kind="steps",
            width=8,
            lowest=0,
        ),
        Panel(
            title="Uplink per point by time",
            says="Payload that clients have sent for each percentage point, of accuracy or such, that the model had by then.",
            unit="decbytes",
            queries=(Query(f"{SPENT} / {POINTS}", "as it was"),),
            width=8,
            logarithmic=True,
        ),
    ),
)

FLEET_COST = Board(
    "zowarmup-fleet-cost",
    "Fleet cost",
    "What a run of zowarmup costs on the network by tier and phase, against FedAvg at equal rounds, and what it has bought.",
    (TOTALS, UPLINK, WIRE, BOUGHT),
    (PIVOT,),
)

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
POINTS = f"(100 * max(zowarmup_accuracy_ratio{{{SELECTED}}}))"

TOTALS = Row(
    "The run so far",
    (
        Panel(
            title="Saving against FedAvg",
            says="How many times more the same contributions had cost on the uplink, had every round been one of FedAvg.",
            unit=TIMES,
            queries=(Query(f"{FEDAVG} / {SPENT}", "whole run"),),
            kind="number",
            width=4,
            height=4,
            decimals=1,
        ),
        Panel(
            title="Saving since the pivot",
            says="The same for the zeroth-order rounds alone, where clients answer with scalars.",
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
            title="Uplink, had it been FedAvg",
            says="A full update from each contribution to a committed round, which is what FedAvg sends.",
            unit="decbytes",
            queries=(Query(FEDAVG, "FedAvg"),),
            kind="number",
            width=4,
            height=4,
        ),
        Panel(
            title="Accuracy",
            says="On the held-out set, at the last evaluation.",
            unit="percentunit",
            queries=(Query(f"max(zowarmup_accuracy_ratio{{{SELECTED}}})", "accuracy"),),
            kind="number",
            width=4,
            height=4,
            decimals=1,
            absent="not yet evaluated",
        ),
        Panel(
            title="Uplink per point",
            says="Payload that clients have sent for each percentage point of accuracy that the model now has.",
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
            title="Uplink against FedAvg, cumulative",
            says="What clients have sent, and what FedAvg had made them send for the same contributions.",
            unit="decbytes",
            queries=(Query(SPENT, "as it was"), Query(FEDAVG, "had it been FedAvg")),
            logarithmic=True,
        ),
        Panel(
            title="Saving by tier and phase",
            says="The ratio of those two for each tier and phase, over the whole run so far: 1 is what FedAvg costs.",
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
    ),
)

BOUGHT = Row(
    "What it has bought",
    (
        Panel(
            title="Accuracy by time",
            says="On the held-out set; the coordinator evaluates as often as the run file says.",
            unit="percentunit",
            queries=(Query(f"max(zowarmup_accuracy_ratio{{{SELECTED}}})", "accuracy"),),
            kind="steps",
            width=8,
            lowest=0,
            highest=1,
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
            title="Uplink per point of accuracy",
            says="Payload sent for each percentage point of accuracy, beside what FedAvg had made of the same contributions.",
            unit="decbytes",
            queries=(Query(f"{SPENT} / {POINTS}", "as it was"), Query(f"{FEDAVG} / {POINTS}", "had it been FedAvg")),
            width=8,
            logarithmic=True,
        ),
    ),
)

FLEET_COST = Board(
    "zowarmup-fleet-cost",
    "Fleet cost",
    "What a run of zowarmup costs on the network by tier and phase, against what FedAvg had cost, and what it has bought.",
    (TOTALS, UPLINK, WIRE, BOUGHT),
    (PIVOT,),
)

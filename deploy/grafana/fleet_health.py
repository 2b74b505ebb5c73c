"""The dashboard *Fleet health*: whether rounds go on, what they wait for, and how the devices and the coordinator are.

Rounds may take seconds or half an hour, so what is averaged over rounds is averaged over `$window`, a variable of the
dashboard, and not over what suits the width of the screen.
"""

from deploy.grafana.panels import PIVOT, SELECTED, Board, Mark, Panel, Query, Row

ENROLLED = f'zowarmup_clients{{{SELECTED}, state!="revoked"}}'
CONNECTED = f'zowarmup_clients{{{SELECTED}, state="connected"}}'
FIRING = f'ALERTS{{alertname=~"Zowarmup.+", alertstate="firing", {SELECTED}}}'
COORDINATOR = f"on (job, instance) zowarmup_model_version{{{SELECTED}}}"

NOW = Row(
    "Now",
    (
        Panel(
            title="Phase",
            says="Warm-up, then zeroth-order, then finished.",
            unit="none",
            queries=(Query(f"max by (phase) (zowarmup_phase{{{SELECTED}}}) == 1", "{{phase}}"),),
            kind="number",
            width=4,
            height=4,
            named=True,
        ),
        Panel(
            title="Model version",
            says="Commits since the initial weights.",
            unit="none",
            queries=(Query(f"max(zowarmup_model_version{{{SELECTED}}})", "version"),),
            kind="number",
            width=4,
            height=4,
        ),
        Panel(
            title="Since the last commit",
            says="How long ago the last round was committed; it grows on once the run is finished.",
            unit="s",
            queries=(Query(f"time() - max(zowarmup_last_round_timestamp_seconds{{{SELECTED}}})", "ago"),),
            kind="number",
            width=4,
            height=4,
            decimals=0,
            absent="none yet",
        ),
        Panel(
            title="Clients connected",
            says="Connected clients as a share of those enrolled and not revoked.",
            unit="percentunit",
            queries=(Query(f"sum(max by (tier) ({CONNECTED})) / sum(max by (tier, state) ({ENROLLED}))", "connected"),),
            kind="number",
            width=4,
            height=4,
            decimals=0,
            limits=((0.0, "red"), (0.5, "yellow"), (0.9, "green")),
            absent="nobody yet",
        ),
        Panel(
            title="Alerts firing",
            says="Of this run, by the rules that come with zowarmup; docs/monitoring.md says for each what to do.",
            unit="none",
            queries=(Query(f"count({FIRING}) or vector(0)", "alerts"),),
            kind="number",
            width=4,
            height=4,
            limits=((0.0, "green"), (1.0, "red")),
        ),
        Panel(
            title="Certificate",
            says="Until the coordinator's certificate expires.",
            unit="s",
            queries=(Query(f"min(zowarmup_certificate_expiry_timestamp_seconds{{{SELECTED}}}) - time()", "left"),),
            kind="number",
            width=4,
            height=4,
            decimals=0,
            limits=((-1e9, "red"), (172800.0, "yellow"), (1209600.0, "green")),
            absent="no TLS",
        ),
    ),
)

ROUNDS = Row(
    "Rounds",
    (
        Panel(
            title="What the run waits for",
            says="What has to come next: clients, their contributions, the coordinator's own work, or you.",
            unit="none",
            queries=(Query(f"max by (reason) (zowarmup_waiting{{{SELECTED}}})", "{{reason}}"),),
            kind="words",
            width=24,
            words={0: ("", "transparent"), 1: ("here", "blue")},
        ),
        Panel(
            title="Rounds",
            says="Rounds that were committed, and those that were abandoned for want of a quorum, a minute.",
            unit="suffix:/min",
            queries=(
                Query(
                    f"60 * sum by (phase, outcome) (rate(zowarmup_rounds_total{{{SELECTED}}}[$window]))",
                    "{{phase}}, {{outcome}}",
                ),
            ),
            width=8,
            lowest=0,
        ),
        Panel(
            title="Round duration",
            says="From opening to commit: the mean, and what 95 of 100 rounds stay under.",
            unit="s",
            queries=(
                Query(
                    f"sum by (phase) (rate(zowarmup_round_duration_seconds_sum{{{SELECTED}}}[$window]))"
                    f" / sum by (phase) (rate(zowarmup_round_duration_seconds_count{{{SELECTED}}}[$window]))",
                    "{{phase}}, mean",
                ),
                Query(
                    "histogram_quantile(0.95, sum by (phase, le)"
                    f" (rate(zowarmup_round_duration_seconds_bucket{{{SELECTED}}}[$window])))",
                    "{{phase}}, 95 %",
                ),
            ),
            width=8,
            lowest=0,
        ),
        Panel(
            title="Participants, and who is missing",
            says="Of the round in progress: who was drawn, and who of them has not contributed yet (the stragglers).",
            unit="suffix: clients",
            queries=(
                Query(f"sum by (phase) (zowarmup_round_participants{{{SELECTED}}})", "{{phase}}"),
                Query(f"sum(zowarmup_round_missing{{{SELECTED}}})", "missing"),
            ),
            kind="steps",
            width=8,
            lowest=0,
        ),
    ),
)

DEVICES = Row(
    "Devices",
    (
        Panel(
            title="Clients",
            says="Enrolled clients by tier, connected or away; those that were revoked are not counted.",
            unit="suffix: clients",
            queries=(Query(f"sum by (tier, state) ({ENROLLED})", "{{tier}} tier, {{state}}"),),
            kind="areas",
            width=8,
            lowest=0,
        ),
        Panel(
            title="Dropouts",
            says="Participants whose contribution did not come in time, as a share of those that were drawn.",
            unit="percentunit",
            queries=(
                Query(
                    f"sum by (tier, phase) (increase(zowarmup_dropouts_total{{{SELECTED}}}[$window]))"
                    f" / (sum by (tier, phase) (increase(zowarmup_dropouts_total{{{SELECTED}}}[$window]))"
                    f" + sum by (tier, phase) (increase(zowarmup_contributions_total{{{SELECTED}}}[$window])))",
                    "{{tier}} tier, {{phase}}",
                ),
            ),
            width=8,
            lowest=0,
        ),
        Panel(
            title="Peak memory by tier",
            says="The largest peak of resident memory that a client of the tier has reported.",
            unit="decbytes",
            queries=(Query(f"max by (tier) (zowarmup_client_peak_memory_bytes{{{SELECTED}}}) > 0", "{{tier}} tier"),),
            kind="steps",
            width=8,
            lowest=0,
        ),
        Panel(
            title="Catch-ups",
            says="Replicas brought up to date in the window, by the steps they had missed or by a snapshot, and replicas that "
            "were not the run's.",
            unit="suffix: replicas",
            queries=(
                Query(f"sum by (way) (increase(zowarmup_catch_ups_total{{{SELECTED}}}[$window]))", "by {{way}}"),
                Query(f"sum(increase(zowarmup_replica_disagreements_total{{{SELECTED}}}[$window]))", "disagreed"),
            ),
            width=8,
            lowest=0,
        ),
        Panel(
            title="Refusals",
            says="What the coordinator refused in the window, by reason, and all together.",
            unit="suffix: refused",
            queries=(
                Query(f"sum(increase(zowarmup_refusals_total{{{SELECTED}}}[$window]))", "all"),
                Query(f"sum by (reason) (increase(zowarmup_refusals_total{{{SELECTED}}}[$window])) > 0", "{{reason}}"),
            ),
            width=8,
            lowest=0,
        ),
        Panel(
            title="Bounded outliers",
            says="Scalars and deltas in the window that lay so far out that they were clipped.",
            unit="suffix: clipped",
            queries=(Query(f"sum by (kind) (increase(zowarmup_clipped_total{{{SELECTED}}}[$window]))", "{{kind}}s"),),
            width=8,
            lowest=0,
        ),
    ),
)

COORDINATOR_ROW = Row(
    "Coordinator",
    (
        Panel(
            title="Ledger latency",
            says="How long a synced transaction of the ledger takes; no client is answered before.",
            unit="s",
            queries=tuple(
                Query(
                    f"histogram_quantile({quantile}, sum by (le)"
                    f" (rate(zowarmup_ledger_append_duration_seconds_bucket{{{SELECTED}}}[$window])))",
                    legend,
                )
                for quantile, legend in ((0.5, "half of them"), (0.99, "99 %"))
            ),
            width=6,
            lowest=0,
        ),
        Panel(
            title="On disk",
            says="What the run takes: the ledger, and the snapshots and uploads (blobs).",
            unit="decbytes",
            queries=(
                Query(f"max(zowarmup_ledger_size_bytes{{{SELECTED}}})", "ledger"),
                Query(f"max(zowarmup_blobs_size_bytes{{{SELECTED}}})", "blobs"),
            ),
            kind="areas",
            width=6,
            lowest=0,
        ),
        Panel(
            title="Disk left",
            says="Free space of the file system that the run lives on.",
            unit="percentunit",
            queries=(
                Query(f"min(zowarmup_disk_free_bytes{{{SELECTED}}} / zowarmup_disk_size_bytes{{{SELECTED}}})", "free"),
            ),
            width=6,
            lowest=0,
            highest=1,
        ),
        Panel(
            title="The coordinator's process",
            says="Resident memory of the coordinator, which holds the model and a connection for each client.",
            unit="decbytes",
            queries=(Query(f'max(process_resident_memory_bytes{{job="$job"}} and {COORDINATOR})', "resident"),),
            width=6,
            lowest=0,
        ),
    ),
)

ALERTS = Mark("Alerts", FIRING, "{{alertname}}", "red")

FLEET_HEALTH = Board(
    "zowarmup-fleet-health",
    "Fleet health",
    "Whether a run of zowarmup goes on, what it waits for, and how its devices and its coordinator are.",
    (NOW, ROUNDS, DEVICES, COORDINATOR_ROW),
    (PIVOT, ALERTS),
)

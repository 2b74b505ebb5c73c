"""The dashboard *Fleet health*: whether rounds go on, what they wait for, and how the devices and the coordinator are.

Rounds may take seconds or half an hour, so what is averaged over rounds is averaged over `$window`, a variable of the
dashboard, and not over what suits the width of the screen.

The run may have several coordinators. What is the run's the leader tells, and for a moment two may: the largest counts. What is each
coordinator's own is summed, or shown one by one.
"""

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.common import BigValueColorMode, BigValueTextMode

from deploy.grafana.panels import PIVOT, SELECTED, areas, board, limits, lines, mark, number, states, steps

ENROLLED = f'zowarmup_clients{{{SELECTED}, state!="revoked"}}'
CONNECTED = f'zowarmup_clients{{{SELECTED}, state="connected"}}'
FIRING = f'ALERTS{{alertname=~"Zowarmup.+", alertstate="firing", {SELECTED}}}'
COORDINATOR = f"on (job, instance) zowarmup_ledger_size_bytes{{{SELECTED}}}"


NOW = (
    number(
        "Phase",
        "Warm-up, then zeroth-order, then finished.",
        "none",
        (f"max by (phase) (zowarmup_phase{{{SELECTED}}}) == 1", "{{phase}}"),
    ).text_mode(BigValueTextMode.NAME),
    number(
        "Model version",
        "Commits since the initial weights.",
        "none",
        (f"max(zowarmup_model_version{{{SELECTED}}})", "version"),
    ),
    number(
        "Since the last commit",
        "How long ago the last round was committed; it grows on once the run is finished.",
        "s",
        (f"time() - max(zowarmup_last_round_timestamp_seconds{{{SELECTED}}})", "ago"),
    )
    .decimals(0)
    .no_value("none yet"),
    number(
        "Clients connected",
        "Connected clients as a share of those enrolled and not revoked.",
        "percentunit",
        (f"sum(max by (tier) ({CONNECTED})) / sum(max by (tier, state) ({ENROLLED}))", "connected"),
    )
    .decimals(0)
    .color_mode(BigValueColorMode.VALUE)
    .thresholds(limits((None, "red"), (0.5, "yellow"), (0.9, "green")))
    .no_value("nobody yet"),
    number(
        "Alerts firing",
        "Of this run, by the rules that come with zowarmup; docs/monitoring.md says for each what to do.",
        "none",
        (f"count({FIRING}) or vector(0)", "alerts"),
    )
    .color_mode(BigValueColorMode.VALUE)
    .thresholds(limits((None, "green"), (1.0, "red"))),
    number(
        "Certificate",
        "Until the coordinator's certificate expires, or of several the first.",
        "s",
        (f"min(zowarmup_certificate_expiry_timestamp_seconds{{{SELECTED}}}) - time()", "left"),
    )
    .decimals(0)
    .color_mode(BigValueColorMode.VALUE)
    .thresholds(limits((None, "red"), (172800.0, "yellow"), (1209600.0, "green")))
    .no_value("no TLS"),
)

ROUNDS = (
    states(
        "What the run waits for",
        "What has to come next: clients, their contributions, the coordinator's own work, or you.",
        (f"max by (reason) (zowarmup_waiting{{{SELECTED}}})", "{{reason}}"),
    ).span(24),
    lines(
        "Rounds",
        "Rounds that were committed, and those that were abandoned for want of a quorum, a minute.",
        "suffix:/min",
        (
            f"60 * sum by (phase, outcome) (rate(zowarmup_rounds_total{{{SELECTED}}}[$window]))",
            "{{phase}}, {{outcome}}",
        ),
    )
    .span(8)
    .min(0),
    lines(
        "Round duration",
        "From opening to commit: the mean, and what 95 of 100 rounds stay under.",
        "s",
        (
            (
                f"sum by (phase) (rate(zowarmup_round_duration_seconds_sum{{{SELECTED}}}[$window]))"
                f" / sum by (phase) (rate(zowarmup_round_duration_seconds_count{{{SELECTED}}}[$window]))"
            ),
            "{{phase}}, mean",
        ),
        (
            (
                "histogram_quantile(0.95, sum by (phase, le)"
                f" (rate(zowarmup_round_duration_seconds_bucket{{{SELECTED}}}[$window])))"
            ),
            "{{phase}}, 95 %",
        ),
    )
    .span(8)
    .min(0),
    steps(
        "Participants, and who is missing",
        "Of the round in progress: who was drawn, and who of them has not contributed yet (the stragglers).",
        "suffix: clients",
        (f"max by (phase) (zowarmup_round_participants{{{SELECTED}}})", "{{phase}}"),
        (f"max(zowarmup_round_missing{{{SELECTED}}})", "missing"),
    )
    .span(8)
    .min(0),
)

DEVICES = (
    areas(
        "Clients",
        "Enrolled clients by tier, connected or away; those that were revoked are not counted.",
        "suffix: clients",
        (f"max by (tier, state) ({ENROLLED})", "{{tier}} tier, {{state}}"),
    )
    .span(8)
    .min(0),
    lines(
        "Dropouts",
        "Participants whose contribution did not come in time, as a share of those that were drawn.",
        "percentunit",
        (
            (
                f"sum by (tier, phase) (increase(zowarmup_dropouts_total{{{SELECTED}}}[$window]))"
                f" / (sum by (tier, phase) (increase(zowarmup_dropouts_total{{{SELECTED}}}[$window]))"
                f" + sum by (tier, phase) (increase(zowarmup_contributions_total{{{SELECTED}}}[$window])))"
            ),
            "{{tier}} tier, {{phase}}",
        ),
    )
    .span(8)
    .min(0),
    steps(
        "Peak memory by tier",
        "The largest peak of resident memory that a client of the tier has reported.",
        "decbytes",
        (f"max by (tier) (zowarmup_client_peak_memory_bytes{{{SELECTED}}}) > 0", "{{tier}} tier"),
    )
    .span(8)
    .min(0),
    lines(
        "Catch-ups",
        "Replicas brought up to date in the window, by the steps they had missed or by a snapshot, and replicas that "
        "were not the run's.",
        "suffix: replicas",
        (f"sum by (way) (increase(zowarmup_catch_ups_total{{{SELECTED}}}[$window]))", "by {{way}}"),
        (f"sum(increase(zowarmup_replica_disagreements_total{{{SELECTED}}}[$window]))", "disagreed"),
    )
    .span(8)
    .min(0),
    lines(
        "Refusals",
        "What the coordinator refused in the window, by reason, and all together.",
        "suffix: refused",
        (f"sum(increase(zowarmup_refusals_total{{{SELECTED}}}[$window]))", "all"),
        (f"sum by (reason) (increase(zowarmup_refusals_total{{{SELECTED}}}[$window])) > 0", "{{reason}}"),
    )
    .span(8)
    .min(0),
    lines(
        "Bounded outliers",
        "Scalars and deltas in the window that lay so far out that they were clipped.",
        "suffix: clipped",
        (f"sum by (kind) (increase(zowarmup_clipped_total{{{SELECTED}}}[$window]))", "{{kind}}s"),
    )
    .span(8)
    .min(0),
)

COORDINATOR_ROW = (
    lines(
        "Ledger latency",
        "How long a synced transaction of the ledger takes; no client is answered before.",
        "s",
        *(
            (
                (
                    f"histogram_quantile({quantile}, sum by (le)"
                    f" (rate(zowarmup_ledger_append_duration_seconds_bucket{{{SELECTED}}}[$window])))"
                ),
                legend,
            )
            for quantile, legend in ((0.5, "half of them"), (0.99, "99 %"))
        ),
    )
    .span(6)
    .min(0),
    areas(
        "On disk",
        "What the run takes of a coordinator, of several the most: the ledger, and the snapshots and uploads (blobs).",
        "decbytes",
        (f"max(zowarmup_ledger_size_bytes{{{SELECTED}}})", "ledger"),
        (f"max(zowarmup_blobs_size_bytes{{{SELECTED}}})", "blobs"),
    )
    .span(6)
    .min(0),
    lines(
        "Disk left",
        "Free space of the file system that a coordinator has its data directory on.",
        "percentunit",
        (
            f"min by (instance) (zowarmup_disk_free_bytes{{{SELECTED}}} / zowarmup_disk_size_bytes{{{SELECTED}}})",
            "{{instance}}",
        ),
    )
    .span(6)
    .min(0)
    .max(1),
    lines(
        "The coordinator's process",
        "Resident memory of each coordinator, which holds the model and a connection for each of its clients.",
        "decbytes",
        (f'max by (instance) (process_resident_memory_bytes{{job="$job"}} and {COORDINATOR})', "{{instance}}"),
    )
    .span(6)
    .min(0),
)

NONE = "a store of its own"
SEVERAL = (
    states(
        "Who leads",
        "The coordinator that decides, of several that share the run: one at any moment.",
        (f"max by (instance) (zowarmup_leads{{{SELECTED}}})", "{{instance}}"),
    )
    .span(8)
    .no_value(NONE),
    areas(
        "Clients of each coordinator",
        "Streams that each coordinator holds.",
        "suffix: clients",
        (f"sum by (instance) (zowarmup_streams{{{SELECTED}}})", "{{instance}}"),
    )
    .span(8)
    .min(0)
    .no_value(NONE),
    lines(
        "Behind the log",
        "How long ago each coordinator last had all that was decided, which is less than a second where all is well.",
        "s",
        (f"max by (instance) (zowarmup_follow_lag_seconds{{{SELECTED}}})", "{{instance}}"),
    )
    .span(8)
    .min(0)
    .no_value(NONE),
    steps(
        "Epoch of the lease",
        "It grows by one whenever another coordinator begins to lead.",
        "none",
        (f"max(zowarmup_lease_epoch{{{SELECTED}}})", "epoch"),
    )
    .span(8)
    .no_value(NONE),
    lines(
        "Changes of hands",
        "How often the lease went to another coordinator in the window, and how often a leader found that it had lost it.",
        "suffix: times",
        (f"max(increase(zowarmup_lease_changes_total{{{SELECTED}}}[$window]))", "changes of hands"),
        (f"sum by (instance) (increase(zowarmup_fenced_total{{{SELECTED}}}[$window])) > 0", "{{instance}} fenced"),
    )
    .span(8)
    .min(0)
    .no_value(NONE),
    steps(
        "Coordinators",
        "Those that answer Prometheus, and those that the leader hears of, itself included.",
        "suffix: coordinators",
        (f"count(zowarmup_leads{{{SELECTED}}})", "answer"),
        (f"1 + max(zowarmup_front_ends{{{SELECTED}}})", "the leader hears of"),
    )
    .span(8)
    .min(0)
    .no_value(NONE),
)

WINDOW = (
    dashboard.CustomVariable("window")
    .label("Averages over")
    .description("Rounds, dropouts and latencies are averaged over so long: several rounds, at least")
    .values("1m,5m,15m,1h,6h")
    .current(model.VariableOption(text="15m", value="15m", selected=True))
    .options(
        [model.VariableOption(text=w, value=w, selected=w == "15m" or None) for w in ("1m", "5m", "15m", "1h", "6h")]
    )
)
FLEET_HEALTH = board(
    "zowarmup-fleet-health",
    "Fleet health",
    "Whether a run of zowarmup goes on, what it waits for, and how its devices and its coordinator are.",
    {"Now": NOW, "Rounds": ROUNDS, "Devices": DEVICES, "Coordinator": COORDINATOR_ROW, "Several coordinators": SEVERAL},
    PIVOT,
    mark("Alerts", FIRING, "red"),
).with_variable(WINDOW)

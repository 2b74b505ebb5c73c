"""Old path -> new path, one line a file. Files that are not there are skipped; files not named go by RULES."""

TABLE = """
common/directions.py        common/exact/directions.py
common/grid.py              common/exact/grid.py
common/steps.py             common/exact/steps.py
common/permutation.py       common/exact/permutation.py
common/layout.py            common/exact/layout.py
common/replica.py           common/exact/replica.py
common/merging.py           common/exact/merging.py
common/compiled.py          common/exact/compiled.py
common/tensors.py           common/exact/tensors.py
common/submodel.py          common/exact/submodel.py
common/methods/__init__.py  common/algorithms/__init__.py
common/methods/protocol.py  common/algorithms/protocol.py
common/methods/adam.py      common/algorithms/adam.py
common/methods/aggregation.py common/algorithms/robust_means.py
common/methods/decomfl.py   common/algorithms/decomfl.py
common/methods/fedavg.py    common/algorithms/fedavg.py
common/methods/fedkseed.py  common/algorithms/fedkseed.py
common/methods/fedopt.py    common/algorithms/fedopt.py
common/methods/gaussian.py  common/algorithms/gaussian.py
common/methods/heterofl.py  common/algorithms/heterofl.py
common/methods/mixed.py     common/algorithms/mixed.py
common/methods/moves.py     common/algorithms/step_builder.py
common/methods/probing.py   common/algorithms/probing.py
common/methods/projection.py common/algorithms/exact_derivatives.py
common/methods/robust.py    common/algorithms/outliers.py
common/methods/rough.py     common/algorithms/approximate_norms.py
common/methods/vector.py    common/algorithms/lazy_vector.py
common/methods/zeroth_order.py common/algorithms/zowarmup.py
common/program.py           common/models/program.py
common/graph.py             common/models/graph.py
common/operators.py         common/models/operators.py
common/models/error.py      common/models/errors.py
common/work.py              common/messages/values.py
common/codec.py             common/messages/codec.py
common/invitation.py        common/messages/invitation.py
common/run.py               common/settings/run.py
common/phases.py            common/algorithms/settings.py
common/data_card.py         common/settings/data_card.py
common/addresses.py         common/settings/addresses.py
common/amount.py            common/units.py
common/system/bounds.py     common/bounds.py
common/printable.py         common/system/printable.py
common/field_count.py       common/messages/field_count.py
common/system/tether.py     common/system/pdeathsig.py

server/events.py            server/core/events.py
server/commands.py          server/core/commands.py
server/state.py             server/core/state.py
server/evolve.py            server/core/evolve.py
server/decide.py            server/core/decide.py
server/round.py             server/core/rounds.py
server/membership.py        server/core/membership.py
server/deadlines.py         server/core/deadlines.py
server/plateau.py           server/core/plateau.py
server/sampling.py          server/core/sampling.py
server/guard.py             server/core/guard.py
server/resting.py           server/core/resting.py
server/rejection.py         server/core/errors.py
server/table.py             server/core/persistent_map.py
server/combining.py         server/core/contributions.py
server/history.py           server/projections/history.py
server/tally.py             server/projections/totals.py
server/participation.py     server/projections/participation.py
server/ledger.py            server/store/ledger.py
server/schemas.py           server/store/schemas.py
server/blobs.py             server/store/blobs.py
server/housekeeping.py      server/store/housekeeping.py
server/spool.py             server/store/upload_files.py
server/spares.py            server/store/file_reuse.py
server/disk.py              server/store/files.py
server/archive.py           server/store/archive.py
server/fsck.py              server/store/fsck.py
server/repair.py            server/store/repair.py
server/backup.py            server/store/backup.py
server/aggregator.py        server/aggregation/aggregator.py
server/effects.py           server/aggregation/round_jobs.py
server/event_log.py         server/store/event_log.py
server/remembering.py       server/aggregation/optimizer_state.py
server/evaluation.py        server/aggregation/evaluation.py
server/returning.py         server/aggregation/rollback.py
server/service/__init__.py  server/rpc/__init__.py
server/service/assembly.py  server/rpc/server.py
server/service/participate.py server/rpc/participate.py
server/service/bulk.py      server/rpc/bulk.py
server/service/links.py     server/rpc/streams.py
server/service/operators.py server/rpc/operator.py
server/service/admission.py server/rpc/auth.py
server/service/limits.py    server/rpc/limits.py
server/service/uploads.py   server/rpc/uploads.py
server/service/downloads.py server/rpc/downloads.py
server/service/preparing.py server/rpc/preparing.py
server/service/strangers.py server/rpc/strangers.py
server/credentials.py       server/rpc/credentials.py
server/incoming.py          server/rpc/upload_writer.py
server/outgoing.py          server/rpc/download_cache.py
server/crowding.py          server/rpc/crowding.py
server/metrics.py           server/telemetry/metrics.py
server/families.py          server/telemetry/families.py
server/exposition.py        server/telemetry/http.py
server/narrator.py          server/telemetry/event_logger.py
server/traffic.py           server/projections/traffic.py
server/wire.py              server/projections/framing.py
server/sockets.py           server/telemetry/tcp_info.py
server/told.py              server/telemetry/counter_checkpoint.py
server/throttle.py          server/telemetry/log_throttle.py
server/refusals.py          server/projections/refusals.py
server/preparation.py       server/setup/prepare.py
server/building.py          server/setup/build_model.py
server/shelf.py             server/setup/model_cache.py
server/runfile.py           server/setup/run_file.py
server/opening.py           server/setup/open_run.py
server/continuation.py      server/setup/continuation.py
server/safetensors_file.py  server/setup/safetensors_file.py
server/listening.py         server/rpc/endpoints.py
server/certificate.py       server/rpc/certificate.py
server/tuning.py            server/runtime.py
server/leaving.py           server/shutdown.py
server/clock.py             common/system/clock.py

client/loop.py              client/work/loop.py
client/agenda.py            client/net/inbox.py
client/device.py            client/work/device.py
client/workshop.py          client/work/executor.py
client/probe.py             client/work/probing.py
client/trainer.py           client/work/training.py
client/accelerator.py       client/work/accelerator.py
client/allowance.py         client/work/allowance.py
client/watch.py             client/work/watch.py
client/presence.py          client/net/reconnecting_stream.py
client/session.py           client/net/connection.py
client/stream.py            client/net/stream.py
client/messages.py          client/net/messages.py
client/statuses.py          client/net/statuses.py
client/faults.py            client/errors.py
client/transfer.py          client/net/transfer.py
client/trust.py             client/net/tls.py
client/contact.py           client/net/contact.py
client/backoff.py           client/net/backoff.py
client/joining.py           client/work/joining.py
client/upgrade.py           client/net/upgrade.py
client/replica.py           client/store/replica.py
client/commitlog.py         client/store/commit_log.py
client/state.py             client/store/directory.py
client/doctor.py            client/diagnostics/doctor.py
client/checkup.py           client/diagnostics/checks.py
client/vitals.py            client/diagnostics/sensors.py
client/capability.py        client/work/capability.py
client/footprint.py         client/diagnostics/footprint.py
client/metrics.py           client/diagnostics/metrics.py
client/lean.py              client/work/memory.py

client/fleet/__init__.py    lab/simulation/__init__.py
client/fleet/allocator.py   lab/simulation/allocator.py
client/fleet/host.py        lab/simulation/host.py
client/fleet/lines.py       lab/simulation/channels.py
client/fleet/member.py      lab/simulation/member.py
client/fleet/part.py        lab/simulation/part.py
client/fleet/profiles.py    lab/simulation/profiles.py
client/fleet/quiet.py       lab/simulation/log_throttle.py
client/fleet/replica.py     lab/simulation/replica.py
cli/fleet.py                lab/simulation/fleet.py
cli/fleet_command.py        lab/simulation/fleet_command.py
cli/fleet_ray.py            lab/simulation/ray.py
cli/experiment/__init__.py  lab/experiments/__init__.py
cli/experiment/conduct.py   lab/experiments/conduct.py
cli/experiment/cost.py      lab/experiments/cost.py
cli/experiment/figure.py    lab/experiments/figure.py
cli/experiment/folders.py   lab/experiments/folders.py
cli/experiment/grid.py      lab/experiments/grid.py
cli/experiment/outcome.py   lab/experiments/outcome.py
cli/experiment/progress.py  lab/experiments/progress.py
cli/experiment/running.py   lab/experiments/running.py
cli/experiment/summary.py   lab/experiments/summary.py
cli/experiment/table.py     lab/experiments/table.py
cli/experiment_command.py   lab/experiments/experiment_command.py
cli/demo.py                 lab/demo/demo.py
cli/demo_settings.py        lab/demo/settings.py
cli/demo_view.py            lab/demo/view.py
cli/result.py               lab/demo/result.py
cli/report.py               lab/demo/report.py
cli/report_figure.py        lab/demo/report_figure.py
cli/processes.py            lab/processes.py

cli/specimens.py            cli/sample_messages.py
cli/verbs.py                cli/operator.py
"""
MOVES = dict(line.split() for line in TABLE.splitlines() if line.strip())
assert len(set(MOVES.values())) == len(MOVES)
# Files that the table does not name: folder -> folder, the longest prefix counts.
RULES = {
    "common/methods/": "common/algorithms/",
    "server/service/": "server/rpc/",
    "client/fleet/": "lab/simulation/",
    "cli/experiment/": "lab/experiments/",
}

TESTS = """
adam common/algorithms/adam
addresses common/settings/addresses
aggregation common/algorithms/robust_means
amount common/units
backup server/store/backup
blobs server/store/blobs
bombs -
algorithms common/algorithms/registry
certificate server/rpc/certificate
certificates cli/certificates
claims integration/claims
classification common/tasks/classification
cli_clients integration/cli_clients
cli_commands cli/commands
cli_demo_settings lab/demo/settings
cli_export cli/export
cli_invitations cli/invitations
cli_pace cli/pace
cli_plan cli/plan
cli_processes lab/processes
cli_report lab/demo/report
cli_session integration/cli_session
cli_watch integration/cli_watch
client_agenda client/net/inbox
client_backoff client/net/backoff
client_capability client/work/capability
client_checkup client/diagnostics/checks
client_chunks client/net/chunks
client_commitlog client/store/commit_log
client_lean client/work/memory
client_metrics client/diagnostics/metrics
client_replica client/store/replica
client_state client/store/directory
client_vitals client/diagnostics/sensors
clock common/system/clock
codec common/messages/codec
compiled common/exact/compiled
continuation server/setup/continuation
coordinator server/coordinator
crowding server/rpc/crowding
data_card data/card
data_digits data/digits
data_files data/files
data_image_file data/image_file
data_memory data/memory
data_published data/published
data_standard data/standard
data_tables data/tables
decomfl common/algorithms/decomfl
directions common/exact/directions
documents -
effects server/aggregation/round_jobs
aggregator server/aggregation/aggregator
event_log server/store/event_log
given_file common/system/given_file
exact_projections common/algorithms/exact_derivatives
experiment_grid lab/experiments/grid
experiment_outcome lab/experiments/outcome
exposition server/telemetry/http
fedavg common/algorithms/fedavg
fedkseed common/algorithms/fedkseed
fedopt common/algorithms/fedopt
fleet_profiles lab/simulation/profiles
fleet_replica lab/simulation/replica
folders common/system/folders
fsck server/store/fsck
gaussian common/algorithms/gaussian
golden_contributions client/work/golden_contributions
graph common/models/graph
grid common/exact/grid
grid_ranges common/exact/grid_ranges
heterofl common/algorithms/heterofl
history server/projections/history
hostile_scalars common/algorithms/hostile_scalars
incoming server/rpc/upload_writer
invitation common/messages/invitation
layout common/exact/layout
ledger server/store/ledger
links integration/streams
listening server/rpc/endpoints
local_steps common/algorithms/local_steps
metrics server/telemetry/metrics
mixed common/algorithms/mixed
models common/models/models
odd_models common/models/odd_models
on_device common/models/on_device
operators common/models/operators
outgoing server/rpc/download_cache
packaging -
paper_tables lab/experiments/paper_tables
participation server/projections/participation
policy client/policy
plugins common/algorithms/plugins
preparation server/setup/prepare
printable common/system/printable
program common/models/program
raised common/raised
robust common/algorithms/outliers
rough common/algorithms/approximate_norms
rounding common/algorithms/rounding
run_settings common/settings/run
sampling server/core/sampling
service_answers integration/answers
service_limits integration/limits
service_paths integration/paths
service_preparing integration/preparing
shelf server/setup/model_cache
spares server/store/file_reuse
step_bound common/algorithms/step_bound
steps common/exact/steps
strangers integration/strangers
strict common/strict
submodel common/exact/submodel
table server/core/persistent_map
tensors common/exact/tensors
throttle server/telemetry/log_throttle
told server/telemetry/counter_checkpoint
traffic server/projections/traffic
upload_sizes integration/upload_sizes
uploads integration/uploads
zeroth_order common/algorithms/zowarmup
"""
for _line in TESTS.split("\n"):
    if _line.strip():
        _old, _new = _line.split()
        if _new != "-":
            _folder, _, _leaf = _new.rpartition("/")
            _under = "" if _folder == "integration" else "unit/"
            MOVES[f"tests/unit/test_{_old}.py"] = f"tests/{_under}{_folder}/test_{_leaf}.py"
assert len(set(MOVES.values())) == len(MOVES)

# Definitions that stand in the way where they are: (old file, name) -> old name of the file that they go to.
SYMBOLS = {
    ("common/work.py", "Commit"): "common/replica.py",
    ("server/spool.py", "upload_name"): "server/combining.py",
    ("server/listening.py", "ListeningError"): "server/rejection.py",
    ("server/listening.py", "CA_FILE"): "server/store/data_dir.py",
    ("server/credentials.py", "OPERATOR_CREDENTIAL"): "server/store/data_dir.py",
    ("server/archive.py", "LEDGER"): "server/store/data_dir.py",
    ("server/archive.py", "BLOBS"): "server/store/data_dir.py",
    ("cli/processes.py", "Interrupts"): "cli/interrupts.py",
    ("cli/processes.py", "interrupts"): "cli/interrupts.py",
}
NEW_FILES = {
    "cli/interrupts.py": "SIGINT and SIGTERM of a command that waits.",
    "server/store/data_dir.py": "The data directory's files, by name."}

# Classes and functions: old file, then old=new.
NAMES_TABLE = """
common/methods/protocol.py Evaluated=LossAndGradient Part=ClientScalars
common/methods/vector.py Vector=LazyVector Each=Mapper length=norm Length=Norm
common/methods/rough.py RoughLength=ApproximateNorm rough_length=approximate_norm
common/steps.py Elsewhere=DeviceVector cross=swap_direction
common/tensors.py Vector=TorchVector
common/graph.py Refused=ProgramRefused
common/models/apart.py Outcome=ChildOutcome
common/models/resnet.py _Block=_ResidualBlock
common/models/vit.py _Block=_TransformerBlock
data/image_file.py Header=ImageHeader
server/events.py Program=ProgramRecord
server/evaluation.py Measured=MeasuredModel
data/npz.py Archive=NpzArchive
client/allowance.py Usage=UsedToday
server/command.py Missing=MissingExtra
client/capability.py Decision=TierDecision
server/commands.py Hello=ConnectClient Goodbye=DisconnectClient Report=RecordReport
server/effects.py Effects=RoundJobs
server/aggregator.py Combined=Aggregated
server/exposition.py Window=MetricsEndpoint window=metrics_endpoint Exposition=MetricsServer
server/fsck.py Good=IntactVersion Report=CheckReport
server/guard.py Good=GoodVersion
server/history.py Version=VersionRecord
server/incoming.py Quay=UploadWriter Incoming=IncomingUpload
server/ledger.py Row=StoredEvent
server/listening.py Door=Endpoint door=endpoint_of bystander=health_server
server/narrator.py Narrator=EventLogger
server/outgoing.py Outgoing=DownloadCache
server/preparation.py Footprint=DeviceFootprint
server/remembering.py Moments=OptimizerState remembering=optimizer_state
server/service/limits.py Allowances=RateLimiter Lengths=MessageSizeInterceptor Garbled=MalformedMessage TooLong=MessageTooLong Bucket=TokenBucket Task=LimitedTask
server/service/links.py Switchboard=StreamRegistry Link=ClientStream
server/service/preparing.py Preparing=PreparingInterceptor
server/shelf.py from_shelf=cached place_of=cache_path
server/sockets.py Untold=TcpInfoUnavailable keep_correct=reconcile
server/spares.py Spares=ReusableFiles
server/spool.py Spool=UploadFiles
server/state.py Invitation=IssuedInvitation
server/table.py Table=PersistentMap
server/tally.py Tally=Totals
server/told.py Told=CounterCheckpoint
server/traffic.py Connection=CountedConnection Line=CallTraffic
server/tuning.py keep_pieces=tune_allocator rarely_collect=tune_collector
client/agenda.py Task=InboxItem
client/checkup.py Link=LinkSpeed
client/contact.py Found=ContactFinding
client/faults.py Preparing=StillPreparing Stopped=ComputingStopped
client/fleet/lines.py Line=SharedChannel lines=shared_channels
client/fleet/member.py Link=SimulatedStream Member=SimulatedClient
client/fleet/part.py Part=FleetShare Progress=FleetProgress
client/lean.py give_back_code=release_code give_back_heap=release_heap
client/presence.py Presence=ReconnectingStream patiently=with_retries
client/probe.py Examples=ProbedExamples
client/replica.py Header=SnapshotHeader
client/workshop.py Workshop=Executor
cli/demo.py Member=DemoClient Plan=DemoPlan
cli/demo_settings.py Section=DemoSection
cli/experiment/conduct.py Wish=JobRequest Found=ExperimentResults Conductor=ExperimentRunner
cli/experiment/folders.py Resume=FolderUse resume=folder_use
cli/experiment/outcome.py Outcome=RunOutcome
cli/experiment/summary.py Row=ResultRow
cli/experiment/table.py Table=ExperimentTable
cli/failure.py Failure=CommandError
cli/fleet_ray.py _Left=_LeftCluster
cli/forecast.py Row=CostRow Link=PlannedLink
cli/invitations.py Invitation=InvitationStatus
cli/run_status.py Evaluation=EvaluationStatus Traffic=TrafficStatus Client=ClientStatus Version=VersionStatus
"""
NAMES = {}
for _line in NAMES_TABLE.splitlines():
    if _line.strip():
        _file, *_pairs = _line.split()
        NAMES.update({(_file, _pair.split("=")[0]): _pair.split("=")[1] for _pair in _pairs})

# Tokens that mean one thing wherever they stand: variables, parameters, methods; `_old` follows `old`.
WORDS = {
    "switchboard": "stream_registry",
    "quay": "writer",
    "effects": "round_jobs",
    "narrator": "event_logger",
    "allowances": "rate_limiter",
    "workshop": "executor",
    "empty_bin": "empty_reusable",
    "tally": "totals",
    "shelf": "cache",
    "spares": "reusable",
}
# The same, but for attributes and definitions alone.
ATTRIBUTES = {"having": "set", "without": "remove", "lay_over": "reuse", "beside": "sibling"}
# Where the definitions of these are.
DEFINED = ("server/core/persistent_map.py", "server/store/blobs.py", "server/store/upload_files.py", "client/work/executor.py")

# The same under some folders alone (new paths).
SCOPED = {
    "presence": ("stream", ("client/", "lab/simulation/", "tests/unit/client/", "tests/client/")),
    "bench": ("own_executor", ("client/", "lab/simulation/")),
}

# Texts that follow, in every file: options, folders, prose about them.
TEXTS = {
    "--shelf": "--model-cache",
    '"shelf"': '"model-cache"',
    "OUT/shelf                  models": "OUT/model-cache            models",
    "`shelf/`": "`model-cache/`",
    "their model from a shelf (": "their model from a cache (",
    "left on the shelf": "left in the cache",
    "is not on the shelf": "is not in the cache",
    "clears the shelf": "clears the cache",
    "on the shelf: ": "in the cache: ",
    "The shelf of one coordinator": "The cache of one coordinator",
    "of a model on a shelf": "of a model in a cache",
    "A device has a workshop of its own": "A device has an executor of its own",
    "share one's tools, each at a bench `beside` the others', and": "share one's tools, each through a `sibling`, and",
    "how long this bench's work has taken": "how long this executor's work has taken",
    "A bench for one client among many": "An executor for one client among many",
    'thread_name_prefix="effects"': 'thread_name_prefix="round-jobs"',
    "The coordinator's door. `operator_sha256`": "Who may call. `operator_sha256`",
    "(`Allowances` bounds members)": "(`RateLimiter` bounds members)",
    "A link is one client's stream: a queue of messages that its call writes out": "A `ClientStream` is a queue of messages that one client's call writes out",
    "switchboard puts Work": "registry puts Work",
    "It keeps, for each link, the version": "It keeps, for each stream, the version",
    "sums come from the tally (a fold over the ledger": "sums come from the totals (a fold over the events",
    "blobs and effects, and scripted": "blobs and round jobs, and scripted",
    "What the effects would hand back": "What the round jobs would hand back",
    "A shelf of models: built once": "A cache of models: built once",
    "The low tier never comes here; torch is imported when one of these is called.": "The low tier uses `program` alone; torch is imported when a function of this module is called.",
    "give_back_code": "release_code",
    "give_back_heap": "release_heap",
    "`rough.RoughLength`": "`approximate_norms.ApproximateNorm`",
    "(`RoughLength`)": "(`ApproximateNorm`)",
    "outside of `Lengths`": "outside of `MessageSizeInterceptor`",
    "Raises Failure": "Raises CommandError",
    "Raises Untold": "Raises TcpInfoUnavailable",
    "only `empty_bin` syncs": "only `empty_reusable` syncs",
    "arguments.shelf": "arguments.model_cache",
    "arguments.cache": "arguments.model_cache",
}

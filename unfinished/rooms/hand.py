"""What no table says: texts that are changed by hand. Each change reports what it does not find."""

ROOM_DOCSTRINGS = {
    "common/exact": "Exact arithmetic on the model's flat vector: the same bits on every machine.",
    "common/messages": "What clients and the coordinator say to each other: values, and their form on the wire.",
    "common/settings": "What a run is: the settings that all participants share, and those of the coordinator.",
    "server/core": "The state machine: events, commands, and the pure functions between them.",
    "server/projections": "Read models: pure folds over the events, and counters beside them.",
    "server/store": "What a coordinator keeps on disk: the event log, blobs, uploads; checked, repaired, copied.",
    "server/aggregation": "From a closed round to the next version: aggregation, snapshots, evaluation, rollback.",
    "server/telemetry": "What a coordinator shows of itself: metrics, the log, socket counters.",
    "server/setup": "Making a run or opening the one that is there.",
    "client/work": "What a device computes, and which work it takes on.",
    "client/net": "A device's connection to its coordinator.",
    "client/store": "What a device keeps on disk.",
    "client/diagnostics": "What keeps a device from taking part, and what its work costs it.",
    "lab": "Runs on one machine or a cluster: simulated fleets, experiments, the demo.",
    "lab/demo": "The demo: a coordinator and clients on this machine, and its report.",
}


def replace(path: str, old: str, new: str, optional: bool = False):
    def change(files: dict[str, str], warnings: list[str]) -> None:
        if path not in files:
            from pathlib import Path

            if not Path(path).exists():
                warnings.append(f"hand: {path} is not there")
                return
            files[path] = Path(path).read_text(encoding="utf-8")
        if old not in files[path]:
            if not optional:
                warnings.append(f"hand: {path} does not say {old!r}")
            return
        files[path] = files[path].replace(old, new)

    return change


def lab_environment(files: dict[str, str], warnings: list[str]) -> None:
    """What client/__init__.py sets before grpc is imported holds for the lab's modules, too."""
    code = files["client/__init__.py"]
    if code.startswith('"""'):
        code = code.partition('"""\n')[2]
    files["lab/__init__.py"] = f'"""{ROOM_DOCSTRINGS["lab"]}"""\n\n{code.lstrip()}'


BEFORE = []
AFTER = [
    lab_environment,
    replace("pyproject.toml", 'only-include = ["common", "data", "server", "client", "cli"]', 'only-include = ["common", "data", "server", "client", "lab", "cli"]'),
    replace("pyproject.toml", 'cli = "zowarmup/cli"\n', 'lab = "zowarmup/lab"\ncli = "zowarmup/cli"\n'),
    replace("pyproject.toml", 'cli.msg = "import zowarmup.cli"\n', 'lab.msg = "import zowarmup.lab"\ncli.msg = "import zowarmup.cli"\n'),
]

# In module docstrings: modules by their old names.
PROSE = {
    "`methods.heterofl`": "`algorithms.heterofl`",
    "`moves.": "`step_builder.",
    "`common.work`": "`common.messages`",
    "`common.run`": "`common.settings.run`",
    "`common.methods`": "`common.algorithms`",
    "`server.runfile`": "`server.setup.run_file`",
    "`fedavg.length`": "`fedavg.norm`",
    "`faults`": "`errors`",
    "`presence`": "`reconnecting_stream`",
    "`specimens`": "`sample_messages`",
    "`building`": "`build_model`",
    "`wire`": "`framing`",
    "`sockets`": "`tcp_info`",
    "`tether`": "`pdeathsig`",
    "`round`": "`rounds`",
    "`phases`": "`settings`",
    "`replica.py`": "`replica`",
    "tether.py": "pdeathsig.py",
}


def section(path: str, begin: str, end: str, new: str):
    """Replaces what lies between two lines, `begin` included."""

    def change(files: dict[str, str], warnings: list[str]) -> None:
        from pathlib import Path

        text = files.get(path) or Path(path).read_text(encoding="utf-8")
        if begin not in text or end not in text.partition(begin)[2]:
            warnings.append(f"hand: {path} has no {begin!r} before {end!r}")
            return
        before, _, rest = text.partition(begin)
        _, mark, after = rest.partition(end)
        files[path] = before + new + mark + after

    return change


ROOMS_TEXT = (
    '''## Rooms

The folders at the top are parts of one package, `zowarmup`; the folders with code are its rooms. What a room may import is
a property of the folder: `tests/test_layering.py` holds it as data, a room a line, and checks it, together with what each
process has loaded once it has started: a client on a low-tier device no package that such a device does not have, a
coordinator no torch.

```
   proto/                                       the wire; compiled when the package is built
     |
   common/   exact   messages   tasks           arithmetic and vocabulary: pure
             algorithms                         the front door: one file for each algorithm, with its settings
             settings                           what a run is
             models  system                     torch where it is used; the operating system
     |
   data/                                        data sets and shards
     |              |
   server/          client/                     a process each; they never import each other
     core             store
     projections      net
     store            work
     coordinator      diagnostics
     aggregation | rpc | telemetry | setup
     |              |
   cli/  lab/                                   the operator's command; simulated fleets, experiments, the demo
```

| room | what is in it | may import |
|---|---|---|
| `common/` itself | values that all of these use: bounds, strict JSON, exceptions as a line, units. Pure | |
| `common/exact/` | directions, the grid, steps, the layout, replicas: the same bits on every machine. Pure | `common/` itself |
| `common/messages/` | what clients and the coordinator say to each other, and its form on the wire. Pure | `exact` |
| `common/tasks/` | what is trained for: losses, gradients of the head, local training. Pure | `exact` |
| `common/algorithms/` | one file for each algorithm with its settings, and what the rest of the system asks of one. Pure | `exact`, `messages`, `tasks` |
| `common/settings/` | what a run is. Pure | and `algorithms` |
| `common/models/` | models built, imported, exported; the program | `exact`, `settings`, `system` |
| `common/system/` | what both sides need of the operating system | the standard library |
| `data/` | readers of data sets, and their shards | `common` |
| `server/core/` | the state machine: events, commands, state, decisions. Pure | `common` without `system` and `models` |
| `server/projections/` | read models, folded from the events. Pure | `core` |
| `server/store/` | what lasts: the event log, blobs, uploads; backup, check and repair | `core`, `projections`, `common/system` |
| `server/coordinator.py` | the single writer | `core`, `store` |
| `server/aggregation/`, `rpc/`, `telemetry/`, `setup/` | the next version; gRPC; metrics and the log; a run made or opened | all of these, never each other |
| `client/errors.py`, `policy.py` | whose fault an error is; what a device's owner allows | `common` |
| `client/store/` | what lasts on a device | and these |
| `client/net/` | its connection to the coordinator | and `store` |
| `client/work/` | what it computes | and `net` |
| `client/diagnostics/` | the doctor, and what work costs | and `work` |
| `cli/` | the operator's command; `commands.py` alone imports `lab` | all but `lab` |
| `lab/` | `simulation/`: many clients in one process; `experiments/`; `demo/` | all but `cli/commands.py` |

`make files` prints every room with its files, each with the first sentence of its docstring.

'''
    "Pure rooms touch no network, disk, clock or global randomness: what they need of these is passed in. Only these places\n"
    "know the generated protobuf code: `common/messages/codec.py`, `common/models/graph.py`, `server/rpc/`,\n"
    "`client/net/connection.py` and `stream.py` beside it, `cli/session.py`, and `cli/sample_messages.py`, by which a plan\n"
    "weighs messages.\n\n"
)
AFTER += [
    section("docs/structure.md", "## Rooms\n", "## What happens to a message", ROOMS_TEXT),
    section(
        "CONTRIBUTING.md",
        "| folder | what is in it | may import |",
        "\n- `server` and `client` never import",
        """| folder | what is in it |
|---|---|
| `proto/` | the wire |
| `common/` | what both sides share: exact arithmetic, algorithms, tasks, models, messages, settings, and the operating system |
| `data/` | reading data sets and sharing them out |
| `server/` | the coordinator: a pure core, and a shell around it |
| `client/` | the device; a low-tier device never loads torch |
| `cli/` | the operator's command, `zowarmup` |
| `lab/` | simulated fleets, experiments, the demo |
| `deploy/` | running it in earnest: units, manifests, dashboards |
| `benchmarks/` | what the figures in the documents were measured with |
| `tests/` | see below |
| `docs/`, `examples/` | documents; run files to start from |

The rooms inside these, and what each may import, are in docs/structure.md; `make files` prints every file with its
purpose. The rules that matter most:
""",
    ),
    section(
        "CONTRIBUTING.md",
        "- `server/core/events.py`",
        "- What the low tier loads",
        """- `server/core`, `server/projections` and most of `common` are pure: no clock, disk, network or global randomness. Time
  comes in as an argument (`pure=True` in `tests/test_layering.py`).
""",
    ),
    section(
        "CONTRIBUTING.md",
        "- Generated protobuf code is touched by",
        "- Nothing that changes weights",
        """- Generated protobuf code is touched by a few files only (`WIRE_FILES` in `tests/test_layering.py`). Everywhere else a
  message is a value that has checked itself.
""",
    ),
    replace("CONTRIBUTING.md", "pytest tests/unit/common/exact/test_steps.py               # one file", "pytest tests/unit/common/exact/test_steps.py  # one file", optional=True),
    replace("CONTRIBUTING.md", "| `tests/unit/` | one module at a time; properties with hypothesis where there is a law to state |\n", "| `tests/unit/` | one module at a time, in the folders of the rooms; properties with hypothesis where there is a law to state |\n| `tests/integration/` | the coordinator's services and the operator's session over real gRPC, in one process |\n"),
    replace("Makefile", "typecheck: .build/ready", "files:  ## Every room of the package and its files, with the purpose of each\n\t@$(PYTHON) docs/files.py\n\ntypecheck: .build/ready"),
    replace("Makefile", ".PHONY: help demo", ".PHONY: help files demo"),
]


def drop_file_tables(files: dict[str, str], warnings: list[str]) -> None:
    """The sections of docs/structure.md that listed files."""
    import re

    path = "docs/structure.md"
    text = files[path]
    for title in ("The common files", "The data's files", "The server's files", "The client's files", "The command's files", "An experiment's files"):
        text, count = re.subn(rf"^## {title}\n.*?(?=^## |\Z)", "", text, flags=re.DOTALL | re.MULTILINE)
        if not count:
            warnings.append(f"hand: {path} has no section {title!r}")
    files[path] = text.rstrip("\n") + "\n"


def documents_test(files: dict[str, str], warnings: list[str]) -> None:
    """Nothing pins the names of files any more: every module says what it is instead."""
    path = "tests/unit/test_documents.py"
    text = files[path]
    before, mark, rest = text.partition("# Which section of docs/structure.md has a folder's files")
    gone, end, after = rest.partition("def test_the_protocol_names_every_call_and_every_message_of_a_stream")
    if not mark or not end:
        warnings.append(f"hand: {path} is not as expected")
        return
    files[path] = (
        before
        + '''def test_every_room_and_every_file_says_what_it_is() -> None:
    printed = runpy.run_path(str(REPOSITORY / "docs/files.py"))
    rooms = list(printed["rooms"]())
    assert len(rooms) > 20 and sum(len(files) for _, _, files in rooms) > 100
    silent = [room for room, about, _ in rooms if not about.endswith(".")]
    silent += [f"{room}/{name}" for room, _, files in rooms for name, about in files if not about.endswith(".")]
    assert silent == []


'''
        + end
        + after
    ).replace("import re\nimport tomllib", "import re\nimport runpy\nimport tomllib")


AFTER += [drop_file_tables, documents_test]

STRUCTURE = {
    "|-- narrator    the log": "|-- event_logger the log",
    "|-- links       Work": "|-- streams     Work",
    "'-- effects     RoundClosed": "'-- round_jobs  RoundClosed",
    "| scalar | the result of a probe |\n": "| scalar | the result of a probe: a finite-difference directional derivative |\n",
    "| projection | an exact scalar z . g, where the gradient g is at hand |\n": "| projection | an exact directional derivative z . g, where the gradient g is at hand; in `server/projections/` a read model: what is folded from the events |\n",
    "| ledger | the durable events |\n": "| ledger | the event log: the durable events. It is written before anything is said (write-ahead) |\n| algorithm | what clients compute in a phase and how it is aggregated: FedAvg, ZOWarmUp and the others |\n| aggregate | to make the next version of a round's contributions; the *aggregator* does it |\n| optimizer state | what a server optimizer (FedAdam, FedYogi) keeps from one round to the next |\n| program | the model's forward pass as an ONNX graph; a *forward-only client* needs nothing else |\n| idempotent | a message that is sent again has the effect of one |\n",
    "effects combine": "round jobs aggregate",
}
AFTER += [replace("docs/structure.md", old, new, optional=True) for old, new in STRUCTURE.items()]

AFTER += [replace("server/store/blobs.py", '    "upload_name",\n', "", optional=True)]

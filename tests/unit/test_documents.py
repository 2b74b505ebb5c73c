"""The documents say what is true: links lead somewhere, run files load, worked examples come out."""

import ast
import csv
import json
import re
import tomllib
from collections import defaultdict
from dataclasses import asdict, fields, replace
from pathlib import Path
from statistics import mean

import numpy as np
import pytest

from tests.algorithms import warmup_settings, zeroth_order_settings
from zowarmup.common.directions import lanes
from zowarmup.common.grid import Grid
from zowarmup.common.layout import Block, Layout, digest
from zowarmup.common.methods import SECTIONS as ALGORITHMS
from zowarmup.common.permutation import permutation, words
from zowarmup.common.run import ClientSpec
from zowarmup.common.steps import Direction, Step, apply_steps, perturb
from zowarmup.common.submodel import half_width
from zowarmup.data import load
from zowarmup.data.card import card_of
from zowarmup.server.runfile import read_run_file
from zowarmup.server.sampling import pool_seed
from zowarmup.v1 import coordinator_pb2 as wire

REPOSITORY = Path(__file__).parents[2]
DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md"), *REPOSITORY.glob("deploy/**/*.md")])
PROTOCOL = (REPOSITORY / "docs/protocol.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """The fenced code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8"))
    inside = [link for link in links if "://" not in link]
    assert [link for link in inside if not (document.parent / link).exists()] == []


def test_the_example_loads_and_names_every_field() -> None:
    example = REPOSITORY / "examples/digits.toml"
    raw = tomllib.loads(example.read_text(encoding="utf-8"))
    assert asdict(read_run_file(example)) == raw
    for section, methods in ALGORITHMS.items():
        said = re.split(r"^(?=\[)", example.read_text(encoding="utf-8"), flags=re.MULTILINE)
        (text,) = (part for part in said if part.startswith(f"[{section}]"))
        named = set(re.findall(r"^(?:# )?(\w+) = ", text, re.MULTILINE))
        assert {field.name for settings in methods.values() for field in fields(settings)} == named


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_run_files_in_documents_load(document: Path, tmp_path: Path) -> None:
    for text in blocks(document.read_text(encoding="utf-8"), "toml"):
        (tmp_path / "run.toml").write_text(text, encoding="utf-8")
        read_run_file(tmp_path / "run.toml")


def test_no_sample_hands_out_a_line_for_long_or_for_many() -> None:
    """Whoever copies it leaves a way into the run open that nobody remembers."""
    files = [*DOCUMENTS, *(path for path in REPOSITORY.glob("deploy/**/*") if path.is_file() and path.suffix != ".pyc")]
    found = [
        (path.name, int(uses or 1), expires)
        for path in files
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"(zowarmup|zw|\$server) invite --", line)
        for uses, expires in [(_option(line, "uses", r"\d+"), _option(line, "expires", r"\w+"))]
    ]
    assert len(found) >= 8
    assert [sample for sample in found if sample[1] > 20 or sample[2] not in ("", "1d", "7d")] == []


def _option(line: str, name: str, value: str) -> str:
    matched = re.search(rf"--{name} ({value})", line)
    return matched[1] if matched else ""


# A test by its place under tests/.
NAMED = re.compile(r"`(?:tests/)?((?:[a-z_0-9]+/)*test_\w+\.py)(?:::(test_\w+))?`")
UNHINDERED = "nothing stands in the way"
ACTORS = ["A stranger", "A member", "Colluding members", "A coordinator", "An operator", "A thief of a device"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_test_that_is_named_exists(document: Path) -> None:
    for place, name in NAMED.findall(document.read_text(encoding="utf-8")):
        tree = ast.parse((REPOSITORY / "tests" / place).read_bytes())
        known = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert not name or name in known, f"{place}::{name}"


@pytest.mark.parametrize("actor", ACTORS)
def test_what_each_actor_can_and_cannot_do_is_shown_by_tests(actor: str) -> None:
    text = (REPOSITORY / "docs/security.md").read_text(encoding="utf-8")
    section = re.split(r"^##+ ", text.partition(f"\n### {actor}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    rows = re.findall(r"^\| (can|cannot) \| (.+) \| (.+) \|$", section, re.MULTILINE)
    assert [kind for kind, _, _ in rows] == sorted(kind for kind, _, _ in rows)
    assert {kind for kind, _, _ in rows} == {"can", "cannot"}
    for kind, what, shown in rows:
        tests = [name for _, name in NAMED.findall(shown)]
        assert (tests and all(tests)) or (kind == "can" and shown == UNHINDERED), what


def test_the_table_of_liars_is_what_was_measured() -> None:
    measured: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    with (REPOSITORY / "benchmarks/results/liars.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            measured[row["liars"], row["attack"], row["aggregate"]].append(row["accuracy"])

    def shown(liars: str, attack: str, aggregate: str) -> str:
        found = measured[liars, attack, aggregate]
        return "lost" if "lost" in found else f"{mean(map(float, found)):.1f}"

    columns = ["mean, nothing bounded", "mean and clip", "trimmed", "median"]
    method = (REPOSITORY / "docs/method.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| (\d) \| ([a-z ]+?)(?: \(.*\))? \| (.+) \| (.+) \| (.+) \| (.+) \|$", method, re.MULTILINE)
    assert len(table) == len(measured) / len(columns)
    for liars, attack, *cells in table:
        assert cells == [shown(liars, attack, column) for column in columns], (liars, attack)
    security = (REPOSITORY / "docs/security.md").read_text(encoding="utf-8")
    part = re.findall(r"^\| ([a-z][^|]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", security, re.MULTILINE)
    attacks = ["sign flip", "scaled", "random", "label flip", "count lies"]
    assert [cells for _, *cells in part] == [[shown("3", name, column) for column in columns[1:]] for name in attacks]


# Which section of docs/structure.md has a folder's files, and what it says before their names.
SECTIONS = {
    "common": ("The common files", ""),
    "common/methods": ("The common files", "methods/"),
    "common/models": ("The common files", "models/"),
    "common/tasks": ("The common files", "tasks/"),
    "data": ("The data's files", ""),
    "server": ("The server's files", ""),
    "client": ("The client's files", ""),
    "client/fleet": ("The client's files", "fleet/"),
    "cli": ("The command's files", ""),
    "cli/experiment": ("An experiment's files", ""),
}


def files_column(title: str) -> str:
    """The first column of the table in a section of docs/structure.md."""
    text = (REPOSITORY / "docs/structure.md").read_text(encoding="utf-8")
    section = text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return "\n".join(re.findall(r"^\| (`.*?`) \|", section, re.MULTILINE))


@pytest.mark.parametrize("folder", SECTIONS)
def test_the_structure_names_every_file_and_none_that_is_gone(folder: str) -> None:
    title, before = SECTIONS[folder]
    named = re.findall(rf"`{before}([a-z_]+\.py)`", files_column(title))
    assert sorted(named) == sorted(p.name for p in (REPOSITORY / folder).glob("*.py") if p.name != "__init__.py")


def test_the_protocol_names_every_call_and_every_message_of_a_stream() -> None:
    stream = [wire.ParticipateRequest.DESCRIPTOR, wire.ParticipateResponse.DESCRIPTOR]
    wanted = [f.message_type.name for message in stream for f in message.oneofs[0].fields if f.message_type]
    wanted += [method.name for service in wire.DESCRIPTOR.services_by_name.values() for method in service.methods]
    assert [name for name in wanted if not re.search(rf"\b{name}\b", PROTOCOL)] == []


def test_the_protocol_quotes_the_streams_bytes() -> None:
    rows = re.findall(r"^\| \((2\^64 - 1|\d+), (\d+)\) \| (\d+) \| ([\d ]+) \|$", PROTOCOL, re.MULTILINE)
    assert len(rows) == 4
    for seed, group, start, quoted in rows:
        expected = [int(byte) for byte in quoted.split()]
        key = (1 << 64) - 1 if seed == "2^64 - 1" else int(seed)
        assert lanes(key, int(group), int(start), len(expected)).tolist() == expected


def test_the_protocols_worked_steps_and_probe_come_out() -> None:
    begin, stepped, probed = re.findall(r"^    (-[-\d ]+\d) +digest ([0-9a-f]{32})$", PROTOCOL, re.MULTILINE)
    grid, whole, part = Grid(20), Block("all", 0, 8), Block("head", 6, 8)
    weights = (np.array(begin[0].split(), dtype=np.int64) * grid.tick).astype(np.float32)

    def quoted() -> tuple[str, str]:
        return " ".join(str(int(weight / grid.tick)) for weight in weights), digest(weights).hex()

    assert quoted() == begin
    perturb(weights, grid, Direction(7, 0, whole), 1049)
    assert quoted() == probed
    perturb(weights, grid, Direction(7, 0, whole), -1049)
    assert quoted() == begin
    apply_steps(weights, grid, [Step(7, whole, (3, -5)), Step(9, part, (100,))])
    assert quoted() == stepped


def test_the_protocols_permutation_comes_out() -> None:
    (row,) = re.findall(r"^\| (\d+) \| (\d+) \| ([0-9a-f ]+) \| ([\d ]+) \| ([\d ,]+) \|$", PROTOCOL, re.MULTILINE)
    seed, count, first, order, slices = row
    assert [f"{int(word):016x}" for word in words(int(seed), 0, 3)] == first.split()
    dealt = permutation(int(seed), 0, int(count))
    assert dealt.tolist() == [int(index) for index in order.split()]
    assert ", ".join(" ".join(map(str, part)) for part in np.array_split(dealt, 4)) == slices


def test_the_protocols_layout_is_one() -> None:
    layout = Layout.from_json(blocks(PROTOCOL, "json")[0])
    assert layout.head is not None


def test_the_protocols_spec_is_one_of_the_digits() -> None:
    text = blocks(PROTOCOL, "json")[1]
    spec, raw = ClientSpec.from_json(text), json.loads(text)
    made = card_of(load("digits:test"), "digits:test")
    assert replace(spec.card, inputs=None) == replace(made, inputs=None)
    assert spec.card.inputs and made.inputs
    assert asdict(spec.card.inputs) == pytest.approx(asdict(made.inputs))
    assert spec.pool_seed == pool_seed(0)
    assert set(raw) == set(json.loads(spec.to_json()))
    for name in ("model", "card", "warmup", "zeroth_order"):
        assert set(raw[name]) == {field.name for field in fields(getattr(spec, name))}
    settings = [replace(phase, clients_per_round=10) for phase in (spec.warmup, spec.zeroth_order)]
    assert settings == [warmup_settings(rounds=10), zeroth_order_settings(rounds=200, rate=0.3)], (
        "but for these, the defaults"
    )


def test_benchmarks_are_started_as_modules() -> None:
    """What they share with each other and the tests is found from the top of the repository only."""
    sources = [*DOCUMENTS, *REPOSITORY.glob("benchmarks/**/*.py"), REPOSITORY / "Makefile"]
    texts = [path.read_text(encoding="utf-8") for path in sources]
    assert [text for text in texts if re.search(r"python benchmarks/\w+\.py", text)] == []
    named = {name for text in texts for name in re.findall(r"python -m benchmarks\.(\w+)", text)}
    assert {"variants", "liars"} <= named
    there = {path.stem for path in (REPOSITORY / "benchmarks").iterdir()}
    assert named - there == set()


def test_the_protocols_half_width_part() -> None:
    layout = Layout.from_json(blocks(PROTOCOL, "json")[0])
    part = half_width(layout).layout
    assert f"Of the layout above the part has {part.size:,} of {layout.size:,} weights" in PROTOCOL
    for whole, mine in zip(layout.tensors, part.tensors, strict=True):
        cells = [f"{', '.join(map(str, tensor.shape))} at {tensor.start}" for tensor in (whole, mine)]
        assert f"| `{whole.name}` | {cells[0]} | {cells[1]} |" in PROTOCOL

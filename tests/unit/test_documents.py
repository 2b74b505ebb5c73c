"""The documents say what is true: links lead somewhere, run files load, worked examples come out."""

import ast
import csv
import json
import re
import runpy
import tomllib
from collections import defaultdict
from dataclasses import asdict, fields, replace
from pathlib import Path
from statistics import mean

import numpy as np
import pytest

from deploy.commands.described import page
from deploy.commands.parsers import parsers
from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.documents import DOCUMENTS, REPOSITORY
from tests.documents import blocks as blocks_of
from zowarmup.common.algorithms import SECTIONS as ALGORITHMS
from zowarmup.common.exact.directions import lanes, permutation, words
from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.layout import Block, Layout, digest
from zowarmup.common.exact.steps import Direction, Step, apply_steps, perturb
from zowarmup.common.exact.submodel import half_width
from zowarmup.common.settings.run import ClientSpec
from zowarmup.data import load
from zowarmup.data.card import card_of
from zowarmup.server.core.sampling import pool_seed
from zowarmup.server.setup.run_file import read_run_file
from zowarmup.v1 import coordinator_pb2 as wire

PROTOCOL = (REPOSITORY / "docs/protocol.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """The fenced code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8"))
    inside = [link for link in links if "://" not in link]
    assert [link for link in inside if not (document.parent / link).exists()] == []


def test_every_document_is_in_the_sites_navigation_and_every_page_among_those_that_say_what_is_where() -> None:
    named = re.findall(r": ([\w./-]+\.md)$", (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(named) == sorted(path.relative_to(REPOSITORY).as_posix() for path in DOCUMENTS)
    index = (REPOSITORY / "docs/index.md").read_text(encoding="utf-8")
    pages = {path.name for path in REPOSITORY.glob("docs/*.md")} - {"index.md"}
    assert [name for name in sorted(pages) if f"]({name}" not in index] == []


def test_the_page_of_commands_is_what_the_commands_say() -> None:
    said = (REPOSITORY / "docs/commands.md").read_text(encoding="utf-8")
    assert said == page(parsers()), "docs/commands.md: run `make commands`"


def test_the_example_loads_and_names_every_field() -> None:
    example = REPOSITORY / "examples/digits.toml"
    raw = tomllib.loads(example.read_text(encoding="utf-8"))
    assert json.loads(json.dumps(asdict(read_run_file(example)))) == raw
    for section, methods in ALGORITHMS.items():
        said = re.split(r"^(?=\[)", example.read_text(encoding="utf-8"), flags=re.MULTILINE)
        (text,) = (part for part in said if part.startswith(f"[{section}]"))
        named = set(re.findall(r"^(?:# )?(\w+) = ", text, re.MULTILINE))
        assert {field.name for settings in methods.values() for field in fields(settings)} == named


@pytest.mark.parametrize("plugin", ["majority_vote", "regression"])
def test_the_run_files_of_the_plugins_load_and_their_commands_name_them(
    plugin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = REPOSITORY / "examples/plugins"
    monkeypatch.syspath_prepend(str(folder))
    run = read_run_file(folder / f"{plugin}.toml")
    (name,) = (name for name in (run.zeroth_order.algorithm, run.model.task) if name.startswith(f"{plugin}:"))
    said = (folder / f"{plugin}.py").read_text(encoding="utf-8")
    assert f"zowarmup-server examples/plugins/{plugin}.toml" in said and said.count(f"--allow-model {name}") == 2
    assert f"--server {run.server.address}" in said


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


def test_every_room_and_every_file_says_what_it_is() -> None:
    printed = runpy.run_path(str(REPOSITORY / "docs/files.py"))
    rooms = list(printed["rooms"]())
    assert len(rooms) > 20 and sum(len(files) for _, _, files in rooms) > 100
    silent = [room for room, about, _ in rooms if not about.endswith(".")]
    silent += [f"{room}/{name}" for room, _, files in rooms for name, about in files if not about.endswith(".")]
    assert silent == []


def test_the_table_of_rooms_is_what_docstrings_and_rules_say() -> None:
    made = runpy.run_path(str(REPOSITORY / "docs/files.py"))["with_table"]
    structure = (REPOSITORY / "docs/structure.md").read_text(encoding="utf-8")
    assert structure == made(structure), "docs/structure.md: run `make docs`"


ROOMS = ("common", "data", "server", "client", "cli", "lab", "api")
TOPS = (*ROOMS, "proto", "deploy", "benchmarks", "tests", "docs", "examples")
PATH = re.compile(rf"(?<![\w./-])(?:{'|'.join(TOPS)})/[\w./-]*\w")
FILE = re.compile(r"`([a-z0-9_]+\.(?:py|md|toml|proto|sh))`")
MODULE = re.compile(rf"\bzowarmup\.((?:{'|'.join(ROOMS)})(?:\.\w+)*)")


def exists(path: str) -> bool:
    """From the top of the repository, or of tests/."""
    return (REPOSITORY / path).exists() or (REPOSITORY / "tests" / path).exists()


def is_a_file(name: str) -> bool:
    """At the top of the repository or anywhere in its folders."""
    return (REPOSITORY / name).exists() or any(any(REPOSITORY.glob(f"{top}/**/{name}")) for top in TOPS)


def is_defined(dotted: str) -> bool:
    """A module, a room, or what one of them has."""
    path, _, name = dotted.replace(".", "/").rpartition("/")
    files = (REPOSITORY / f"{path}.py", REPOSITORY / path / "__init__.py")
    inside = any(file.exists() and re.search(rf"\b{name}\b", file.read_text(encoding="utf-8")) for file in files)
    return inside or exists(f"{path}/{name}".lstrip("/")) or exists(f"{path}/{name}.py".lstrip("/"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_path_and_module_that_is_named_exists(document: Path) -> None:
    lines = document.read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if "in its repository" not in line)
    missing = {path for path in PATH.findall(text) if not exists(path)}
    saved = {block.title for block in blocks_of(document)}  # by who reads the page
    missing |= {name for name in FILE.findall(text) if name not in saved and not is_a_file(name)}
    missing |= {dotted for dotted in MODULE.findall(text) if not is_defined(dotted)}
    assert missing == set()


def test_the_glossary_is_in_order_and_its_names_are_where_it_says() -> None:
    section = (
        (REPOSITORY / "docs/structure.md").read_text(encoding="utf-8").partition("## Glossary")[2].partition("\n## ")[0]
    )
    rows = re.findall(r"^\| ([a-z -]+) \| (.+) \| (.+) \|$", section, re.MULTILINE)[1:]
    terms = [term for term, _, _ in rows]
    assert len(terms) > 50 and terms == sorted(set(terms))
    for term, _, place in rows:
        lives = re.findall(r"`(\w+)` \(`([\w/]+\.py)`\)", place)
        assert lives, term
        for name, file in lives:
            assert re.search(rf"\b{name}\b", (REPOSITORY / file).read_text(encoding="utf-8")), (term, name, file)


def test_the_symbols_of_the_method_are_where_the_table_says() -> None:
    section = (
        (REPOSITORY / "docs/method.md").read_text(encoding="utf-8").partition("## Symbols")[2].partition("\n## ")[0]
    )
    rows = re.findall(r"^\| ([^`|]+) \| ([^`|]+) \| (.+) \|$", section, re.MULTILINE)[1:]
    assert len(rows) > 15
    for symbol, _, places in rows:
        for names, file in re.findall(r"((?:`\w+`(?:, )?)+) \(`([\w/]+\.py)`\)", places) or [pytest.fail(symbol)]:
            text = (REPOSITORY / file).read_text(encoding="utf-8")
            assert [name for name in re.findall(r"`(\w+)`", names) if not re.search(rf"\b{name}\b", text)] == [], symbol


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

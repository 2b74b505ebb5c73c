"""The public package: its names are there, cost nothing until they are used, and suffice for an algorithm or a task of one's
own."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import zowarmup

REPOSITORY = Path(__file__).parents[2]
SOURCE = (REPOSITORY / "public.py").read_text(encoding="utf-8")


def modules_loaded(code: str) -> set[str]:
    """What a fresh interpreter has loaded after `code`."""
    show = f"{code}\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", show], check=True, capture_output=True, text=True, timeout=120)
    return set(done.stdout.split())


def public_names() -> dict[str, tuple[str, str]]:
    """The module of each, and its name there."""
    return {
        alias.asname or alias.name: (node.module or "", alias.name)
        for node in ast.walk(ast.parse(SOURCE))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("zowarmup.")
        for alias in node.names
    }


def test_every_name_is_what_its_type_says() -> None:
    assert sorted(public_names()) == sorted(zowarmup.__all__) == dir(zowarmup)
    for name, (module, inside) in public_names().items():
        assert getattr(zowarmup, name) is getattr(importlib.import_module(module), inside), name


def annotations(node: ast.AST) -> Iterator[ast.expr]:
    """Of what is public in a class or function, and of an alias what it stands for."""
    match node:
        case ast.FunctionDef():
            arguments = (
                *node.args.posonlyargs,
                *node.args.args,
                *node.args.kwonlyargs,
                node.args.vararg,
                node.args.kwarg,
            )
            yield from (argument.annotation for argument in arguments if argument and argument.annotation)
            if node.returns:
                yield node.returns
        case ast.ClassDef():
            yield from node.bases
            for inside in node.body:
                match inside:
                    case ast.FunctionDef() if inside.name.strip("_") == inside.name or inside.name == "__init__":
                        yield from annotations(inside)
                    case ast.AnnAssign(target=ast.Name(id=name)) if not name.startswith("_"):
                        yield inside.annotation
        case ast.Assign():
            yield node.value


def names_in(annotation: ast.expr) -> Iterator[str]:
    for node in ast.walk(annotation):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from re.findall(r"\w+", node.value)


@pytest.mark.parametrize("name", [name for name in zowarmup.__all__ if name != "__version__"])
def test_what_a_public_name_is_annotated_with_is_public(name: str) -> None:
    tree = ast.parse(
        (REPOSITORY / (public_names()[name][0].replace(".", "/").replace("zowarmup/", "", 1) + ".py")).read_text()
    )
    ours: dict[str, ast.AST] = {}
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(module)) if module.startswith("zowarmup."):
                ours |= {alias.name: node for alias in node.names}
    for node in tree.body:
        match node:
            case ast.ClassDef() | ast.FunctionDef():
                ours[node.name] = node
            case ast.Assign(targets=[ast.Name(id=alias)]):
                ours[alias] = node
    inside = {public_names()[name][1] for name in zowarmup.__all__}
    used = {used for annotation in annotations(ours[public_names()[name][1]]) for used in names_in(annotation)}
    assert used & ours.keys() <= {*zowarmup.__all__, *inside}


def test_what_is_not_public_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="module 'zowarmup' has no attribute 'Nothing'"):
        _ = zowarmup.Nothing  # type: ignore[attr-defined]


def test_the_package_loads_nothing_until_a_name_is_used_and_torch_never() -> None:
    at_first = modules_loaded("import zowarmup")
    assert {name for name in at_first if name.startswith("zowarmup")} == {"zowarmup"}
    assert not at_first & {"numpy", "grpc", "google.protobuf", "onnxruntime", "torch"}
    assert not modules_loaded("from zowarmup import *") & {"grpc", "onnxruntime", "torch"}


@pytest.mark.parametrize("example", ["majority_vote", "regression"])
def test_an_algorithm_and_a_task_need_no_other_names(example: str) -> None:
    plugin = ast.parse((REPOSITORY / f"examples/plugins/{example}.py").read_text(encoding="utf-8"))
    modules = {node.module for node in ast.walk(plugin) if isinstance(node, ast.ImportFrom)}
    assert {module for module in modules if module and module.startswith("zowarmup")} == {"zowarmup"}


def test_what_is_inside_says_so() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    for room in project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]:
        said = ast.get_docstring(ast.parse((REPOSITORY / room / "__init__.py").read_text(encoding="utf-8"))) or ""
        assert "Internal: what is public is in `zowarmup`." in said, room

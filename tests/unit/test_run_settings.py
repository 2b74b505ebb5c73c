"""What a run file must say, and what clients are sent of it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from zowarmup.cli.experiment.table import read_table
from zowarmup.cli.failure import Usage
from zowarmup.common.data_card import DataCard
from zowarmup.common.run import ClientSpec, Model, WarmUp, ZerothOrder
from zowarmup.server.runfile import RunFileError, read_run_file, run_file_of
from zowarmup.server.sampling import pool_seed

RAW: dict[str, Any] = {
    "name": "x",
    "model": {"name": "mlp"},
    "warmup": {"rounds": 1},
    "zeroth_order": {"rounds": 1},
    "evaluation": {"data": "digits:test"},
}
SPEC = ClientSpec(
    model=Model(name="cnn"),
    card=DataCard(classes=2, shape=(3, 8, 8), class_names=("chat", "zèbre"), element="uint8", scale=255.0),
    warmup=WarmUp(rounds=1),
    zeroth_order=ZerothOrder(rounds=2),
    pool_seed=pool_seed(0),
)


@pytest.mark.parametrize(
    ("evaluation", "field"), [(None, "evaluation"), ({}, "evaluation.data"), ({"every": 5}, "evaluation.data")]
)
def test_a_run_without_a_held_out_set_is_refused_by_name(evaluation: Any, field: str) -> None:
    raw = {**RAW, "evaluation": evaluation} if evaluation is not None else {k: RAW[k] for k in RAW if k != "evaluation"}
    assert run_file_of(RAW, "run.toml").evaluation.data == "digits:test"
    with pytest.raises(RunFileError) as refused:
        run_file_of(raw, "run.toml")
    assert str(refused.value) == (
        f'run.toml: {field} is missing: name the held-out set, such as data = "npz:held-out.npz" under [evaluation]'
    )


def test_what_clients_are_sent_survives_readers_whose_numbers_are_float64() -> None:
    """JavaScript's, jq's and many others'. A seed that lost its last bits would probe other directions, unnoticed."""
    assert SPEC.pool_seed > 1 << 53
    as_floats = json.loads(SPEC.to_json(), parse_int=lambda digits: int(float(digits)))
    assert ClientSpec.from_json(json.dumps(as_floats)) == SPEC == ClientSpec.from_json(SPEC.to_json())


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("pool_seed", 7, "pool_seed = 7: must be a string of digits"),
        ("pool_seed", str(1 << 64), "below 2"),
        ("pool_seed", "-1", "pool_seed"),
        ("card", None, "run spec: card: "),
        ("card", {}, "run spec: card: "),
        ("model", {"name": "mlp", "colour": 1}, "no field 'colour'"),
        ("warmup", [], "run spec"),
    ],
)
def test_a_spec_that_is_none_is_refused_by_field(field: str, value: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ClientSpec.from_json(json.dumps({**json.loads(SPEC.to_json()), field: value}))
    assert ClientSpec.from_json(replace(SPEC, pool_seed=0).to_json()).pool_seed == 0


def test_a_file_that_is_nested_without_end_is_one_sentence(tmp_path: Path) -> None:
    deep = tmp_path / "deep.toml"
    deep.write_text("a = " + "[" * 50_000 + "]" * 50_000)
    with pytest.raises(RunFileError, match=r"deep\.toml: is nested more than 16 deep"):
        read_run_file(deep)
    with pytest.raises(Usage, match=r"deep\.toml: is nested more than 16 deep"):
        read_table(deep)

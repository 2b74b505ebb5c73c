"""What a run file must say, and what clients are sent of it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.language import DECODER
from tests.tasks import scored
from zowarmup.common.algorithms import SECTIONS
from zowarmup.common.lora import Lora
from zowarmup.common.settings.architecture import Architecture
from zowarmup.common.settings.data_card import DataCard
from zowarmup.common.settings.language import Language
from zowarmup.common.settings.run import ClientSpec, Model
from zowarmup.common.system.command import Usage
from zowarmup.lab.experiments.table import read_table
from zowarmup.server.core import events as ev
from zowarmup.server.core.sampling import pool_seed
from zowarmup.server.setup.run_file import RunFileError, read_run_file, run_file_of
from zowarmup.server.store.ledger import Ledger

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
    warmup=warmup_settings(rounds=1),
    zeroth_order=zeroth_order_settings(rounds=2),
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


def test_verbalizers_are_a_language_models_and_travel() -> None:
    text = {"verbalizers": [" bad", " good"]}
    with pytest.raises(
        RunFileError, match=r"run.toml: text.verbalizers = \[' bad', ' good'\]: must be empty where model.name"
    ):
        run_file_of({**RAW, "text": text}, "run.toml")
    run = run_file_of({**RAW, "model": {"name": "hf:smollm2"}, "text": text}, "run.toml")
    spec = ClientSpec.of(run, DataCard(classes=2, shape=(9,), axes=("tokens",), element="token"), 0)
    assert ClientSpec.from_json(spec.to_json()).text == run.text


def test_completions_are_a_decoders_and_train_what_is_said() -> None:
    task = {"name": "hf:smollm2", "task": "completion"}
    with pytest.raises(RunFileError, match=r"model.task = 'completion': must be another, or model.name a decoder"):
        run_file_of({**RAW, "model": {"name": "mlp", "task": "completion"}}, "run.toml")
    with pytest.raises(RunFileError, match=r"zeroth_order.train = 'auto': must be \"lora:r=8,modules=q,v\" or another"):
        run_file_of({**RAW, "model": task}, "run.toml")
    adapters = {**RAW["zeroth_order"], "train": "lora:r=4,modules=v"}
    run = run_file_of({**RAW, "model": task, "zeroth_order": adapters}, "run.toml")
    architecture = Architecture.from_config(json.dumps(DECODER))
    card = DataCard(classes=0, target_size=1, shape=(9,), axes=("tokens",), element="token")
    spec = ClientSpec.from_json(ClientSpec.of(run, card, 0, architecture).to_json())
    assert spec.language == Language(architecture=architecture, lora=Lora(4, ("v",)), completes=True)
    chosen = {**task, "task": "multiple_choice"}
    run = run_file_of({**RAW, "model": chosen, "zeroth_order": adapters}, "run.toml")
    card = DataCard(classes=3, shape=(3, 9), axes=("choices", "tokens"), element="token")
    spec = ClientSpec.from_json(ClientSpec.of(run, card, 0, architecture).to_json())
    assert spec.language is not None and (spec.language.completes, spec.language.choices) == (True, 3)
    for more, said in (
        ({"text": {"verbalizers": [" bad", " good"]}}, "text.verbalizers = .*must be empty with model.task"),
        ({"zeroth_order": {"algorithm": "fedspzo", "rounds": 3, "cut": 1}}, "zeroth_order.cut = 1: must be left out"),
    ):
        with pytest.raises(RunFileError, match=said):
            run_file_of({**RAW, "model": chosen, "zeroth_order": adapters, **more}, "run.toml")


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


def test_a_section_that_is_missing_or_misspelt_is_named() -> None:
    raw = {name: value for name, value in RAW.items() if name != "warmup"}
    with pytest.raises(RunFileError, match="warmup is missing"):
        run_file_of(raw, "run.toml")
    with pytest.raises(RunFileError, match="war-up"):
        run_file_of({**raw, "war-up": {"rounds": 1}}, "run.toml")


def test_a_file_that_is_nested_without_end_is_one_sentence(tmp_path: Path) -> None:
    deep = tmp_path / "deep.toml"
    deep.write_text("a = " + "[" * 50_000 + "]" * 50_000)
    with pytest.raises(RunFileError, match=r"deep\.toml: is nested more than 16 deep"):
        read_run_file(deep)
    with pytest.raises(Usage, match=r"deep\.toml: is nested more than 16 deep"):
        read_table(deep)


@pytest.mark.parametrize(
    ("section", "settings", "sentence"),
    [
        (
            "warmup",
            {"beta1": 0.5},
            'run.toml: warmup.beta1 is not a setting of algorithm "fedavg"; allowed here: algorithm, rounds',
        ),
        ("warmup", {"algorithm": "heterofl", "tau": 0.5}, 'warmup.tau is not a setting of algorithm "heterofl"'),
        (
            "warmup",
            {"algorithm": "fedavgm"},
            "warmup.algorithm = 'fedavgm': must be 'fedavg', 'fedadam', 'fedyogi', 'heterofl' or package.module:Algorithm",
        ),
        ("warmup", {"algorithm": 3}, "warmup.algorithm = 3: must be"),
        ("warmup", {"rounds": "3"}, "warmup.rounds = '3': input should be a valid integer"),
        ("warmup", {"rate": -1.0}, "warmup.rate = -1.0: must be above 0"),
        ("warmup", {"pivot": "soon"}, "warmup.pivot = 'soon': must be 'rounds' or 'auto'"),
        ("zeroth_order", {"trim": 0.1}, 'zeroth_order.trim is not a setting of algorithm "zowarmup"'),
        ("zeroth_order", {"algorithm": "mixed", "gradient_projections": 3}, 'not a setting of algorithm "mixed"'),
        (
            "zeroth_order",
            {"algorithm": "decomfl", "aggregate": "median"},
            "zeroth_order.weighting = 'examples': must be",
        ),
    ],
)
def test_a_setting_that_does_not_belong_is_refused_by_name(
    section: str, settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(RunFileError) as refused:
        run_file_of({**RAW, section: {"rounds": 1, **settings}}, "run.toml")
    assert sentence in str(refused.value)


def test_settings_do_not_go_by_anothers_name() -> None:
    run = run_file_of(RAW, "run.toml")
    with pytest.raises(ValueError, match=r"warmup.algorithm = 'heterofl': must be that of FedAvgSettings"):
        replace(run, warmup=replace(run.warmup, algorithm="heterofl"))


def test_only_a_language_model_is_cut() -> None:
    raw = {**RAW, "zeroth_order": {"algorithm": "fedspzo", "rounds": 3, "cut": 1}}
    with pytest.raises(
        RunFileError, match=r"zeroth_order.cut = 1: must be left out with another model than a language"
    ):
        run_file_of(raw, "run.toml")


def test_a_section_is_a_table() -> None:
    with pytest.raises(RunFileError, match="zeroth_order = 3: must be a table"):
        run_file_of({**RAW, "zeroth_order": 3}, "run.toml")


def test_each_algorithm_comes_back_from_what_is_written_of_it(tmp_path: Path) -> None:
    """The ledger's form, and what clients are sent."""
    for section, algorithms in SECTIONS.items():
        for algorithm in algorithms:
            own: dict[str, Any] = {"pool": 7} if algorithm == "fedkseed" else {}
            own |= {"server_rate": 0.5} if algorithm in ("fedadam", "fedyogi") else {}
            own |= {"cut": 1} if algorithm == "fedspzo" else {}
            model = {"model": {"name": "hf:small"}} if "cut" in own else {}
            run = run_file_of({**RAW, **model, section: {"algorithm": algorithm, "rounds": 3, **own}}, "run.toml")
            program = ev.ProgramRecord("", 0, "", DataCard(shape=(1,), classes=2), 0, 0, *scored(2))
            created = ev.RunCreated("id", run, program, ev.Snapshot(0, "", 20, "d0"))
            ledger = Ledger(tmp_path / algorithm)
            ledger.append([created], 0.0, 0)
            assert [event for _, event in ledger.read()] == [created]
            ledger.close()
            spec = replace(SPEC, warmup=run.warmup, zeroth_order=run.zeroth_order)
            assert ClientSpec.from_json(spec.to_json()) == spec
            assert type(spec.phases[section == "zeroth_order"]) is algorithms[algorithm]

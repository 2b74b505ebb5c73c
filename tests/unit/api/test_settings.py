"""Settings from whatever a caller has; and that everyone takes part where nothing else is said."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from torch import nn

from zowarmup.api.errors import SettingsError
from zowarmup.api.here import forget, is_here, object_of
from zowarmup.api.settings import GIVEN, Wanted, code_of, model_name, require_importable, run_of, warm_up, zeroth_order
from zowarmup.common.algorithms.fedavg import FedAvgSettings
from zowarmup.common.algorithms.zowarmup import ZOWarmUp, ZOWarmUpSettings
from zowarmup.common.messages.values import Tier
from zowarmup.common.tasks.classification import Classification
from zowarmup.lab.demo.models import DemoModel
from zowarmup.lab.demo.settings import demo_run, to_toml

FLEET = {Tier.HIGH: 2, Tier.LOW: 3}
TABLES = Wanted(model="mlp", held_out="digits:test", warmup={"rounds": 2}, zeroth_order={"rounds": 3})


def test_what_is_not_said_is_that_everyone_takes_part_and_is_waited_for() -> None:
    run = run_of(TABLES, FLEET)
    assert (run.warmup.clients_per_round, run.zeroth_order.clients_per_round) == (2, 5)
    assert (run.warmup.minimum_clients, run.zeroth_order.minimum_clients) == (2, 5)
    assert (run.warmup.quorum, run.zeroth_order.learn_deadline, run.draws) == (1.0, False, "seed")
    both = run_of(replace(TABLES, warmup={"rounds": 2, "algorithm": "heterofl"}), FLEET)
    assert both.warmup.clients_per_round == 5, "in HeteroFL's warm-up the low tier trains, too"
    some = run_of(replace(TABLES, zeroth_order={"rounds": 3, "clients_per_round": 4, "quorum": 0.5}), FLEET)
    assert (some.zeroth_order.clients_per_round, some.zeroth_order.quorum) == (4, 0.5)
    assert some.zeroth_order.minimum_clients == 5, "so that whom a round draws does not depend on who came first"
    assert run_of(TABLES).zeroth_order.quorum == 0.8, "nobody knows who will come"


def test_an_object_and_a_file_say_all(tmp_path: Path) -> None:
    demo = demo_run(0, DemoModel.MLP, 2, 3)
    (tmp_path / "run.toml").write_text(to_toml(demo))
    for whole in (demo, tmp_path / "run.toml", str(tmp_path / "run.toml")):
        assert run_of(Wanted(run=whole), FLEET) == demo
    other = run_of(Wanted(run=demo, seed=4, evaluate_every=7, held_out=object(), zeroth_order={"rounds": 9}), FLEET)
    assert (other.seed, other.evaluation.every, other.evaluation.data) == (4, 7, GIVEN)
    assert (other.warmup, other.zeroth_order.rounds, other.zeroth_order.clients_per_round) == (demo.warmup, 9, 5)
    phases = FedAvgSettings(rounds=1, clients_per_round=1), ZOWarmUpSettings(rounds=2, clients_per_round=5)
    typed = run_of(replace(TABLES, warmup=phases[0], zeroth_order=phases[1]), FLEET)
    assert (typed.warmup, typed.zeroth_order) == phases


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        (replace(TABLES, warmup={"round": 2}), "settings: warmup.round is not a setting of algorithm"),
        (replace(TABLES, warmup={"rounds": -1}), "settings: warmup.rounds = -1: must be 0 to"),
        (replace(TABLES, model="nothing"), "settings: model.name = 'nothing': must be"),
        (replace(TABLES, held_out=None), "settings: evaluation.data is missing"),
        (replace(TABLES, zeroth_order={"rounds": 1, "algorithm": "none"}), "settings: zeroth_order.algorithm = 'none'"),
        (Wanted(model="mlp", held_out="digits:test"), "there are no rounds: give warmup"),
        (Wanted(run=7), "run is a int: must be a path, tables as in a run file, or a zowarmup.RunFile"),  # type: ignore[arg-type]
        (Wanted(run="nowhere.toml"), "nowhere.toml"),
        (replace(TABLES, model=7), "model is a int: must be a name, a torch module, or a function"),  # type: ignore[arg-type]
        (
            replace(TABLES, warmup=FedAvgSettings(rounds=1)),
            "warmup.clients_per_round = 10: its rounds would never open, as there are 2 high-tier clients",
        ),
        (
            replace(TABLES, zeroth_order={"rounds": 1, "minimum_clients": 6}),
            "zeroth_order.minimum_clients = 6: its rounds would never open, as there are 5 clients",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(wanted: Wanted, sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence.replace("(", r"\(")):
        run_of(wanted, FLEET)


def test_phases_are_objects_too() -> None:
    made = zeroth_order("decomfl", rounds=4, clients_per_round=2)
    assert made.algorithm == "decomfl" and made.rounds == 4
    assert type(zeroth_order(Mine, rounds=2)) is MineSettings
    assert warm_up(rounds=3) == FedAvgSettings(rounds=3)
    wrong: dict[str, dict[str, Any]] = {
        "rounds = -1: must be 0 to": {"rounds": -1},
        "probe is not a setting; allowed are": {"rounds": 1, "probe": 3},
        "missing 1 required keyword-only argument: 'rounds'": {},
    }
    for sentence, settings in wrong.items():
        with pytest.raises(SettingsError, match=f"zeroth_order: .*{sentence}"):
            zeroth_order(**settings)
    with pytest.raises(SettingsError, match="warmup: algorithm = 'none': must be 'fedavg'"):
        warm_up("none", rounds=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class MineSettings(ZOWarmUpSettings):
    algorithm: str = "mine"  # type: ignore[assignment]


class Mine(ZOWarmUp):
    Settings: ClassVar = MineSettings


def local() -> tuple[type[Any], nn.Module]:
    class Alone(Mine):
        pass

    return Alone, nn.Linear(3, 2)


def test_code_may_be_an_object() -> None:
    run = run_of(replace(TABLES, task=Classification, zeroth_order={"rounds": 1, "algorithm": Mine}), FLEET)
    assert run.model.task == "zowarmup.common.tasks.classification:Classification"
    assert object_of(run.zeroth_order.algorithm) is Mine and type(run.zeroth_order) is MineSettings
    alone, module = local()
    here = run_of(replace(TABLES, model=module, zeroth_order={"rounds": 1, "algorithm": alone}), FLEET)
    assert set(code_of(here)) == {here.model.name, here.zeroth_order.algorithm} and all(map(is_here, code_of(here)))
    with pytest.raises(
        SettingsError, match="Linear is defined where no other process can import it: put it into a module"
    ):
        require_importable(here)
    made = object_of(here.model.name)((3,), 2)
    assert made is not module and (made.weight == module.weight).all()
    forget(here.model.name)
    with pytest.raises(AttributeError, match="was an object of another process"):
        object_of(here.model.name)
    assert model_name(nn.Linear) == "torch.nn.modules.linear:Linear"
    name = model_name(lambda shape, outputs: module)
    assert is_here(name), "a function without a name"
    forget(name)

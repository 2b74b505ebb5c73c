"""Algorithms outside the package: whose code is imported, and what the one in examples/plugins does."""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from tests import aggregating
from tests.faults.small import LAYOUT
from tests.unit.common.settings.test_run import RAW, SPEC
from zowarmup.common.algorithms import settings_class
from zowarmup.common.algorithms.protocol import ClientScalars
from zowarmup.common.exact.grid import Grid
from zowarmup.common.messages.values import Scalars
from zowarmup.common.plugin import NotAllowed, belongs_to
from zowarmup.common.settings.run import ClientSpec
from zowarmup.common.text import where
from zowarmup.server.setup.run_file import RunFileError, run_file_of

NAME = "majority_vote:MajorityVote"
PLUGINS = Path(__file__).parents[4] / "examples/plugins"
TRAP = """
class Trap:
    class Settings:
        pass
raise RuntimeError("it runs")
"""


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(PLUGINS))
    return settings_class("zeroth_order", NAME)(algorithm=NAME, rounds=10, probes=3, rate=0.4)  # type: ignore[call-arg]


def test_code_that_is_not_allowed_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "trap.py").write_text(TRAP)
    said = json.loads(SPEC.to_json())
    said["zeroth_order"] = {"algorithm": "trap:Trap", "rounds": 1}
    for allowed in ((), ("mlp", "trap:Other", "trap", "other:Trap")):
        with pytest.raises(NotAllowed, match="the code of algorithm trap:Trap is not allowed here"):
            ClientSpec.from_json(json.dumps(said), allowed)
    assert "trap" not in sys.modules
    with pytest.raises(ValueError, match=r"trap:Trap.*cannot be imported: RuntimeError: it runs \(.*trap.py, line 5\)"):
        ClientSpec.from_json(json.dumps(said), ("trap:Trap",))


def test_a_name_that_is_no_algorithm_is_refused_in_a_sentence(plugin: Any) -> None:
    for section, name, sentence in (
        ("warmup", NAME, "its Settings must be a WarmUp, for rounds of [warmup]"),
        ("zeroth_order", "majority_vote:Nobody", "cannot be imported: AttributeError"),
        (
            "zeroth_order",
            "no_such_module:X",
            "cannot be imported: ModuleNotFoundError: No module named 'no_such_module' (is its folder on PYTHONPATH?)",
        ),
        ("zeroth_order", "json:JSONDecoder", "has no `Settings`, the class of its settings"),
    ):
        with pytest.raises(RunFileError) as refused:
            run_file_of({**RAW, section: {"rounds": 1, "algorithm": name}}, "run.toml")
        assert sentence in str(refused.value) and str(refused.value).startswith(
            f"run.toml: {section}.algorithm = '{name}'"
        )


HALF = """
from dataclasses import dataclass
from zowarmup import Algorithm, ZerothOrder
from majority_vote import MajorityVote, MajorityVoteSettings

class Bare(Algorithm):
    class Settings(MajorityVoteSettings): pass

class Unsettled(MajorityVote):
    class Settings(ZerothOrder): pass

class Stranger:
    class Settings(MajorityVoteSettings): pass
    def aggregate(self, start, contributions): pass
"""


def test_what_an_algorithm_or_its_settings_lack_is_named(
    plugin: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "half.py").write_text(HALF)
    for name, sentence in (
        ("Bare", "Bare has no `aggregate`, `check`, `forwards` (zowarmup.Algorithm says what each is)"),
        ("Unsettled", "Settings has no `build`, `computation`, `slowed` (zowarmup.ZerothOrder says what each is)"),
        (
            "Stranger",
            "Stranger has no `aggregate_mean`, `answer_values`, `check`, `commit_cost`, `contribute`, `counts`, ",
        ),
    ):
        with pytest.raises(ValueError) as refused:  # noqa: PT011  (the sentence is compared)
            settings_class("zeroth_order", f"half:{name}")
        assert str(refused.value).startswith(f"algorithm = 'half:{name}': {sentence}")


def test_all_code_that_is_not_allowed_is_named_at_once() -> None:
    said = json.loads(SPEC.to_json())
    said["warmup"]["algorithm"], said["zeroth_order"]["algorithm"] = "their:First", "their:Second"
    said["model"]["task"] = "their:Task"
    for allowed, names in (
        ((), ("their:First", "their:Second", "their:Task")),
        (("their:Second",), ("their:First", "their:Task")),
    ):
        with pytest.raises(NotAllowed) as refused:
            ClientSpec.from_json(json.dumps(said), allowed)
        assert refused.value.names == names
    assert refused.value.named == "algorithm their:First and task their:Task"


def test_a_place_in_code_belongs_to_the_plugin_that_it_is_in(plugin: Any) -> None:
    with pytest.raises(AttributeError) as raised:
        plugin.build(None).contribute(None, None, None, 1, None)
    place = where(raised.value)
    assert belongs_to(NAME, place) and not belongs_to("json:JSONDecoder", place) and not belongs_to("mlp", place)
    assert not belongs_to(NAME, "")


def test_its_settings_are_checked_as_all_are(plugin: Any) -> None:
    for settings, sentence in (
        (
            {"slices": "own"},
            f'zeroth_order.slices is not a setting of algorithm "{NAME}"; allowed here: algorithm, rounds',
        ),
        ({"probes": 0}, "zeroth_order.probes = 0: must be 1 to 4096"),
        ({"probes": "3"}, "zeroth_order.probes = '3': input should be a valid integer"),
    ):
        with pytest.raises(RunFileError) as refused:
            run_file_of({**RAW, "zeroth_order": {"rounds": 1, "algorithm": NAME, **settings}}, "run.toml")
        assert sentence in str(refused.value)
    spec = replace(SPEC, zeroth_order=plugin)
    assert ClientSpec.from_json(spec.to_json(), (NAME,)) == spec
    assert asdict(run_file_of({**RAW, "zeroth_order": asdict(plugin)}, "run.toml").zeroth_order) == asdict(plugin)


def test_a_vote_is_a_vote(plugin: Any) -> None:
    """Derivatives 5, 1 and -1e9 go up by two to one; of two that disagree nothing moves; rate 0.4 / sqrt(4) is 0.2."""
    algorithm, grid = replace(plugin, probes=4).build(LAYOUT), Grid(18)
    parts = [
        ClientScalars(7, 10, Scalars(1, derivatives, ()))
        for derivatives in ((5.0, 1.0, -2.0, 0.0), (1.0, 1.0, -1.0, 3.0), (-1e9, 1.0, 0.0, -1e9))
    ]
    (step,) = aggregating.steps(algorithm, grid, 0, parts)
    assert [tick * grid.tick for tick in step.ticks] == pytest.approx([-0.2, -0.2, 0.2, 0.0], abs=grid.tick)
    (later,) = aggregating.steps(algorithm, grid, 5, parts)
    assert later.ticks[0] * grid.tick == pytest.approx(-0.1, abs=grid.tick)

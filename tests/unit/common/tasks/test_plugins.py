"""Tasks outside the package: whose code is imported, and what is refused."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.common.settings.test_run import RAW, SPEC
from zowarmup.common.plugin import NotAllowed
from zowarmup.common.settings.run import ClientSpec, Model
from zowarmup.common.tasks.protocol import Metric
from zowarmup.server.setup.run_file import RunFileError, run_file_of

NAME = "regression:Regression"
PLUGINS = Path(__file__).parents[4] / "examples/plugins"


def test_code_that_is_not_allowed_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "trap_task.py").write_text('raise RuntimeError("it runs")\n')
    said = replace(SPEC, model=replace(SPEC.model, task="trap_task:Trap")).to_json()
    for allowed in ((), ("mlp", "trap_task:Other", "trap_task", "other:Trap")):
        with pytest.raises(NotAllowed, match="the code of task trap_task:Trap is not allowed here"):
            ClientSpec.from_json(said, allowed)
    assert "trap_task" not in sys.modules
    with pytest.raises(ValueError, match=r"cannot be imported: RuntimeError: it runs \(.*trap_task.py, line 1\)"):
        ClientSpec.from_json(said, ("trap_task:Trap",))


HALF = """
from regression import Regression
from zowarmup import Task

class Half(Task):
    def check(self, targets): pass
    def losses(self, outputs, batch): pass
    def measure(self, outputs, batch): pass
    @property
    def outputs(self): return 1

class Unmeasured(Regression):
    metrics = ()
"""


def test_a_name_that_is_no_task_is_refused_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PLUGINS))
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "half_task.py").write_text(HALF)
    for name, sentence in (
        ("regression:Nobody", "cannot be imported: AttributeError"),
        ("no_such_module:X", "cannot be imported: ModuleNotFoundError: No module named 'no_such_module'"),
        ("json:JSONDecoder", "JSONDecoder has no `baseline`, `check`, `evaluate`, "),
        ("half_task:Half", "Half has no `baseline`, `loss_and_output_gradient`, `torch_loss` (zowarmup.Task says"),
        ("half_task:Unmeasured", "it must have at least one Metric in `metrics`"),
        ("guessing", """must be "classification", "completion", "multiple_choice" or "package.module:Task\""""),
    ):
        with pytest.raises(RunFileError) as refused:
            run_file_of({**RAW, "model": {"name": "mlp", "task": name}}, "run.toml")
        assert sentence in str(refused.value) and str(refused.value).startswith(f"run.toml: model.task = '{name}'")
    assert run_file_of({**RAW, "model": {"name": "mlp", "task": NAME}}, "run.toml").model.task == NAME


def test_a_task_is_made_of_the_data_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PLUGINS))
    numbers = replace(SPEC.card, classes=0, target_size=2, class_names=())
    spec = replace(SPEC, model=Model(name="mlp", task=NAME), card=numbers)
    assert ClientSpec.from_json(spec.to_json(), (NAME,)) == spec
    assert json.loads(spec.to_json())["model"]["task"] == NAME
    assert (spec.task.outputs, SPEC.task.outputs) == (2, SPEC.card.classes)
    for wrong in (replace(spec, card=SPEC.card), replace(SPEC, card=numbers)):
        with pytest.raises(ValueError, match=r"run spec: .* needs data"):
            ClientSpec.from_json(wrong.to_json(), (NAME,))


@pytest.mark.parametrize("name", ["Accuracy", "mean error", "", "loss", "é", "a" * 41])
def test_a_metric_has_a_name_that_everything_can_carry(name: str) -> None:
    with pytest.raises(ValueError, match="must be small letters"):
        Metric(name, best=1.0, higher_is_better=True)


def test_a_metric_says_which_value_is_better() -> None:
    share = Metric("accuracy", best=1.0, higher_is_better=True, share=True)
    error = Metric("mean_absolute_error", best=0.0, higher_is_better=False)
    assert (share.shown(0.9578), error.shown(0.12345), error.title) == ("95.8 %", "0.1235", "mean absolute error")
    assert share.better(0.9, 0.8) and error.better(0.8, 0.9)
    assert share.keeps(0.9, 0.9, 1.0) and not share.keeps(0.89, 0.9, 1.0)
    assert error.keeps(1.1, 0.9, 1.0) and not error.keeps(1.2, 0.9, 1.0)

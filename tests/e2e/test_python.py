"""The Python interface as programs use it: fleets in this process, real coordinators and clients beside real processes, runs
read back. Whatever way a run is made, its weights are the same bits."""

import asyncio
import doctest
import importlib
import math
import runpy
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import zowarmup as zw
from tests.language import ENCODER, language_folder
from tests.patience import PATIENCE
from tests.prepared import prepared
from tests.unit.test_documents import blocks
from zowarmup.api import (
    background,
    coordination,
    datasets,
    figure,
    folders,
    history,
    participation,
    settings,
    simulation,
    trained,
)
from zowarmup.common.algorithms.zowarmup import ZOWarmUp, ZOWarmUpSettings
from zowarmup.lab.demo.models import DemoModel
from zowarmup.lab.demo.settings import demo_run, to_toml
from zowarmup.server.store.fsck import check

REPOSITORY = Path(__file__).parents[2]
HANGS_S = 300 * PATIENCE
"""Where something takes longer, it hangs."""
SHARDS = "digits,alpha=0.5"
PHASES: dict[str, Any] = {
    "warmup": {"rounds": 2, "epochs": 1},
    "zeroth_order": {"rounds": 4, "probes": 8},
    "evaluate_every": 3,
}


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + HANGS_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> zw.TrainedRun:
    """One high-tier client and two others, in this process; what was shown meanwhile is in `said`."""
    folder = tmp_path_factory.mktemp("run")
    lines = list[str]()
    found = zw.simulate(
        "mlp", SHARDS, "digits:test", clients=3, data_dir=folder / "data", show=lines.append, name="three", **PHASES
    )
    assert lines[0] == "building the model"
    assert lines[-1].startswith("finished | accuracy ") and "at version 6 | " in lines[-1]
    return found


def test_a_run_is_a_table_weights_and_costs(run: zw.TrainedRun) -> None:
    assert (run.version, run.pivot_version, run.phase, run.name, run.gave_up) == (6, 2, zw.Phase.FINISHED, "three", "")
    rows = run.history
    assert [row.version for row in rows.evaluated] == [0, 2, 3, 6] and len(rows[:2]) == 2
    assert [row.contributions for row in rows] == [0, 1, 1, 3, 3, 3, 3]
    last = rows[-1]
    assert last.metrics["accuracy"] == run.value and last.loss is not None and last.digest == run.digest
    assert rows[3].up_bytes > rows[2].up_bytes > rows[1].up_bytes > rows[0].up_bytes == 0
    table = rows.to_dict()
    assert list(table) == ["version", "phase", "round", "contributions", "loss", "accuracy", *list(table)[6:]]
    assert {len(column) for column in table.values()} == {7} and math.isnan(table["accuracy"][1])
    assert "(7 versions, 4 of them evaluated)" in repr(rows) and "digest " + run.digest[:8] in repr(run)

    costs = run.costs
    assert costs.up_bytes() == last.up_bytes == costs.up_bytes("high") + costs.up_bytes("low")
    assert costs.up_bytes("low", "warm-up") < 1000 < costs.up_bytes("high", "warm-up"), "no more than its presence"
    assert costs.down_bytes("low", "zeroth-order") > 0 and costs.fedavg_up_bytes > costs.up_bytes()
    examples = 479
    assert costs.forwards == 2 * 3 * examples + 4 * 3 * examples, (
        "two rounds of training, four of one pass by each of three"
    )
    assert set(costs.to_dict()) == {"direction", "tier", "phase", "kind", "payload_bytes", "messages"}


def test_weights_of_any_version_are_computed_anew_and_are_those_of_a_module(run: zw.TrainedRun) -> None:
    again = zw.load_run(run.data_dir)
    assert again.digest == run.digest and again.versions == list(range(7))
    assert {name: array.shape for name, array in again.weights_at(0).items()} == {
        "1.weight": (128, 64), "1.bias": (128,), "3.weight": (10, 128), "3.bias": (10,)
    }  # fmt: skip
    assert not np.array_equal(again.weights_at(2)["3.weight"], again.weights["3.weight"])
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    test = zw.dataset("digits:test")
    for version in (2, 6):
        again.load_into(module, version)
        with torch.no_grad():
            found = module(torch.from_numpy(again.inputs(test.inputs))).argmax(dim=1).numpy()
        assert np.mean(found == test.targets) == again.history[version].metrics["accuracy"]
    with pytest.raises(zw.RunError, match="version 7 is not kept; 7 are, from 0 to 6"):
        again.weights_at(7)
    with pytest.raises(zw.RunError, match=r"the module is not one of the run's model mlp: they differ in 1\.bias"):
        again.load_into(nn.Linear(2, 2))
    with pytest.raises(zw.RunError, match=r"holds no run: .*ledger.sqlite does not exist"):
        zw.load_run(run.data_dir / "blobs")
    report = check(run.data_dir)
    assert report.problems == [] and report.notes == [], "what was committed is what follows from what was sent"


def test_a_damaged_version_is_refused(run: zw.TrainedRun, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(run.data_dir), str(copy)], check=True)
    for blob in (copy / "blobs").iterdir():
        if blob.is_file():
            blob.write_bytes(bytes(blob.stat().st_size))
    with pytest.raises(zw.RunError, match="damaged"):
        zw.load_run(copy).weights_at(2)


def test_a_figure_of_one_run_or_several(run: zw.TrainedRun, tmp_path: Path) -> None:
    made = run.plot(tmp_path / "one.png")
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG") and made._repr_png_().startswith(b"\x89PNG")
    zw.plot({"a": run, "b": run}, tmp_path / "two.svg")
    assert "<svg" in (tmp_path / "two.svg").read_text()
    zw.plot([run, run])
    with pytest.raises(zw.SettingsError, match="there is no run to draw"):
        zw.plot([])
    with pytest.raises(zw.RunError, match="the figure cannot be written"):
        run.plot(tmp_path / "nowhere" / "one.png")


def test_the_first_example_gives_the_bits_of_the_demos_processes(fleet: Callable[[], Any], tmp_path: Path) -> None:
    """The run of `zowarmup demo`, each participant a process; and examples/first.py."""
    code = [line for line in (REPOSITORY / "examples/first.py").read_text().splitlines() if line]
    assert len(code) <= 12
    made = fleet()
    made.lead(demo_run(0, DemoModel.MLP, 1, 9))
    names = ["high-1", *(f"low-{number}" for number in range(1, 10))]
    for shard, name in enumerate(names, 1):
        made.join(name, f"digits:{shard}/10,alpha=0.1,seed=0", name.partition("-")[0])
    expected = made.finished(10, 300)
    assert len(expected.replicas.agree) == 10
    made.processes.stop()
    first = [sys.executable, str(REPOSITORY / "examples/first.py")]
    done = subprocess.run(first, cwd=tmp_path, capture_output=True, text=True, timeout=HANGS_S, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"digest {expected.digest}"
    assert (tmp_path / "first.png").read_bytes().startswith(b"\x89PNG")


def test_a_coordinator_and_clients_beside_a_running_loop_and_another_process(
    run: zw.TrainedRun, tmp_path: Path, prepared_models: Path
) -> None:
    """As in a notebook, whose thread has an event loop; the weights are those of the fleet in one process."""
    first, second, third = zw.divide("digits", 3, alpha=0.5)
    everyone = {"quorum": 1.0, "learn_deadline": False}
    phases = {
        "warmup": {**PHASES["warmup"], "clients_per_round": 1, **everyone},
        "zeroth_order": {**PHASES["zeroth_order"], "clients_per_round": 3, **everyone},
    }

    asked: dict[str, Any] = {"model": "mlp", "held_out": "digits:test", "data_dir": tmp_path / "data", **phases}
    prepared(zw.Coordinator(**asked).settings, prepared_models)

    def cell() -> zw.TrainedRun:
        with zw.Coordinator(**asked, model_cache=prepared_models) as coordinator:
            with urllib.request.urlopen(coordinator.page, timeout=60) as answer:
                assert b"<html" in answer.read()
            other = [sys.executable, "-m", "zowarmup.client.main", "--server", coordinator.address, "--tier", "low"]
            other += ["--name", "low-2", "--data", "digits:3/3,alpha=0.5", "--state-dir", str(tmp_path / "state")]
            with (
                subprocess.Popen(other, stderr=subprocess.DEVNULL) as process,
                zw.Client(coordinator.address, first, tier="high", name="high-1") as one,
                zw.Client(coordinator.address, second, tier="low", name="low-1") as two,
            ):
                found = coordinator.wait(HANGS_S)
                one.wait(HANGS_S)
                two.wait(HANGS_S)
                assert process.wait(HANGS_S) == 0
                status = coordinator.status()
                assert status.replicas.agree == ("high-1", "low-1", "low-2") and status.digest == found.digest
                assert one.status() == zw.Membership("high-1", zw.Tier.HIGH, 6, found.digest, True)
                assert two.status().tier is zw.Tier.LOW and two.status().over
        with pytest.raises(zw.RunError, match="the coordinator is not there: use it inside of"):
            coordinator.status()
        return found

    async def notebook() -> zw.TrainedRun:
        return cell()

    found = asyncio.run(notebook())
    assert found.digest == run.digest and len(third) == 479
    assert zw.load_run(tmp_path / "data").digest == run.digest
    assert [row.metrics for row in found.history.evaluated][-1] == run.history[-1].metrics


def test_what_keeps_a_client_from_taking_part_is_raised_where_the_run_is_waited_for(
    tmp_path: Path, prepared_models: Path
) -> None:
    """And the operator's words reach a coordinator; a run that was stopped goes on from its folder."""
    wrong = np.zeros((20, 9, 9), np.uint8), np.arange(20) % 10
    phases = {"zeroth_order": {"rounds": 1000, "probes": 4, "clients_per_round": 1}}
    asked: dict[str, Any] = {"model": "mlp", "held_out": "digits:test", "data_dir": tmp_path / "data", **phases}
    prepared(zw.Coordinator(**asked).settings, prepared_models)
    asked |= {"model_cache": prepared_models}
    with zw.Coordinator(**asked) as coordinator:
        sentence = "the examples of the data of odd are 1 x 9 x 9 and the run's 1 x 8 x 8"
        with (
            pytest.raises(zw.RunError, match=sentence),
            zw.Client(coordinator.address, wrong, tier="low", name="odd"),
        ):
            coordinator.wait(HANGS_S)
        with (
            pytest.raises(zw.RunError, match=sentence),
            zw.Client(coordinator.address, wrong, tier="low", name="odd") as odd,
        ):
            odd.wait(HANGS_S)
        with pytest.raises(TimeoutError, match=r"run run is not over after 0\.2 s"):
            coordinator.wait(0.2)
        begun = coordinator.run()
        assert begun.version == 0 and begun.phase is zw.Phase.ZEROTH_ORDER
    with pytest.raises(zw.RunError, match="holds a run that began otherwise: seed is 3, the run began with 0"):
        zw.Coordinator(**asked, seed=3).__enter__()
    with zw.Coordinator(**asked) as again, zw.Client(again.address, "digits:1/9", tier="low") as client:
        with pytest.raises(zw.RunError, match="is in use by another zowarmup-server"):
            zw.Coordinator(**asked).__enter__()
        until(lambda: bool(client.status().client))
        again.finish("enough")
        again.wait(HANGS_S)
        client.wait(HANGS_S)
    nobody = zw.Client("127.0.0.1:1", "digits:1/9", connect_timeout_s=0.2).__enter__()
    until(lambda: nobody.fault() is not None)
    with pytest.raises(zw.RunError, match=r"no coordinator answered at .* within 0\.2 s"):
        nobody.wait()
    nobody.__exit__(None, None, None)


@dataclass(frozen=True, kw_only=True, slots=True)
class FaultySettings(ZOWarmUpSettings):
    algorithm: str = "faulty"  # type: ignore[assignment]

    def build(self, layout: zw.Layout, pool_seed: int = 0, warmup: zw.WarmUp | None = None) -> "Faulty":
        return Faulty(self, layout)


class Faulty(ZOWarmUp):
    Settings: ClassVar = FaultySettings

    def aggregate(self, start: zw.Start, contributions: Sequence[zw.ClientScalars | zw.Trained]) -> zw.Aggregate:
        raise KeyError("theirs")


def linear(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), classes))


def test_what_cannot_be_trained_is_refused_and_a_run_that_gives_up_is_kept() -> None:
    asked: dict[str, Any] = {"shards": SHARDS, "held_out": "digits:test", "clients": 2, "show": False}

    def broken(input_shape: tuple[int, ...], classes: int) -> nn.Module:
        raise LookupError("no such layer")

    with pytest.raises(
        zw.RunError, match=r"model zowarmup.api.here:broken: factory.* raised LookupError: no such layer"
    ):
        zw.simulate(broken, **asked, zeroth_order={"rounds": 1})
    with pytest.raises(zw.DataError, match=r"evaluation\.data = .held_out."):
        zw.simulate(linear, SHARDS, (np.zeros((4, 3), np.float32), np.array([1, 1, 2, 2])), clients=2, **PHASES)
    with pytest.raises(zw.SettingsError, match="shards is one data set: say how many clients share it"):
        zw.simulate(linear, "digits", "digits:test", zeroth_order={"rounds": 1})
    with pytest.raises(zw.SettingsError, match="high = 3: must be 0 to 2, the number of clients"):
        zw.simulate(linear, **asked, high=3, zeroth_order={"rounds": 1})
    with pytest.raises(zw.SettingsError, match="names: there must be 2 different ones"):
        zw.simulate(linear, **asked, names=["a", "a"], zeroth_order={"rounds": 1})
    with pytest.raises(zw.GivenUp, match=r"because of algorithm .*:Faulty: KeyError: .theirs.") as told:
        zw.simulate(
            linear((1, 8, 8), 10), **asked, high=0, zeroth_order={"algorithm": Faulty, "rounds": 1, "probes": 4}
        )
    assert told.value.run.version == 0 and told.value.run.history[0].loss is not None


def test_texts_of_the_callers_train_a_language_model(tmp_path: Path) -> None:
    """From a folder with an encoder of random weights: its head learns, and its weights are all of a module's."""
    words, said = ("film", "plot", "cast"), {"yes": ("fine", "great"), "no": ("dull", "awful")}
    texts = [f"the {word} is {judgement}" for word in words for every in said.values() for judgement in every] * 6
    labels = ["yes" if text.split()[-1] in said["yes"] else "no" for text in texts]
    found = zw.simulate(
        f"hf:{language_folder(tmp_path / 'encoder', ENCODER)}",
        [(texts[:40], labels[:40]), (texts[30:], labels[30:])],
        held_out=(texts[:12], labels[:12]),
        run={"text": {"most_tokens": 16}},
        high=0,
        zeroth_order={"rounds": 12},
        show=False,
    )
    assert found.class_names == ("no", "yes") and found.value > found.history[0].metrics["accuracy"]
    assert any("word_embeddings" in name for name in found.weights), "what no round moves is there as well"


def test_ctrl_c_ends_all_that_a_fleet_has_started() -> None:
    """It comes while the caller waits, which is when lines are shown."""
    threads = {thread.name for thread in threading.enumerate()}

    def interrupt(line: str) -> None:
        if "zeroth-order | round" in line:
            raise KeyboardInterrupt

    forever = {"rounds": 1_000_000, "probes": 4}
    with pytest.raises(KeyboardInterrupt):
        zw.simulate("mlp", zw.divide("digits", 2), "digits:test", high=0, zeroth_order=forever, show=interrupt)
    left = {thread.name for thread in threading.enumerate()} - threads
    until(lambda: not any(name.startswith(("compute", "ledger", "round-jobs")) for name in left & _alive()))


def _alive() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def test_a_task_may_be_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers to predict, by the task of examples/plugins."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "examples/plugins"))
    task = importlib.import_module("regression").Regression
    random = np.random.default_rng(0)
    x = random.standard_normal((360, 4)).astype(np.float32)
    y = np.tanh(x[:, 0] - x[:, 1]) + 0.05
    phases: dict[str, Any] = {
        "warmup": {"rounds": 4, "rate": 0.05},
        "zeroth_order": {"rounds": 6, "rate": 0.2, "probes": 8},
    }
    found = zw.simulate(
        "mlp", zw.divide((x[60:], y[60:]), 3), (x[:60], y[:60]), task=task, show=False, evaluate_every=1, **phases
    )
    assert found.metric.name == "mean_absolute_error"
    assert found.value < 0.7 * found.history[0].metrics["mean_absolute_error"]


def test_a_module_is_begun_with_and_left_as_it_was() -> None:
    module = linear((1, 8, 8), 10)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    threads = torch.get_num_threads()
    found = zw.simulate(
        module, zw.divide("digits", 2), "digits:test", high=0, zeroth_order={"rounds": 2, "probes": 4}, show=False
    )
    assert torch.get_num_threads() == threads
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])
        np.testing.assert_allclose(found.weights_at(0)[name], tensor.numpy(), atol=1e-5)
    found.load_into(module)
    assert not torch.equal(module.state_dict()["1.weight"], before["1.weight"])
    folder = found.data_dir
    assert folder.exists()
    del found
    assert not folder.exists(), "a run whose folder nobody named is gone with the last that reads it"


@pytest.mark.parametrize(
    "module",
    [background, coordination, datasets, figure, folders, history, participation, settings, simulation, trained],
    ids=lambda module: module.__name__.rpartition(".")[2],
)
def test_the_examples_of_docstrings_come_out(
    module: Any, run: zw.TrainedRun, tmp_path: Path, prepared_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them, where there is a run that is over, and a run file with the model that it begins with."""
    monkeypatch.chdir(tmp_path)
    Path("run").symlink_to(run.data_dir)
    Path("models").symlink_to(prepared_models)
    if "run.toml" in Path(module.__file__).read_text(encoding="utf-8"):
        short = zw.RunFile(
            name="short",
            model=zw.Model(name="mlp"),
            warmup=zw.warm_up(rounds=0),
            zeroth_order=zw.zeroth_order(rounds=1, clients_per_round=1, probes=4),
            evaluation=zw.Evaluation(data="digits:test"),
            server=zw.Server(address="127.0.0.1:0", web_address=""),
        )
        prepared(short, prepared_models)
        Path("run.toml").write_text(to_toml(short), encoding="utf-8")
    assert "# doctest: +SKIP" not in Path(module.__file__).read_text(encoding="utf-8")
    assert doctest.testmod(module).failed == 0


def test_every_public_function_of_a_program_has_an_example() -> None:
    for name in zw.__all__:
        thing = getattr(zw, name)
        if getattr(thing, "__module__", "").startswith("zowarmup.api.") and name.islower():
            assert ">>> " in (thing.__doc__ or ""), name


def test_the_guides_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of docs/python.md in its order, as one program."""
    monkeypatch.chdir(tmp_path)
    said = blocks((REPOSITORY / "docs/python.md").read_text(encoding="utf-8"), "python")
    assert len(said) >= 6
    (tmp_path / "guide.py").write_text("\n".join(said), encoding="utf-8")
    runpy.run_path("guide.py", run_name="__main__")


def test_the_readme_shows_the_first_example() -> None:
    first = (REPOSITORY / "examples/first.py").read_text(encoding="utf-8").partition('"""\n\n')[2]
    assert first in blocks((REPOSITORY / "README.md").read_text(encoding="utf-8"), "python")


@pytest.mark.parametrize("script", ["own_model", "compare", "own_algorithm"])
def test_the_examples_run(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `python examples/SCRIPT.py` does, but in a process that has torch already."""
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(REPOSITORY / f"examples/{script}.py"), run_name="__main__")
    said = capsys.readouterr().out
    match script:
        case "compare":
            assert (tmp_path / "compare.png").exists() and said.count("kB up") == 4
        case "own_model":
            assert float(said.rpartition("the module alone: ")[2].rstrip("%\n")) > 90
        case _:
            values = [float(line.split()[2]) for line in said.splitlines() if "%" in line]
            assert values[-1] > values[1] + 10, "it learns after the warm-up"


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a kernel of Jupyter's, whose thread has an event loop."""
    import nbclient
    import nbformat

    notebook: Any = nbformat.read(  # type: ignore[no-untyped-call]
        REPOSITORY / "examples/first_run.ipynb", as_version=4
    )
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    nbclient.NotebookClient(notebook, timeout=HANGS_S, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in shown), "the figure is shown"
    assert any("finished" in output.get("data", {}).get("text/plain", "") for output in shown)

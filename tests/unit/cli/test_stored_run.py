"""Export from a small archive: what is written is what the replica held (`zowarmup.server.setup.stored_version`), for other
programs to read."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from safetensors import safe_open
from safetensors.numpy import load_file

from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.tasks import scored
from zowarmup.cli.stored_run import complete, export, ranges
from zowarmup.common.algorithms.whitening import covariance, moments_of, sign_vectors, whitened, whitening
from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.layout import Block, Layout, Tensor, digest, no_whitening
from zowarmup.common.exact.steps import Step, apply_steps
from zowarmup.common.messages.values import Phase, Scalars, Tier
from zowarmup.common.models.construction import build
from zowarmup.common.models.description import describe, flatten
from zowarmup.common.models.export import export_program
from zowarmup.common.models.program import Program
from zowarmup.common.settings.data_card import DataCard
from zowarmup.common.settings.run import Evaluation, Model, RunFile
from zowarmup.common.system.command import CommandError, Usage
from zowarmup.data import load
from zowarmup.data.card import card_of
from zowarmup.server.core import events as ev
from zowarmup.server.setup.weights_file import load_weights
from zowarmup.server.store.archive import BLOBS, LEDGER
from zowarmup.server.store.blob_files import BlobFiles
from zowarmup.server.store.ledger import Ledger

LAYOUT = Layout((Tensor("weight", (3, 4), 0), Tensor("bias", (3,), 12)), 15, 15, (Block("all", 0, 15),))
GRID = Grid(18)
CARD = DataCard(
    shape=(4,),
    classes=3,
    class_names=("abeille", "zèbre", "école"),
    scale=2.0,
    mean=(0.0, 1.0, 2.0, 3.0),
    deviation=(1.0, 2.0, 3.0, 4.0),
)
LAST = 3


SHAPES: dict[str, list[str | int | None]] = {"inputs": ["n", 4], "weight": [3, 4], "bias": [3], "logits": ["n", 3]}


def program() -> bytes:
    """logits = inputs . weight^T + bias, with the weights as inputs."""
    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in SHAPES.items()}
    node = helper.make_node("Gemm", ["inputs", "weight", "bias"], ["logits"], transB=1)
    graph = helper.make_graph([node], "linear", [values[n] for n in ("inputs", "weight", "bias")], [values["logits"]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    content: bytes = model.SerializeToString()
    return content


@dataclass(frozen=True)
class Run:
    data_dir: Path
    weights: dict[int, NDArray[np.float32]]
    first_blob: Path


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Versions 0 to 3 by steps from a snapshot of version 0."""
    ledger, blobs = Ledger(tmp_path / LEDGER), BlobFiles(tmp_path / BLOBS)
    weights = GRID.quantise(np.linspace(-1, 1, 15, dtype=np.float32))
    sha256, known = blobs.put(weights.tobytes()), digest(weights).hex()
    run_file = RunFile(
        name="small",
        model=Model(name="a:b"),
        warmup=warmup_settings(rounds=0),
        zeroth_order=zeroth_order_settings(rounds=LAST, clients_per_round=1),
        evaluation=Evaluation(data="digits:test"),
    )
    content = program()
    told = ev.ProgramRecord(blobs.put(content), len(content), LAYOUT.to_json(), CARD, 1, 1, *scored(10))
    events: list[ev.Event] = [
        ev.RunCreated("r1", run_file, told, ev.Snapshot(0, sha256, GRID.exponent, known)),
        ev.ClientEnrolled("pi", Tier.LOW, 5, "e" * 64),
        ev.Pivoted(0, "no warm-up"),
    ]
    held = {0: weights.copy()}
    for version in range(1, LAST + 1):
        step = Step(version, LAYOUT.block("all"), (1000, -77, version))
        apply_steps(weights, GRID, [step])
        held[version] = weights.copy()
        events += [
            ev.RoundOpened(version, Phase.ZEROTH_ORDER, version - 1, ("pi",), (version,), (5,), 99.0),
            ev.Contributed("pi", Scalars(version, (1.0,), ())),
            ev.RoundClosed(version, "all"),
            ev.Committed(version, version, digest(weights).hex(), (step,), None, ()),
        ]
    ledger.append(events, 1.0, 0)
    ledger.close()
    return Run(tmp_path, held, blobs.path(sha256))


@pytest.mark.parametrize("version", [0, 2, None])
def test_both_files_hold_the_replica_and_say_where_it_is_from(run: Run, version: int | None, tmp_path: Path) -> None:
    done = export(run.data_dir, version, tmp_path / "model.v1")
    expected = run.weights[done.version]
    assert done.version == (LAST if version is None else version)
    assert done.digest == digest(expected).hex()
    assert [path.name for path in done.files] == ["model.v1.safetensors", "model.v1.onnx"]
    origin = {
        "run": "small",
        "run_id": "r1",
        "version": str(done.version),
        "digest": done.digest,
        "grid": "18",
        "data_card": CARD.to_json(),
        "phase": "zeroth-order" if done.version else "warm-up",
        "zeroth_order.rate": "0.4",
        "zeroth_order.rate_annealed": f"{0.4 * (1 - done.version / LAST):.6g}",
        "zeroth_order.rounds_done": str(done.version),
        "zeroth_order.step": "normalized",
        "inputs": "float32 (n, 4), features: stored as float32, divided by 2; then less the feature's mean, divided by its "
        "deviation (both in data_card)",
    }
    with safe_open(done.files[0], framework="numpy") as tensors:
        assert tensors.metadata() == origin
        assert set(tensors.keys()) == {"weight", "bias"}
        for name, view in LAYOUT.views(expected).items():
            np.testing.assert_array_equal(tensors.get_tensor(name), view)
    assert {p.key: p.value for p in onnx.load(done.files[1]).metadata_props} == origin
    assert DataCard.from_json(origin["data_card"]) == CARD == done.card
    ready = onnxruntime.InferenceSession(done.files[1], providers=["CPUExecutionProvider"])
    assert [value.name for value in ready.get_inputs()] == ["inputs"]
    inputs = np.arange(8, dtype=np.float32).reshape(2, 4)
    (logits,) = ready.run(["logits"], {"inputs": inputs})
    views = LAYOUT.views(expected)
    np.testing.assert_allclose(logits, inputs @ views["weight"].T + views["bias"], rtol=1e-5, atol=1e-6)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_a_version_that_is_not_kept_lists_those_that_are(run: Run, tmp_path: Path) -> None:
    with pytest.raises(Usage, match="--version 9: is not kept; kept are 0 to 3"):
        export(run.data_dir, 9, tmp_path / "x")
    assert not (tmp_path / "x.onnx").exists()


def test_damaged_weights_are_not_exported(run: Run, tmp_path: Path) -> None:
    content = bytearray(run.first_blob.read_bytes())
    content[5] ^= 1
    run.first_blob.chmod(0o600)
    run.first_blob.write_bytes(content)
    with pytest.raises(CommandError, match="damaged"):
        export(run.data_dir, 2, tmp_path / "x")
    assert not (tmp_path / "x.safetensors").exists()


def test_a_place_that_cannot_be_written_is_named(run: Run, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"none/x.safetensors cannot be written: No such file"):
        export(run.data_dir, None, tmp_path / "none" / "x")


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="holds no run"):
        export(tmp_path, None, tmp_path / "x")


def test_a_program_of_another_layout_is_refused() -> None:
    with pytest.raises(CommandError, match=r"needs \['inputs', 'bias'\]"):
        complete(program(), {"weight": np.zeros((3, 4), np.float32)}, {}, {})


def test_versions_are_listed_as_ranges() -> None:
    assert ranges([0, 1, 2, 50, 52, 53]) == "0 to 2, 50, 52 to 53"
    assert ranges([10 * n for n in range(20)]) == "0, 10, 20, 30, 40, 50, 60, ..., 190"


def test_a_whitened_head_is_exported_so_that_a_plain_module_reads_it_and_a_run_can_begin_with_it(
    tmp_path: Path,
) -> None:
    import torch

    data = load("digits:test")
    inputs = data.batch(np.arange(40)).inputs
    module = build(Model(name="mlp"), (1, 8, 8), 10, 4)
    layout = describe(module, (1, 8, 8), train="auto", whitening=8)
    graph, plain = export_program(module, layout, (1, 8, 8)), flatten(module, layout)
    outputs, features = Program(graph, layout, plain).forward(inputs)
    assert features is not None and layout.whitening is not None
    signs = sign_vectors(3, layout.block("head").start, features.shape[1], 8)
    rows = whitening(*covariance([(1.0, moments_of([features], signs), signs)]), 8)
    weights = whitened(plain, layout, rows)
    ledger, blobs = Ledger(tmp_path / LEDGER), BlobFiles(tmp_path / BLOBS)
    run_file = RunFile(
        name="whitened",
        model=Model(name="mlp"),
        warmup=warmup_settings(rounds=0),
        zeroth_order=zeroth_order_settings(rounds=LAST, clients_per_round=1),
        evaluation=Evaluation(data="digits:test"),
    )
    told = ev.ProgramRecord(
        blobs.put(graph), len(graph), layout.to_json(), card_of(data, "digits:test"), 1, 1, *scored(10)
    )
    begun = ev.Snapshot(0, blobs.put(weights.tobytes()), GRID.exponent, layout.digest(weights).hex())
    ledger.append([ev.RunCreated("r1", run_file, told, begun), ev.Pivoted(0, "no warm-up")], 1.0, 0)
    ledger.close()

    written, complete_graph = export(tmp_path, None, tmp_path / "model").files
    (logits,) = onnxruntime.InferenceSession(complete_graph).run(["logits"], {"inputs": inputs})
    np.testing.assert_allclose(logits, outputs, atol=1e-4)
    assert load_file(written).keys() == {tensor.name for tensor in layout.tensors} - {layout.whitening.name}
    other = build(Model(name="mlp"), (1, 8, 8), 10, 9)
    other.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in load_file(written).items()})
    with torch.no_grad():
        np.testing.assert_allclose(other(torch.from_numpy(inputs)).numpy(), logits, atol=1e-4)

    again = np.full(layout.size, np.nan, np.float32)
    load_weights(written, layout, again)
    np.testing.assert_array_equal(layout.views(again)[layout.whitening.name], no_whitening(8, features.shape[1]))
    found, _ = Program(graph, layout, again).forward(inputs)
    np.testing.assert_allclose(found, logits, atol=1e-4)
    assert (found.argmax(axis=1) == logits.argmax(axis=1)).all(), "it begins at that accuracy"

"""Everything that turns bytes from elsewhere into values: from the network, from a device's disk, from a person.

A target takes any bytes and must either accept them, and then give the same bytes or value back when asked, or refuse
them with the one error that its callers expect. Anything else that is raised is a finding.
"""

import atexit
import contextlib
import dataclasses
import io
import json
import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError
from safetensors.numpy import save

from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.fuzz.data_files import VALID, reader
from zowarmup.client.errors import Final
from zowarmup.client.net.stream import Reader
from zowarmup.client.store.directory import IDENTITY, StateDirectory
from zowarmup.client.store.replica import _read_header as read_header
from zowarmup.client.store.replica import _whole as whole_records
from zowarmup.common.exact.layout import Block, Head, Layout, Tensor
from zowarmup.common.exact.replica import Commit
from zowarmup.common.exact.steps import Step
from zowarmup.common.messages import codec
from zowarmup.common.messages.small_floats import Precision
from zowarmup.common.messages.values import Abstention, Delta, Phase, Scalars, Tier, Work
from zowarmup.common.settings.data_card import DataCard
from zowarmup.common.settings.run import ClientSpec, Model
from zowarmup.server.setup.continuation import ContinuationError, Left
from zowarmup.server.setup.prepare import PreparationError
from zowarmup.server.setup.run_file import RunFileError, read_run_file
from zowarmup.server.setup.weights_file import load_weights
from zowarmup.server.store.event_rows import StoredEvent
from zowarmup.server.store.ledger import Ledger, LedgerError
from zowarmup.v1 import coordinator_pb2 as wire

LAYOUT = Layout(
    tensors=(Tensor("body", (4, 3), 0), Tensor("head.weight", (2, 3), 12), Tensor("head.bias", (2,), 18)),
    trainable=20,
    size=20,
    blocks=(Block("all", 0, 20), Block("trunk", 0, 12), Block("head", 12, 20)),
    head=Head("head.weight", "head.bias", 3, 2),
)
_MEMORY = Path("/dev/shm")
TEMPORARY = _MEMORY if _MEMORY.is_dir() else Path(tempfile.gettempdir())
_FOLDER = Path(tempfile.mkdtemp(prefix=f"zowarmup-fuzz-files-{os.getppid()}-", dir=TEMPORARY))
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)


@dataclasses.dataclass(frozen=True)
class Target:
    """`valid`: bytes that are accepted, to begin from."""

    take: Callable[[bytes], None]
    valid: tuple[bytes, ...]


def commit(data: bytes) -> None:
    try:
        found = codec.decode_commit(data, LAYOUT)
    except ValueError:
        return
    assert codec.decode_commit(codec.encode_commit(found, LAYOUT), LAYOUT) == found


def scalars(data: bytes) -> None:
    try:
        found = codec.scalars_from_wire(wire.Scalars.FromString(data))
    except (ValueError, DecodeError):
        return
    assert codec.scalars_from_wire(codec.scalars_to_wire(found)) == found


def delta(data: bytes) -> None:
    try:
        found = codec.delta_from_wire(wire.DeltaReady.FromString(data))
    except (ValueError, DecodeError):
        return
    assert codec.delta_from_wire(codec.delta_to_wire(found)) == found


def abstention(data: bytes) -> None:
    try:
        found = codec.abstention_from_wire(wire.Abstention.FromString(data))
    except (ValueError, DecodeError):
        return
    assert codec.abstention_from_wire(codec.abstention_to_wire(found)) == found


def work(data: bytes) -> None:
    try:
        found = codec.work_from_wire(wire.Work.FromString(data))
    except (ValueError, DecodeError):
        return
    assert repr(codec.work_from_wire(codec.work_to_wire(found))) == repr(found)  # a deadline may be NaN


def answer(data: bytes) -> None:
    """What a coordinator says on the stream, as a client reads it."""
    try:
        Reader(LAYOUT).read(data)
    except (ValueError, DecodeError):
        return


def layout(data: bytes) -> None:
    try:
        found = Layout.from_json(data.decode(errors="surrogateescape"))
    except ValueError:
        return
    assert Layout.from_json(found.to_json()) == found


def spec(data: bytes) -> None:
    try:
        found = ClientSpec.from_json(data.decode(errors="surrogateescape"))
    except ValueError:
        return
    found.to_json()


def commit_log(data: bytes) -> None:
    records, end = whole_records(io.BytesIO(data))
    assert end <= len(data) and sum(map(len, records)) + 8 * len(records) == end


def header(data: bytes) -> None:
    file = _FOLDER / "snapshot-1.json"
    file.write_bytes(data)
    try:
        read_header(file)
    except ValueError:
        return


def identity(data: bytes) -> None:
    folder = _FOLDER / "client"
    with StateDirectory(folder) as state:
        (folder / IDENTITY).write_bytes(data)
        try:
            state.identity()
        except Final:
            return


def run_file(data: bytes) -> None:
    file = _FOLDER / "run.toml"
    file.write_bytes(data)
    try:
        read_run_file(file)
    except RunFileError:
        return


def weights(data: bytes) -> None:
    file = _FOLDER / "weights.safetensors"
    file.write_bytes(data)
    with contextlib.suppress(PreparationError):
        load_weights(file, LAYOUT, np.zeros(LAYOUT.size, np.float32))
    with contextlib.suppress(ContinuationError):
        Left.read(file)


def ledger_row(data: bytes) -> None:
    kind, _, body = data.decode(errors="replace").partition(" ")
    try:
        _LEDGER.decode(StoredEvent(1, 0.0, kind, body))
    except LedgerError:
        return


_LEDGER = Ledger(_FOLDER / "ledger.sqlite")
_COMMIT = Commit(3, b"d" * 16, (Step(7, LAYOUT.blocks[1], (1, -2, 3)), Step(7, LAYOUT.blocks[2], (5,))))
_RECORD = codec.encode_commit(_COMMIT, LAYOUT)
_SPEC = ClientSpec(
    model=Model(name="mlp"),
    card=DataCard(shape=(8, 8), classes=10),
    warmup=warmup_settings(rounds=1),
    zeroth_order=zeroth_order_settings(rounds=2),
)
_HEADER = {"version": 1, "grid_exponent": 20, "grid_ranges": [[5, 23]], "digest": "00" * 16, "size_bytes": 80}
_IDENTITY = {"client": "pi", "credential": "00", "run_id": "r", "tier": str(Tier.LOW), "name": "pi"}
_WORK = Work(2, Phase.ZEROTH_ORDER, 1, 9, 3.0)

TARGETS = {
    "commit": Target(commit, (_RECORD,)),
    "scalars": Target(
        scalars,
        tuple(
            codec.scalars_to_wire(Scalars(2, (0.5, -1.0), (2.0,), precision=precision)).SerializeToString()
            for precision in Precision
        ),
    ),
    "abstention": Target(
        abstention, (codec.abstention_to_wire(Abstention(1, "a value is not finite")).SerializeToString(),)
    ),
    "delta": Target(delta, (codec.delta_to_wire(Delta(1, "ab" * 16, 5, 0.5)).SerializeToString(),)),
    "work": Target(work, (codec.work_to_wire(_WORK).SerializeToString(),)),
    "answer": Target(
        answer,
        (
            wire.ParticipateResponse(commit=codec.commit_to_wire(_COMMIT, LAYOUT)).SerializeToString(),
            wire.ParticipateResponse(work=codec.work_to_wire(_WORK)).SerializeToString(),
            wire.ParticipateResponse(welcome=wire.Welcome(epoch=1, phase=wire.PHASE_WARM_UP)).SerializeToString(),
        ),
    ),
    "layout": Target(layout, (LAYOUT.to_json().encode(),)),
    "spec": Target(spec, (_SPEC.to_json().encode(),)),
    "commit_log": Target(commit_log, (struct.pack("<II", len(_RECORD), zlib.crc32(_RECORD)) + _RECORD,)),
    "header": Target(header, (json.dumps(_HEADER).encode(),)),
    "identity": Target(identity, (json.dumps(_IDENTITY).encode(),)),
    "run_file": Target(
        run_file,
        (
            b'name = "x"\n[model]\nname = "mlp"\n[warmup]\nrounds = 1\n[zeroth_order]\nrounds = 2\n[evaluation]\ndata = "digits:test"\n',
        ),
    ),
    "weights": Target(
        weights,
        (
            save({tensor.name: np.ones(tensor.shape, np.float32) for tensor in LAYOUT.tensors}),
            save({"body": np.ones((4, 3), np.float64)}, {"zeroth_order.rate": "0.5"}),
        ),
    ),
    "ledger_row": Target(
        ledger_row,
        (
            b'Committed {"version":1,"round":1,"digest":"ff","steps":[],"snapshot":null,"traffic":[]}',
            b"RunResumed {}",
            f'Contributed {{"client":"pi","contribution":{json.dumps(asdict(Scalars(1, (0.5,), ())))}}}'.encode(),
        ),
    ),
}
TARGETS |= {name: Target(reader(_FOLDER, file, spec), valid) for name, (file, spec, valid) in VALID.items()}

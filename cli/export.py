"""A version of a run's model, as files that other programs read.

PREFIX.safetensors holds the named tensors; PREFIX.onnx is the run's forward pass with those weights as initialisers,
so ONNX Runtime needs nothing else. The metadata of both say where they come from (run, version, digest, grid), what the
targets and inputs mean (`data_card`, as JSON), and how `inputs` are made (in words). Reads the coordinator's data directory and
changes nothing in it.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper
from safetensors.numpy import save

from zowarmup.cli.failure import CommandError, Usage
from zowarmup.common.exact.layout import digest
from zowarmup.common.settings.data_card import DataCard
from zowarmup.common.system.whole_file import replacing
from zowarmup.server.setup.continuation import Left
from zowarmup.server.store.archive import ArchiveError, open_archive

RUNS_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Exported:
    version: int
    digest: str
    files: tuple[Path, ...]
    card: DataCard


def export(data_dir: Path, version: int | None, prefix: Path) -> Exported:
    """Write both files of a version, the newest where it is None. Raises Usage where that version is not kept, naming
    those that are, and Failure where the run cannot be read, its weights do not have their digest, or nothing can be
    written."""
    if prefix.name in ("", ".."):
        raise Usage(f"--out {str(prefix)!r}: must end in a name for the files, such as models/digits")
    try:
        archive = open_archive(data_dir)
        kept = archive.versions()
        chosen = max(kept) if version is None else version
        if chosen not in kept:
            raise Usage(f"--version {chosen}: is not kept; kept are {ranges(kept)}")
        weights, grid = archive.weights(chosen)
        program = archive.program
    except ArchiveError as error:
        raise CommandError(str(error)) from error
    found = digest(weights).hex()
    if found != archive.digest(chosen):
        raise CommandError(
            f"version {chosen} in {data_dir} has digest {found}, the run has {archive.digest(chosen)}: "
            "its files are damaged; restore them from a backup or export another version"
        )
    tensors, card = archive.layout.views(weights), archive.state.program.card
    origin = {
        "run": archive.name,
        "run_id": archive.state.run_id,
        "version": str(chosen),
        "digest": found,
        "grid": ",".join([str(grid.exponent), *(f"{start}:{exponent}" for start, exponent in grid.ranges)]),
        "data_card": card.to_json(),
        "inputs": card.recipe,
        "phase": archive.history.versions[chosen].phase,
        **Left.by(archive, chosen).metadata(),
    }
    files = (
        _written(Path(f"{prefix}.safetensors"), save(tensors, metadata=origin)),
        _written(Path(f"{prefix}.onnx"), complete(program, tensors, origin)),
    )
    return Exported(chosen, found, files, card)


def complete(program: bytes, tensors: dict[str, Any], origin: dict[str, str]) -> bytes:
    """The ONNX graph with float32 `tensors` as initialisers instead of inputs. Raises CommandError where the graph has an
    input that is neither the data nor one of them."""
    try:
        model = onnx.load_from_string(program)
    except DecodeError as error:
        raise CommandError("the run's program is no ONNX graph: restore the data directory from a backup") from error
    left = [value for value in model.graph.input if value.name not in tensors]
    if [value.name for value in left] != ["inputs"]:
        raise CommandError(f"the run's program needs {[v.name for v in left]}: it does not belong to the run's layout")
    del model.graph.input[:]
    model.graph.input.extend(left)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in tensors.items())
    onnx.helper.set_model_props(model, origin)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def ranges(versions: list[int]) -> str:
    """0 to 10, 50, 100 to 210."""
    runs: list[tuple[int, int]] = []
    for version in versions:
        if runs and runs[-1][1] == version - 1:
            runs[-1] = (runs[-1][0], version)
        else:
            runs.append((version, version))
    shown = [str(first) if first == last else f"{first} to {last}" for first, last in runs]
    if len(shown) > RUNS_SHOWN:
        shown = [*shown[: RUNS_SHOWN - 1], "...", shown[-1]]
    return ", ".join(shown)


def _written(path: Path, content: bytes) -> Path:
    """Write beside it and rename, so that nobody ever sees half of it."""
    try:
        with replacing(path, f".{os.getpid()}.new") as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise CommandError(
            f"--out: {path} cannot be written: {error.strerror or error}; name a prefix in a folder that can"
        ) from error
    return path

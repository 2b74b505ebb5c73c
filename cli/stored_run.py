"""Work on a run on disk, without its coordinator: export a version, check, repair, copy, make a page of it."""

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from zowarmup.common.models.base import Constant
from zowarmup.common.models.graph import ELEMENT_OF
from zowarmup.common.models.hugging_face import CONFIG, TOKENIZER, WEIGHTS, config_of, merged, renamed
from zowarmup.common.prefix import PREFIX, PREFIX_ENDS
from zowarmup.common.settings.data_card import DataCard
from zowarmup.common.settings.store import StoreAddress
from zowarmup.common.system.command import CommandError, Usage
from zowarmup.common.system.files import replacing
from zowarmup.server.core.state import State
from zowarmup.server.setup.continuation import Left
from zowarmup.server.setup.stored_version import constants_in, module_tensors, weights_of
from zowarmup.server.store.archive import ArchiveError, Copied
from zowarmup.server.store.blobs import BlobError
from zowarmup.server.store.fsck import CheckReport
from zowarmup.server.store.ledger import LedgerError
from zowarmup.server.stored.checking import check_stored
from zowarmup.server.stored.copies import copy_stored, restore_into
from zowarmup.server.stored.opening import archive_of
from zowarmup.server.telemetry.page.assets import as_one_file
from zowarmup.server.telemetry.page.report import state_on_disk

RUNS_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Exported:
    version: int
    digest: str
    files: tuple[Path, ...]
    card: DataCard
    remark: str = ""
    """What was left out, and why."""


def export(data_dir: Path, version: int | None, prefix: Path) -> Exported:
    """Write the files of a version, the newest where it is None: weights, graph and, of a language model, a folder that `transformers`
    loads. Raises Usage where that version is not kept, naming
    those that are, and CommandError where the run cannot be read, its weights do not have their digest, or nothing can be
    written."""
    from safetensors.numpy import save

    if prefix.name in ("", ".."):
        raise Usage(f"--out {str(prefix)!r}: must end in a name for the files, such as models/digits")
    try:
        archive = archive_of(data_dir)
        kept = archive.versions()
        chosen = max(kept) if version is None else version
        if chosen not in kept:
            raise Usage(f"--version {chosen}: is not kept; kept are {ranges(kept)}")
        weights, grid = weights_of(archive, data_dir, chosen)
        program, constants = archive.program, constants_in(archive)
    except ArchiveError as error:
        raise CommandError(str(error)) from error
    found, card = archive.digest(chosen), archive.state.program.card
    plain = module_tensors(archive, weights, constants)
    tensors = archive.layout.views(weights)  # with the whitening, which the graph has, and the run's very bits
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
        **_privacy(archive.state),
    }
    files = [
        _written(Path(f"{prefix}.safetensors"), save(plain, metadata=origin)),
        _written(Path(f"{prefix}.onnx"), complete(program, tensors, constants, origin)),
    ]
    prefixed = any(name.endswith(PREFIX_ENDS) for name in plain)
    if (
        (architecture := archive.state.program.architecture) is not None
        and archive.tokenizer is not None
        and not prefixed
    ):
        whole = renamed(merged(plain), architecture)
        with contextlib.suppress(OSError):  # what it then lacks is said as the files are written
            prefix.mkdir(exist_ok=True)
        files += [
            _written(prefix / CONFIG, config_of(architecture).encode()),
            _written(prefix / TOKENIZER, archive.tokenizer.read_bytes()),
            _written(prefix / WEIGHTS, save(whole, metadata=origin | {"format": "pt"})),
        ]
    remark = f"no folder for `transformers`: no model of its has {PREFIX}N; the ONNX graph has it" if prefixed else ""
    return Exported(chosen, found, tuple(files), card, remark)


def _privacy(state: State) -> dict[str, str]:
    """What a model's file says of how private the data is that it was trained on; nothing where no noise was added."""
    if (budget := state.budget) is None:
        return {}
    warm = ", but for the warm-up's data, which was said to be public" if state.run_file.warmup.rounds else ""
    privacy, whose = state.run_file.privacy, ""
    if privacy.shares_noise:
        whose = f", by noise that a round's devices share, of whom {privacy.colluders} may tell theirs"
    told = f"{privacy.mode} differential privacy of one example of one client{whose}: {budget.spent(state.most_released)}{warm}"
    return {"privacy": told}


def complete(
    program: bytes, tensors: Mapping[str, Any], constants: Mapping[str, Constant], origin: dict[str, str]
) -> bytes:
    """The ONNX graph with `tensors` and `constants` as initialisers instead of inputs. Raises CommandError where the graph has an
    input that is neither the data nor one of them."""
    import onnx
    from onnx import helper, numpy_helper

    try:
        model = onnx.load_from_string(program)
    except DecodeError as error:
        raise CommandError("the run's program is no ONNX graph: restore the data directory from a backup") from error
    left = [value for value in model.graph.input if value.name not in {*tensors, *constants}]
    if [value.name for value in left] != ["inputs"]:
        raise CommandError(f"the run's program needs {[v.name for v in left]}: it does not belong to the run's layout")
    # Of adapters and prefixes each example may have its own: here all have the same, along an axis of 1.
    axes = {value.name: len(value.type.tensor_type.shape.dim) for value in model.graph.input}
    whole = {name: array[(None,) * (axes[name] - array.ndim)] for name, array in tensors.items()}
    del model.graph.input[:]
    model.graph.input.extend(left)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in whole.items())
    model.graph.initializer.extend(
        helper.make_tensor(name, ELEMENT_OF[constant.kind], constant.shape, constant.values.tobytes(), raw=True)
        for name, constant in constants.items()
    )
    helper.set_model_props(model, origin)
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
            f"--out: {path} cannot be written: {error.strerror or error}; name one in a folder that can"
        ) from error
    return path


def fsck(data_dir: Path, mend: bool) -> CheckReport:
    """Check a data directory, or repair it. Raises CommandError where it is in use or beyond both."""
    try:
        return check_stored(data_dir, mend)
    except (ArchiveError, BlobError, LedgerError) as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(f"{data_dir} cannot be read: {error.strerror or error}") from error


def backup(data_dir: Path, out: Path) -> Copied:
    """Copy a data directory to a new folder. Raises CommandError where that cannot be done."""
    try:
        return copy_stored(data_dir, out)
    except (ArchiveError, BlobError, LedgerError) as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(f"{error.filename or out} cannot be copied: {error.strerror or error}") from error


def restore(copy: Path, store: str) -> Copied:
    """Bring a run in files into a database. Raises Usage where `store` is no address, CommandError where it cannot be done."""
    try:
        address = StoreAddress.of(store)
    except ValueError as error:
        raise Usage(f"--store: {error}") from None  # which never repeats what may hold a password
    try:
        return restore_into(copy, address)
    except (ArchiveError, BlobError, LedgerError) as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(f"{error.filename or copy} cannot be read: {error.strerror or error}") from error


def write_page(data_dir: Path, out: Path) -> Path:
    """Write the page of a run as one file. Raises CommandError where the run cannot be read, or nothing can be written."""
    try:
        state = state_on_disk(data_dir)
    except ArchiveError as error:
        raise CommandError(str(error)) from error
    return _written(out, as_one_file(state))


def report_text(report: CheckReport, data_dir: Path, as_json: bool) -> str:
    """The report, for a person or a program."""
    if as_json:
        return json.dumps(asdict(report))
    lines = [f"{report.events} events, {report.checked} versions recomputed"]
    lines += [f"damaged: {problem}" for problem in report.problems]
    lines += [f"note: {note}" for note in report.notes[:3]]
    if report.digest:
        newest = "last good version" if report.problems else "version"
        lines.append(f"{newest} {report.version}, digest {report.digest}")
    if report.kept:
        lines.append(f"the run goes on from version {report.version}; all that was found is kept in {report.kept}")
    elif report.problems:
        lines.append(f"`zowarmup fsck {data_dir} --repair` goes back to the last good version and keeps what is there")
    else:
        lines.append("nothing is damaged")
    return "\n".join(lines)

"""A cache of prepared models that the coordinators of one experiment share.

What takes a coordinator some seconds at the start of a run is building the model, exporting it and measuring it, and
many runs of an experiment begin with the same one. So it is built once for a model, shape and seed, and left in the cache
in a folder of its own; coordinators that start side by side may build it twice, and the first to finish leaves it. Nothing
is measured: who joins such a run says its tier.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from zowarmup.common.exact.layout import Layout
from zowarmup.common.settings.run import PRETRAINED, VERSION, ClientSpec
from zowarmup.common.system.files import open_given, read_given, sync, sync_tree
from zowarmup.server.setup.language_directory import read_directory
from zowarmup.server.setup.prepare import (
    LAYOUT,
    PROGRAM,
    SPEC,
    UNMEASURED,
    WEIGHTS,
    Children,
    PreparationError,
    Prepared,
    base_in,
    building_of,
)
from zowarmup.server.setup.weights_file import load_weights

log = logging.getLogger(__name__)
LONGEST_LAYOUT_BYTES = 1 << 26
BUILDING = "building-"


def cached(spec: ClientSpec, seed: int, cache: Path, children: Children) -> Prepared:
    """The model of a run, built if it is not in the cache, with the weights of `model.weights` where that is given.
    Raises PreparationError."""
    place = cache / cache_path(spec, seed)
    try:
        if not place.exists():
            _build(spec, seed, cache, place, children)
    except OSError as error:
        raise PreparationError(f"--model-cache {cache} cannot be written ({error.strerror or error})") from error
    try:
        layout = Layout.from_json(read_given(place / LAYOUT, LONGEST_LAYOUT_BYTES).decode())
        with open_given(place / WEIGHTS) as stored, open_given(place / PROGRAM) as exported:
            weights = np.fromfile(stored, dtype="<f4").astype(np.float32, copy=False)
            program = exported.read()
        if weights.shape != (layout.size,):
            raise ValueError("weights of another size")
    except (OSError, ValueError) as error:
        raise PreparationError(f"{place} is damaged ({error}): remove it, and it is built anew") from error
    if spec.model.weights and (remark := load_weights(Path(spec.model.weights), layout, weights)):
        log.warning("%s", remark)
    return Prepared(layout, program, weights, UNMEASURED, UNMEASURED, base_in(place))


def cache_path(spec: ClientSpec, seed: int) -> str:
    """The folder of a model in a cache: equal for runs that begin with the same one. A factory's code is not looked at."""
    model = spec.model
    said: list[object] = [
        VERSION,
        model.name,
        model.task,
        model.norm,
        model.base,
        spec.input_shape,
        spec.task.outputs,
        seed,
        spec.zeroth_order.moved,
        spec.whitening,
        spec.exact_head,
    ]
    if spec.zeroth_order.cut_at is not None:
        said += [spec.zeroth_order.cut_at, spec.zeroth_order.only_above]
    if model.pretrained:
        said += [
            read_directory(Path(model.name.removeprefix(PRETRAINED)).expanduser()).signature,
            spec.text.verbalizers,
        ]
    name = model.public.name.replace(":", ".")
    return f"{name}-{seed}-{hashlib.sha256(json.dumps(said).encode()).hexdigest()[:12]}"


@contextlib.contextmanager
def _workplace(cache: Path) -> Iterator[Path]:
    """A folder to build in. Those left by coordinators that were killed are removed: whoever builds holds a lock on his."""
    with _locked(cache):
        for left in cache.glob(f"{BUILDING}*"):
            with contextlib.suppress(OSError), _locked(left, fcntl.LOCK_NB):
                shutil.rmtree(left, ignore_errors=True)
        made = tempfile.TemporaryDirectory(prefix=BUILDING, dir=cache)
        held = contextlib.ExitStack()
        held.enter_context(_locked(Path(made.name)))
    with held, made as name:
        yield Path(name)


@contextlib.contextmanager
def _locked(folder: Path, how: int = 0) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | how)
        yield
    finally:
        os.close(descriptor)


def _build(spec: ClientSpec, seed: int, cache: Path, place: Path, children: Children) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    with _workplace(cache) as workplace:
        folder = workplace / place.name
        folder.mkdir()
        model = replace(spec.model, weights="")
        (folder / SPEC).write_text(replace(spec, model=model).to_json())
        building_of(spec, seed, folder, children).finish()
        sync_tree(folder)
        try:
            os.rename(folder, place)
            sync(cache)
        except OSError:
            if not place.exists():  # else another coordinator has left the same there meanwhile
                raise

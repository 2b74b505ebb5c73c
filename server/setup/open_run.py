"""A run on disk, opened: the data directory is locked, and its run resumed or created.

What stands in the way is a `StartError`, one sentence that names the setting and the remedy.
"""

import contextlib
import json
import logging
import math
import os
import secrets
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.algorithms import algorithm_of
from zowarmup.common.exact.layout import Layout
from zowarmup.common.messages.masking import MOST_STEP_BYTES
from zowarmup.common.messages.values import BASE, TOKENIZER, Artifact, Computation, Phase, Tier
from zowarmup.common.models.base import BaseError, Constant, read_base
from zowarmup.common.settings.data_card import numbers
from zowarmup.common.settings.run import PRETRAINED, ClientSpec, RunFile
from zowarmup.common.system.files import Busy, OpenFolder, exclusive, make_private, read_given, strangers
from zowarmup.common.text import listed
from zowarmup.data import DataError, Dataset
from zowarmup.data.card import absence, card_of, fitted
from zowarmup.data.tokens import tokenised
from zowarmup.server.core import commands as cmd
from zowarmup.server.core import events as ev
from zowarmup.server.core.contributions import settle_on_grid
from zowarmup.server.core.decide import decide
from zowarmup.server.core.sampling import pool_seed
from zowarmup.server.core.state import State
from zowarmup.server.projections.history import History
from zowarmup.server.setup.continuation import advice
from zowarmup.server.setup.language_directory import read_directory
from zowarmup.server.setup.prepare import Preparer, task_of
from zowarmup.server.setup.run_file import differences
from zowarmup.server.store.archive import BLOBS, CA_FILE, LEDGER, LOCK, OPERATOR_CREDENTIAL, replay
from zowarmup.server.store.blobs import BlobStore, FiledBlobs
from zowarmup.server.store.event_log import EventLog
from zowarmup.server.store.place import PLACE

log = logging.getLogger("zowarmup.server")

PREPARATION = "preparation-"
OURS = (f"{LEDGER}*", BLOBS, LOCK, f"{OPERATOR_CREDENTIAL}*", CA_FILE, f"{PREPARATION}*")
"""What a start leaves that ended before there was a run."""


class StartError(Exception):
    """The coordinator cannot start; the sentence says why and what to do."""


@contextlib.contextmanager
def locked(data_dir: Path) -> Iterator[Callable[[str], None]]:
    """The data directory, made if need be and held: two coordinators on one would fork the run. Nothing in it is touched
    where it is neither empty nor a run's. Gives what is to be told where this coordinator listens, HOST:PORT, for `zowarmup runs`.
    Raises StartError."""
    try:
        if not any((data_dir / mark).exists() for mark in (LEDGER, PLACE)) and (found := strangers(data_dir, OURS)):
            raise StartError(
                f"--data-dir {data_dir} is not empty and holds no run ({found}): name a new or an empty folder"
            )
        make_private(data_dir)
        lock = exclusive(data_dir / LOCK)
    except Busy as error:
        raise StartError(f"--data-dir {data_dir} is in use by another zowarmup-server") from error
    except OpenFolder as error:
        raise StartError(
            f"--data-dir {data_dir}: {error.strerror}; name a folder in it that does not exist yet, or one of this user's"
        ) from error
    except OSError as error:
        raise StartError(
            f"--data-dir {data_dir} cannot be written: {error.strerror}; name a folder that this user can write"
        ) from error

    def listens(address: str) -> None:
        word = json.dumps({"address": address, "pid": os.getpid()}).encode()
        with contextlib.suppress(OSError):  # of a full disk the run says more itself
            lock.truncate(0)
            lock.seek(0)
            lock.write(word)

    with lock:
        yield listens


def open_run(
    run_file: RunFile,
    held_out: Dataset,
    data_dir: Path,
    ledger: EventLog,
    blobs: BlobStore,
    prepare: Preparer,
) -> tuple[State, History, int]:
    """The run in the data directory, made if there is none with a model that `prepare` makes, and the number of its last
    event. Raises StartError where it is another one than the run file says, DataError where `held_out` cannot be what a run
    is evaluated on."""
    state, history, end = replay(ledger)
    if state is not None:
        require_same(state, run_file, f"{data_dir} holds")
        log.info("run %s goes on at version %d (%s)", state.run_file.name, state.version, state.phase)
        return state, history, end
    card = card_of(held_out, _evaluation_data(run_file), run_file.text.most_tokens)
    if remark := absence(held_out, _evaluation_data(run_file)):
        log.warning("%s", remark)
    spec = ClientSpec.of(run_file, card, pool_seed(run_file.seed))
    task = task_of(spec, held_out.targets)
    artifacts: tuple[Artifact, ...] = ()
    if run_file.model.pretrained:
        directory = read_directory(Path(run_file.model.name.removeprefix(PRETRAINED)).expanduser())
        spec = replace(spec, architecture=directory.architecture)
        tokenised(held_out, run_file.text, directory.tokenizer)  # refused now, and not when devices have come
        artifacts = (Artifact(TOKENIZER, blobs.put(directory.tokenizer), len(directory.tokenizer)),)
    for leftover in data_dir.glob(f"{PREPARATION}*"):  # of a coordinator that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=PREPARATION, dir=data_dir) as folder:
        prepared = prepare(spec, run_file.seed, Path(folder))
        if prepared.base is not None:
            artifacts += (
                Artifact(BASE, blobs.put(np.memmap(prepared.base, np.uint8, "r").data), prepared.base.stat().st_size),
            )
    if run_file.privacy.secure_aggregation:
        require_short(run_file, prepared.layout)
    grid = settle_on_grid(prepared.weights, prepared.layout)
    initial = ev.Snapshot(
        version=0,
        sha256=blobs.put(prepared.weights.data.cast("B")),
        exponent=grid.exponent,
        digest=prepared.layout.digest(prepared.weights).hex(),
        ranges=grid.ranges,
    )
    program = ev.ProgramRecord(
        sha256=blobs.put(prepared.program),
        size_bytes=len(prepared.program),
        layout=prepared.layout.to_json(),
        card=card,
        high_memory_bytes=prepared.high.peak_bytes,
        low_memory_bytes=prepared.low.peak_bytes,
        metrics=tuple(task.metrics),
        baseline=task.baseline(held_out.targets),
        artifacts=artifacts,
        architecture=spec.architecture,
    )
    now = time.time()
    secret = secrets.token_hex(32) if run_file.draws == "secret" else ""
    created = decide(None, cmd.CreateRun(uuid.uuid4().hex, run_file, program, initial, secret), now)
    end = ledger.append(created.events, now, end)
    history.record(now, created.events)
    state = created.state
    needs = "what a device needs was not measured (--model-cache)"
    if prepared.low.peak_bytes:
        high, low = prepared.high.peak_bytes >> 20, prepared.low.peak_bytes >> 20
        needs = f"a round needs about {high} MB on the high tier, {low} MB on the low"
    log.info(
        "run %s begins: %s, %d parameters; %s", run_file.name, run_file.model.name, prepared.layout.trainable, needs
    )
    if words := run_file.text.verbalizers:
        said_of = zip(card.class_names or numbers(card.classes), words, strict=True)
        log.info(
            "the head begins at the model's words for the classes: %s", listed(f"{c} is {w!r}" for c, w in said_of)
        )
    if run_file.draws == "seed":
        log.info(
            'draws = "seed": whoever knows the seed can compute who takes part in each round, and with which directions'
        )
    if said := advice(run_file):
        log.warning("%s", said)
    if (
        prepared.layout.whitening is None
    ):  # else the weights have another size once the first round has whitened features
        _warn_of_divergence(run_file, prepared.weights[: prepared.layout.trainable])
    if prepared.layout.head is None and any(run_file.zeroth_order.computation(t) is Computation.FORWARD for t in Tier):
        log.info(
            "this model does not end in a linear layer whose gradient is exact: clients will probe every parameter"
        )
    return state, history, end


def require_short(run_file: RunFile, layout: Layout) -> None:
    """Raises StartError where what a device adds to a round's sum is more than one message."""
    algorithm = algorithm_of(run_file, Phase.ZEROTH_ORDER, layout, pool_seed(run_file.seed))
    rounds = [(1, "probes, head_projections or pool"), *([(0, "whitening")] if layout.whitening else [])]
    shared = sum(algorithm.counts(Tier.LOW, 1)) if run_file.privacy.shares_noise else 0
    for done, setting in rounds:
        size = 8 * (shared or algorithm.sum_limits((), done).size)
        if size > MOST_STEP_BYTES:
            raise StartError(
                f"with privacy.secure_aggregation a device adds {size:,} bytes to a round's sum, and {MOST_STEP_BYTES:,} are the "
                f"most: lower zeroth_order.{setting}"
            )


def require_same(state: State, run_file: RunFile, holds: str) -> None:
    """Raises StartError where a run that is there began with another run file. `holds`: where it is, as in "DIR holds"."""
    if differing := differences(state.run_file, run_file):
        raise StartError(
            f"{holds} a run that began otherwise: {'; '.join(differing)}. "
            "Use another --data-dir, or the run file it began with"
        )


def evaluated(held_out: Dataset, state: State, blobs: FiledBlobs) -> Dataset:
    """The held-out set as the run's card reads it. Raises StartError where it is another than the run began with."""
    try:
        data, _ = fitted(held_out, state.program.card, _evaluation_data(state.run_file))
        tokenizer = state.program.artifact(TOKENIZER)
        if tokenizer is None:
            return data
        return tokenised(data, state.run_file.text, read_given(blobs.path(tokenizer.sha256), tokenizer.size_bytes))
    except OSError as error:
        raise StartError(
            f"the tokenizer of the run cannot be read ({error}): restore the data directory from a backup"
        ) from error
    except DataError as error:
        raise StartError(
            f"{error}. The run began with other data: restore what it began with, or use another --data-dir"
        ) from error


def constants_of(state: State, blobs: FiledBlobs) -> dict[str, Constant]:
    """The tensors of the run's base; none where it has no base. Raises StartError where it is damaged."""
    artifact = state.program.artifact(BASE)
    if artifact is None:
        return {}
    try:
        return read_base(blobs.path(artifact.sha256))
    except (BaseError, OSError) as error:
        raise StartError(
            f"the base of the run cannot be read ({error}): restore the data directory from a backup"
        ) from error


def _evaluation_data(run_file: RunFile) -> str:
    return f"evaluation.data = {run_file.evaluation.data!r}"


def _warn_of_divergence(run_file: RunFile, weights: NDArray[np.float32]) -> None:
    """Where a step is as long whatever the model, it is too long for one with small weights, such as a deep one."""
    phase = run_file.zeroth_order
    move = phase.first_move
    usual = math.sqrt(np.mean(np.square(weights, dtype=np.float64)))
    if phase.rounds and move > usual:
        log.warning(
            "zeroth_order.rate = %g moves each weight by about %.2g in the first round, and their usual size is %.2g: "
            "the model will probably be lost; a rate of %.1g or less is worth trying",
            phase.rate,
            move,
            usual,
            phase.rate * usual / move / 4,
        )


def uploads_bytes(run_file: RunFile, state: State) -> int:
    """The quota for uploads. Raises StartError where one round's do not fit."""
    sections = [r for r in (run_file.warmup, run_file.zeroth_order) if any(map(r.trains, Tier))]
    drawn = max((r.drawn for r in sections), default=0)
    needed_mb = -(-drawn * 4 * state.layout.size // (1 << 20))
    if needed_mb > run_file.server.uploads_mb:
        raise StartError(
            f"server.uploads_mb = {run_file.server.uploads_mb}: a round of {drawn} deltas needs {needed_mb}; raise it, "
            "or lower clients_per_round or over_selection"
        )
    return run_file.server.uploads_mb << 20

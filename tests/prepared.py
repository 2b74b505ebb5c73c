"""Models that coordinators of tests begin with: in a model cache (`--model-cache`), and built in the tests' own process.

A coordinator builds a model in a process of its own, which loads torch and its exporter for it: that takes longer than most runs
of tests. What a coordinator is asked about its preparing, it does without this.
"""

import contextlib
import os
import tempfile
from dataclasses import replace
from pathlib import Path

from zowarmup.common.settings.run import BUILT_IN, PRETRAINED, ClientSpec, RunFile
from zowarmup.data import load
from zowarmup.data.card import card_of
from zowarmup.server.core.sampling import pool_seed
from zowarmup.server.setup.build_model import build_run
from zowarmup.server.setup.language_directory import read_directory
from zowarmup.server.setup.model_cache import cache_path


def prepared(run: RunFile, cache: Path) -> list[str]:
    """The options of a coordinator that leads a run of a built-in or a pretrained model, which is in the cache then; none of a model
    by other code, which a cache does not look at. What cannot be made is the coordinator's to refuse."""
    if run.model.name not in BUILT_IN and not run.model.pretrained:
        return []
    with contextlib.suppress(ValueError):
        held_out = run.evaluation.data
        card = card_of(load(held_out), held_out, run.text.most_tokens)
        spec = ClientSpec.of(run, card, pool_seed(run.seed))
        if run.model.pretrained:
            directory = read_directory(Path(run.model.name.removeprefix(PRETRAINED)).expanduser())
            spec = replace(spec, architecture=directory.architecture)
        spec = replace(spec, model=replace(spec.model, weights=""))
        place = cache / cache_path(spec, run.seed)
        if not place.exists():
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache) as folder:
                built = Path(folder) / place.name
                built.mkdir()
                build_run(spec, run.seed, built)
                with contextlib.suppress(OSError):  # the other worker was faster
                    os.rename(built, place)
    return ["--model-cache", str(cache)]

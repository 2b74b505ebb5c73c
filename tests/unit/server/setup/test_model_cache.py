"""A cache of models: built once, equal to what a coordinator would build, and filled from weights without torch."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.language import DECODER, language_folder
from tests.words import tokenizer
from zowarmup.common.models.construction import build
from zowarmup.common.models.description import describe, flatten
from zowarmup.common.settings.data_card import DataCard
from zowarmup.common.settings.run import ClientSpec, Model
from zowarmup.common.settings.text import Text
from zowarmup.server.setup.model_cache import cache_path, cached
from zowarmup.server.setup.prepare import LAYOUT, PROGRAM, UNMEASURED, WEIGHTS, Children, PreparationError

SPEC = ClientSpec(
    model=Model(name="mlp"),
    card=DataCard(shape=(1, 8, 8), classes=10),
    warmup=warmup_settings(rounds=1),
    zeroth_order=zeroth_order_settings(rounds=1),
)


def test_a_model_is_built_once_and_is_the_runs(tmp_path: Path) -> None:
    cache = tmp_path / "model-cache"
    made = cached(SPEC, 5, cache, Children())
    module = build(SPEC.model, SPEC.input_shape, SPEC.task.outputs, 5)
    assert made.layout == describe(module, SPEC.input_shape, train="auto", whitening=SPEC.whitening)
    np.testing.assert_array_equal(made.weights, flatten(module, made.layout))
    assert (made.high, made.low) == (UNMEASURED, UNMEASURED)
    assert [path.name for path in cache.iterdir()] == [cache_path(SPEC, 5)]

    ended = Children()
    ended.end()  # no child can be started any more, and none need be
    again = cached(SPEC, 5, cache, ended)
    assert again.program == made.program
    with pytest.raises(PreparationError):
        cached(SPEC, 6, cache, ended)

    buffer, other = made.layout.whitening, made.weights + 1
    assert buffer is not None
    save_file(made.layout.views(other), tmp_path / "w.safetensors")
    views = made.layout.views(other)
    views[buffer.name][...] = made.layout.views(made.weights)[buffer.name]  # no file says how features are whitened
    loaded = replace(SPEC, model=replace(SPEC.model, weights=str(tmp_path / "w.safetensors")))
    np.testing.assert_array_equal(cached(loaded, 5, cache, ended).weights, other)


def test_a_model_is_on_disk_before_it_has_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, fsync, rename = set[int](), os.fsync, os.rename
    built = list[str]()

    def fsynced(file: int) -> None:
        synced.add(os.fstat(file).st_ino)
        fsync(file)

    def renamed(old: Path, new: Path) -> None:
        assert {path.stat().st_ino for path in (old, *old.iterdir())} <= synced
        built.extend(path.name for path in old.iterdir())
        rename(old, new)

    monkeypatch.setattr(os, "fsync", fsynced)
    monkeypatch.setattr(os, "rename", renamed)
    cached(SPEC, 5, tmp_path / "model-cache", Children())
    assert {LAYOUT, PROGRAM, WEIGHTS} <= set(built)
    assert (tmp_path / "model-cache").stat().st_ino in synced


def test_a_place_is_for_one_model_shape_and_seed() -> None:
    others = [
        cache_path(SPEC, 6),
        cache_path(replace(SPEC, card=replace(SPEC.card, classes=9)), 5),
        cache_path(replace(SPEC, model=Model(name="cnn")), 5),
        cache_path(replace(SPEC, card=replace(SPEC.card, shape=(1, 9, 9))), 5),
        cache_path(replace(SPEC, zeroth_order=zeroth_order_settings(rounds=1, train="norm")), 5),
    ]
    assert len({cache_path(SPEC, 5), *others}) == 6
    assert cache_path(replace(SPEC, warmup=warmup_settings(rounds=9)), 5) == cache_path(SPEC, 5)


def test_a_place_is_for_one_pretrained_model_and_its_verbalizers(tmp_path: Path) -> None:
    folder = language_folder(tmp_path / "model", DECODER)
    card = DataCard(classes=2, shape=(12,), axes=("tokens",), element="token")
    spec, places = replace(SPEC, card=card, model=Model(name=f"hf:{folder}")), set[str]()
    for words in ((), (" bad", " good"), (" good", " bad")):
        places.add(cache_path(replace(spec, text=Text(verbalizers=words)), 5))
    (folder / "tokenizer.json").write_bytes(tokenizer("good bad"))
    places.add(cache_path(spec, 5))
    assert len(places) == 4


def test_a_damaged_model_and_a_shelf_that_cannot_be_written_are_sentences(tmp_path: Path) -> None:
    cache, ended = tmp_path / "model-cache", Children()
    ended.end()
    place = cache / cache_path(SPEC, 5)
    place.mkdir(parents=True)
    (place / "layout.json").write_text("{")
    with pytest.raises(PreparationError, match=r"is damaged \(.*\): remove it, and it is built anew"):
        cached(SPEC, 5, cache, ended)
    (tmp_path / "file").write_text("")
    with pytest.raises(PreparationError, match=r"--model-cache .* cannot be written"):
        cached(SPEC, 5, tmp_path / "file", ended)

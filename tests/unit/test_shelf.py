"""A shelf of models: built once, equal to what a coordinator would build, and filled from weights without torch."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.algorithms import warmup_settings, zeroth_order_settings
from zowarmup.common.data_card import DataCard
from zowarmup.common.models import build, describe, flatten
from zowarmup.common.run import ClientSpec, Model
from zowarmup.server.preparation import LAYOUT, PROGRAM, WEIGHTS, Children, PreparationError
from zowarmup.server.shelf import UNMEASURED, from_shelf, place_of

SPEC = ClientSpec(
    model=Model(name="mlp"),
    card=DataCard(shape=(1, 8, 8), classes=10),
    warmup=warmup_settings(rounds=1),
    zeroth_order=zeroth_order_settings(rounds=1),
)


def test_a_model_is_built_once_and_is_the_runs(tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    made = from_shelf(SPEC, 5, shelf, Children())
    module = build(SPEC.model, SPEC.input_shape, SPEC.classes, 5)
    assert made.layout == describe(module, SPEC.input_shape)
    np.testing.assert_array_equal(made.weights, flatten(module, made.layout))
    assert (made.high, made.low) == (UNMEASURED, UNMEASURED)
    assert [path.name for path in shelf.iterdir()] == [place_of(SPEC, 5)]

    ended = Children()
    ended.end()  # no child can be started any more, and none need be
    again = from_shelf(SPEC, 5, shelf, ended)
    assert again.program == made.program
    with pytest.raises(PreparationError):
        from_shelf(SPEC, 6, shelf, ended)

    other = made.weights + 1
    save_file(made.layout.views(other), tmp_path / "w.safetensors")
    loaded = replace(SPEC, model=replace(SPEC.model, weights=str(tmp_path / "w.safetensors")))
    np.testing.assert_array_equal(from_shelf(loaded, 5, shelf, ended).weights, other)


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
    from_shelf(SPEC, 5, tmp_path / "shelf", Children())
    assert {LAYOUT, PROGRAM, WEIGHTS} <= set(built)
    assert (tmp_path / "shelf").stat().st_ino in synced


def test_a_place_is_for_one_model_shape_and_seed() -> None:
    others = [
        place_of(SPEC, 6),
        place_of(replace(SPEC, card=replace(SPEC.card, classes=9)), 5),
        place_of(replace(SPEC, model=Model(name="cnn")), 5),
        place_of(replace(SPEC, card=replace(SPEC.card, shape=(1, 9, 9))), 5),
    ]
    assert len({place_of(SPEC, 5), *others}) == 5
    assert place_of(replace(SPEC, warmup=warmup_settings(rounds=9)), 5) == place_of(SPEC, 5)


def test_a_damaged_model_and_a_shelf_that_cannot_be_written_are_sentences(tmp_path: Path) -> None:
    shelf, ended = tmp_path / "shelf", Children()
    ended.end()
    place = shelf / place_of(SPEC, 5)
    place.mkdir(parents=True)
    (place / "layout.json").write_text("{")
    with pytest.raises(PreparationError, match=r"is damaged \(.*\): remove it, and it is built anew"):
        from_shelf(SPEC, 5, shelf, ended)
    (tmp_path / "file").write_text("")
    with pytest.raises(PreparationError, match=r"--shelf .* cannot be written"):
        from_shelf(SPEC, 5, tmp_path / "file", ended)

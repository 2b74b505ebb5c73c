"""The data card: made from the held-out set, kept as JSON, and compared with what a device holds."""

import json
import re
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from zowarmup.common.settings.data_card import DataCard, InputSummary
from zowarmup.data import DataError, Dataset, divide, load
from zowarmup.data.card import absence, card_of, fitted
from zowarmup.data.dataset import made_up

PETS = ("cat", "dog", "wolf")


def made(
    names: tuple[str, ...] = (),
    classes: int = 3,
    factor: float = 1.0,
    offset: float = 0.0,
    every_class: bool = True,
    labels: Any = None,
    shape: tuple[int, ...] = (1, 4, 4),
) -> Dataset:
    """60 examples with values spread evenly over offset to offset + factor."""
    x = (offset + factor * np.random.default_rng(0).random((60, *shape))).astype(np.float32)
    y = np.arange(60, dtype=np.int64) % classes if labels is None else np.asarray(labels, dtype=np.int64)
    return Dataset(x, y, classes, class_names=names, every_class=every_class)


def valued(size: int) -> Dataset:
    """The same with targets that are numbers."""
    labelled = made()
    return Dataset(labelled.inputs, np.linspace(-1, 1, 60 * size, dtype=np.float32).reshape(60, size), 0)


def test_targets_are_labels_or_as_many_numbers_as_the_runs() -> None:
    card = card_of(valued(2), "held")
    assert (card.classes, card.target_size) == (0, 2) and DataCard.from_json(card.to_json()) == card
    data, remarks = fitted(valued(2), card, "npz:mine")
    assert remarks == [] and data.targets.tolist() == valued(2).targets.tolist()
    assert absence(valued(2), "held") == ""
    assert refused(valued(1), card) == (
        "the targets of npz:mine are numbers, 1 of each example, and the run's are numbers, 2 of each: give --data with such "
        "targets"
    )
    assert "the targets of npz:mine are labels, and the run's are numbers, 2 of each" in refused(made(), card)
    assert "are numbers, 2 of each example, and the run's are labels" in refused(valued(2), card_of(made(), "held"))
    like = made_up(card, 5)
    assert (like.targets.shape, like.shape, like.classes) == ((5, 2), (1, 4, 4), 0)
    assert made_up(card_of(made(), "held"), 5).targets.tolist() == [0, 1, 2, 0, 1]
    for classes, size in ((0, 0), (3, 1), (-1, 0), (0, -1)):
        with pytest.raises(ValueError, match=r"data card: (classes|target_size)"):
            DataCard(shape=(1,), classes=classes, target_size=size)


def refused(data: Dataset, card: DataCard) -> str:
    with pytest.raises(DataError) as caught:
        fitted(data, card, "npz:mine")
    assert "\n" not in str(caught.value)
    return str(caught.value)


names = st.text(st.characters(categories=("L", "N", "Zs", "S")), min_size=1).map(
    lambda text: unicodedata.normalize("NFC", text)
)
numbers = st.floats(-1e6, 1e6)


@given(
    st.lists(names.filter(str.isprintable), min_size=1, max_size=5, unique=True),
    st.sampled_from(["uint8", "float32"]),
    st.floats(1e-3, 1e6),
    st.lists(st.tuples(numbers, st.floats(1e-6, 1e6)), min_size=3, max_size=3),
)
def test_a_card_survives_json_exactly(
    named: list[str], element: Any, scale: float, normal: list[tuple[float, float]]
) -> None:
    card = DataCard(
        classes=len(named),
        class_names=tuple(named),
        shape=(3, 4, 5),
        element=element,
        scale=scale,
        mean=tuple(m for m, _ in normal),
        deviation=tuple(d for _, d in normal),
        inputs=InputSummary(-1.0, 2.5, 0.1, 0.3, 0.7),
    )
    assert DataCard.from_json(card.to_json()) == card


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"classes": 0}, "data card: classes = 0"),
        ({"class_names": ["cat"]}, "class_names"),
        ({"class_names": ["cat", "cat"]}, "class_names"),
        ({"class_names": ["cat", "d\nog"]}, "without control characters"),
        ({"class_names": ["cat", unicodedata.normalize("NFD", "zèbre")]}, "composed form"),
        ({"shape": [0, 2, 2]}, "shape"),
        ({"axes": ["height", "width"]}, "axes"),
        ({"element": "float64"}, "element"),
        ({"scale": 0}, "scale"),
        ({"scale": float("inf")}, "scale"),
        ({"mean": [1.0]}, "mean"),
        ({"mean": [0.1], "deviation": [0.0], "shape": [1, 2, 2]}, "deviation"),
        ({"colour": 1}, "no field 'colour'"),
        ({"shape": None}, "data card"),
        ({"inputs": {"least": 0}}, "data card"),
    ],
)
def test_what_is_no_card_is_refused_by_field(change: dict[str, Any], sentence: str) -> None:
    whole = json.loads(DataCard(classes=2, shape=(2, 3, 3)).to_json())
    with pytest.raises(ValueError, match=sentence):
        DataCard.from_json(json.dumps(whole | change))


@pytest.mark.parametrize("shape", [(3, 4, 5), (7,), (20, 3)])
def test_axes_follow_from_their_number(shape: tuple[int, ...]) -> None:
    card = DataCard(classes=2, shape=shape)
    assert len(card.axes) == len(shape)
    each = {3: 3, 1: 7, 2: 3}[len(shape)]  # channels, features, channels
    assert replace(card, mean=(0.5,) * each, deviation=(2.0,) * each).mean


def test_mean_and_deviation_of_a_sequence_go_along_its_channels() -> None:
    x = np.ones((2, 5, 3), np.float32)
    data = Dataset(x, np.array([0, 1]), 2, mean=(0.0, 1.0, 2.0), deviation=(1.0, 2.0, 4.0))
    np.testing.assert_allclose(data.batch(np.arange(2)).inputs[1, 4], [1.0, 0.0, -0.25])


def test_the_digits_card_says_what_is_written_nowhere_else() -> None:
    card = card_of(load("digits:test"), "digits:test")
    assert (card.classes, card.shape, card.element, card.scale) == (10, (1, 8, 8), "uint8", 16.0)
    assert card.stored_as == "uint8, divided by 16"
    assert card.shaped_as == "1 x 8 x 8 (channels x height x width)"
    assert card.inputs is not None
    assert (card.inputs.least, card.inputs.greatest) == (0.0, 1.0)
    for shard in divide("digits,alpha=0.1", 50, range(50)):
        assert fitted(shard, card, "digits")[1] == []


@pytest.mark.parametrize(
    ("mine", "said"),
    [
        (("ant", "cat", "dog"), ["ant, cat, dog", "cat, dog, wolf", "missing here: wolf", "unknown to the run: ant"]),
        (("Wolf", "cat", "dog"), ["'Wolf' for 'wolf'"]),
        (("cat", "dog"), ["missing here: wolf", "make a folder for each"]),
        (("cat", "dog", "owl", "wolf"), ["unknown to the run: owl"]),
    ],
)
def test_other_class_names_are_refused_with_both_lists(mine: tuple[str, ...], said: list[str]) -> None:
    found = refused(made(mine, len(mine)), card_of(made(PETS), "held"))
    assert all(part in found for part in said), found


@pytest.mark.parametrize("name", ["Cat", "cat ", "c at", "\uff43at"])
def test_names_that_look_alike_are_shown_with_quotes(name: str) -> None:
    said = refused(made((name, "dog", "wolf")), card_of(made(PETS), "held-out"))
    assert f"{name!r} for 'cat'" in said


def test_long_lists_of_names_are_cut() -> None:
    many = tuple(f"class {n:03}" for n in range(60))
    found = refused(made(tuple(f"other {n:03}" for n in range(60)), 60), card_of(made(many, 60), "held"))
    assert "and 48 more" in found
    assert len(found) < 1200


def test_labels_are_matched_by_name() -> None:
    data, remarks = fitted(
        made(("wolf", "dog", "cat"), labels=[0] * 20 + [1] * 20 + [2] * 20), card_of(made(PETS), "h"), "x"
    )
    assert data.targets.tolist() == [2] * 20 + [1] * 20 + [0] * 20
    assert (data.class_names, remarks) == (PETS, [])


def test_a_table_need_not_hold_every_class() -> None:
    data, _ = fitted(made(("dog", "wolf"), 2, every_class=False), card_of(made(PETS), "held"), "csv:x")
    assert (data.classes, sorted(set(data.targets.tolist()))) == (3, [1, 2])
    assert "unknown to the run: owl" in refused(made(("dog", "owl"), 2, every_class=False), card_of(made(PETS), "held"))


def test_names_that_are_numbers_are_numbers() -> None:
    """Folders "0" to "11" are in the order 0, 1, 10, 11, 2, ...; the labels of an archive are not."""
    folders = tuple(sorted(str(n) for n in range(12)))
    plain, named = made((), 12), made(folders, 12)
    from_archive, remarks = fitted(plain, card_of(named, "held"), "npz:x")
    assert [folders[label] for label in from_archive.targets[:12]] == [str(n) for n in range(12)]
    from_folder, more = fitted(named, card_of(plain, "held"), "folder:x")
    assert [int(folders[label]) for label in named.targets[:12]] == from_folder.targets[:12].tolist()
    assert remarks == more == []


def test_where_one_side_has_no_names_the_count_decides_and_it_is_said() -> None:
    data, remarks = fitted(made(classes=3), card_of(made(PETS), "held"), "npz:x")
    assert data.targets.tolist() == made(classes=3).targets.tolist()
    assert remarks == ["npz:x has no class names: its labels are taken to be 0 = cat, 1 = dog, 2 = wolf"]
    assert "0 = cat" in fitted(made(PETS), card_of(made(), "held"), "folder:x")[1][0]
    assert "has 4 classes and the run 3" in refused(made(classes=4), card_of(made(PETS), "held"))
    assert "has 2 classes and the run 3" in refused(made(("a", "b"), 2), card_of(made(), "held"))
    assert "the run's are only numbers" in refused(made(PETS, every_class=False), card_of(made(), "held"))


def test_labels_that_begin_at_1_are_told_on_both_sides() -> None:
    ones = made(classes=4, labels=1 + np.arange(60) % 3)
    with pytest.raises(DataError, match=r"npz:held: its labels go from 1 to 3 and class 0 never occurs.*subtract 1"):
        card_of(ones, "npz:held")
    assert "they begin at 1; subtract 1 from each" in refused(ones, card_of(made(), "held"))
    perhaps = made(labels=1 + np.arange(60) % 2)
    assert fitted(perhaps, card_of(made(), "held"), "npz:x")[1] == [
        "npz:x has examples of every class but 0: see that its labels do not begin at 1"
    ]


def test_classes_without_held_out_examples_are_named() -> None:
    assert absence(made(), "held") == ""
    assert "held has no example of 1, 3, of 5 classes" in absence(made(classes=5, labels=np.arange(60) % 3 * 2), "held")
    assert "no example of wolf, of 3 classes" in absence(made(PETS, labels=np.arange(60) % 2), "held")


def test_other_shapes_and_stored_types_are_refused() -> None:
    card = card_of(load("digits:test"), "digits:test")
    bytes_255 = Dataset(np.zeros((3, 1, 8, 8), np.uint8), np.arange(3), 3, 255.0)
    assert "uint8, divided by 255, and the run's are uint8, divided by 16" in refused(bytes_255, card)
    assert "float32, as they are, and the run's are uint8, divided by 16" in refused(made(shape=(1, 8, 8)), card)
    assert "are 8 and the run's 1 x 8 x 8 (channels x height x width)" in refused(made(shape=(8,)), card)


def test_mean_and_deviation_are_the_runs() -> None:
    held = replace(made(), mean=(0.5,), deviation=(0.25,))
    data, _ = fitted(made(), card_of(held, "held"), "npz:x")
    np.testing.assert_array_equal(data.batch(np.arange(60)).inputs, held.batch(np.arange(60)).inputs)


@pytest.mark.parametrize(("factor", "offset"), [(255, 0), (1 / 255, 0), (1, 30), (-40, 0), (1e6, 0), (16, 0)])
def test_inputs_in_another_unit_are_refused_with_both_ranges(factor: float, offset: float) -> None:
    found = refused(made(factor=factor, offset=offset), card_of(made(), "held"))
    assert "the run's held-out ones from" in found
    assert "in the run's unit" in found


@pytest.mark.parametrize(("factor", "offset"), [(3.0, 0.0), (2, -1), (0.05, 0), (0, 0), (0, 0.5)])
def test_inputs_that_are_merely_unlike_are_allowed_with_a_warning_at_most(factor: float, offset: float) -> None:
    remarks = fitted(made(factor=factor, offset=offset), card_of(made(), "held"), "npz:x")[1]
    assert len(remarks) <= 1
    assert fitted(made(factor=0.5, offset=0.2), card_of(made(), "held"), "npz:x")[1] == []
    if factor < 0.1:
        assert "see that the values are in the run's unit" in remarks[0]


@pytest.mark.parametrize("width", [2, 30])
@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("factor", [1e3, 100, 0.01, 1e-3])
def test_one_feature_in_another_unit_is_named(factor: float, sequence: bool, width: int) -> None:
    """However many others there are: in the mean over all of them it would not show."""
    held = made(shape=(width, 8) if sequence else (width,), offset=1.0)
    held = replace(held, axes=("channels", "length") if sequence else ())
    card = card_of(held, "held-out")
    assert fitted(held, card, "npz:mine")[1] == []
    inputs = held.inputs.copy()
    inputs[:, 1] *= np.float32(factor)
    try:
        _, remarks = fitted(replace(held, inputs=inputs), card, "npz:mine")
    except DataError as error:
        remarks = [str(error)]
    (said,) = remarks
    told = re.search(r"(feature|channel) 2 has mean (\S+) and deviation \S+ \(in the run (\S+) and", said)
    assert told and float(told[2]) == pytest.approx(factor * float(told[3]), rel=0.01), said
    assert said.count("has mean") == 1 and "the run's unit" in said


@pytest.mark.parametrize("value", [-3.4028235e38, 3e38])
def test_a_value_that_stands_for_a_missing_one_is_named(value: float) -> None:
    held = made(shape=(3,), factor=1e-3)
    inputs = held.inputs.copy()
    inputs[5, 1] = value
    assert f"holds {value:g}, which is beyond 32 bits" in refused(
        replace(held, inputs=inputs), card_of(held, "held-out")
    )


def test_a_feature_that_does_not_change_on_a_device_is_no_matter_of_units() -> None:
    held = made(shape=(3,), offset=1.0)
    inputs = held.inputs.copy()
    inputs[:, 0] = 1.2
    assert fitted(replace(held, inputs=inputs), card_of(held, "held-out"), "npz:mine")[1] == []


@pytest.mark.parametrize(("run", "mine"), [((2.0, -1.0), (1.0, 0.0)), ((1.0, 0.0), (2.0, -1.0))])
def test_images_from_0_to_1_beside_images_from_minus_1_are_worth_a_warning(run: Any, mine: Any) -> None:
    card = card_of(made(factor=run[0], offset=run[1]), "held-out")
    (said,) = fitted(made(factor=mine[0], offset=mine[1]), card, "npz:mine")[1]
    assert "the run's unit" in said


def test_one_wild_value_decides_nothing() -> None:
    wild = made()
    wild.inputs[7, 0, 1, 1] = 1e30
    assert fitted(wild, card_of(made(), "held"), "npz:x")[0].targets.tolist() == made().targets.tolist()


# Folders of images ------------------------------------------------------------------------------------------


def folders(root: Path, names: list[str]) -> str:
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True)
        Image.new("L", (4, 4), 40 * number).save(root / name / "1.png")
    return f"folder:{root},channels=1"


def test_composed_and_decomposed_names_give_the_same_labels(tmp_path: Path) -> None:
    french = ["école", "zèbre", "abeille"]
    found = [
        load(folders(tmp_path / form, [unicodedata.normalize(form, name) for name in french]))
        for form in ("NFC", "NFD")
    ]
    assert found[0].class_names == found[1].class_names == ("abeille", "zèbre", "école")
    for data in found:  # which image is which, whatever the files' order
        colours = dict(zip(data.targets.tolist(), data.inputs[:, 0, 0, 0].tolist(), strict=True))
        assert colours == {2: 0, 1: 40, 0: 80}


def test_one_name_in_two_spellings_is_refused(tmp_path: Path) -> None:
    spec = folders(tmp_path, [unicodedata.normalize(form, "zèbre") for form in ("NFC", "NFD")])
    with pytest.raises(DataError, match="two spellings of Unicode: merge them"):
        load(spec)


@pytest.mark.parametrize("name", ["two\nlines", "bell\a", b"\xff\xfe".decode("utf-8", "surrogateescape")])
def test_a_folder_whose_name_is_no_text_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="rename the folder") as caught:
        load(folders(tmp_path, ["cat", name]))
    assert str(caught.value).encode()
    assert "\n" not in str(caught.value)


LEFTOVERS = [
    "__MACOSX",
    ".DS_Store",
    ".Trashes",
    ".fseventsd",
    "._cat",
    "Network Trash Folder",
    "$RECYCLE.BIN",
    "System Volume Information",
    "FOUND.000",
    "lost+found",
    "LOST.DIR",
    "@eaDir",
    "#recycle",
    "#snapshot",
    "@Recycle",
    "~snapshot",
    ".git",
    ".ipynb_checkpoints",
    "__pycache__",
    "Thumbs.db",
    "dog.png:Zone.Identifier",
    "dog.png@SynoEAStream",
    "@__thumb",
]


@pytest.mark.parametrize("name", LEFTOVERS)
def test_what_systems_leave_is_neither_a_class_nor_an_image(tmp_path: Path, name: str) -> None:
    spec = folders(tmp_path, ["cat", "dog"])
    (tmp_path / name / "inner").mkdir(parents=True)
    (tmp_path / "cat" / name).write_text("no image")
    (tmp_path / "dog" / name).mkdir()
    data = load(spec)
    assert (data.class_names, data.targets.tolist()) == (("cat", "dog"), [0, 1])


def test_deep_and_plain_images_are_in_one_unit(tmp_path: Path) -> None:
    plain = load(folders(tmp_path / "plain", ["cat", "dog"]))
    spec = folders(tmp_path / "deep", ["cat", "dog"])
    ramp = np.linspace(0, 65535, 16).astype(np.uint16).reshape(4, 4)
    Image.fromarray(ramp).save(tmp_path / "deep" / "dog" / "16.png")
    deep = load(spec)
    assert deep.inputs.dtype == np.float32
    for held, mine in ((plain, deep), (deep, plain)):
        assert fitted(mine, card_of(held, "held"), "folder:x")[0].targets.tolist() == mine.targets.tolist()


def test_sequences_read_as_images_are_told_how_to_be_read() -> None:
    card = card_of(replace(made(shape=(3, 20)), axes=("channels", "length")), "held-out")
    said = refused(made(shape=(1, 20, 3)), card)
    assert said == (
        "the examples of npz:mine are 1 x 20 x 3 and the run's 3 x 20 (channels x length): say npz:mine,kind=sequence"
    )


def test_a_table_of_numbered_classes_fits_a_run_of_numbers() -> None:
    data, remarks = fitted(made(("1", "2"), 2, every_class=False), card_of(made(), "held"), "csv:x")
    assert (sorted(set(data.targets.tolist())), remarks) == ([1, 2], [])


def prepared_by_hand(card: dict[str, Any], stored: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Inputs from stored values by nothing but a card's JSON, as somebody does who has only an exported file."""
    inputs = stored.astype(np.float32) / np.float32(card["scale"])
    if card["mean"]:
        along = next(place for place, axis in enumerate(card["axes"]) if axis in ("channels", "features"))
        each = [-1 if place == along else 1 for place in range(len(card["axes"]))]
        inputs = (inputs - np.array(card["mean"], np.float32).reshape(each)) / np.array(
            card["deviation"], np.float32
        ).reshape(each)
    return inputs


@pytest.mark.parametrize("kind", ["digits", "folder", "bytes", "floats", "rows", "sequence", "table", "colour"])
def test_a_card_is_all_that_is_needed_to_make_inputs(kind: str, tmp_path: Path) -> None:
    chance = np.random.default_rng(1)
    file, y = tmp_path / "data.npz", np.arange(12) % 3
    shapes = {"bytes": (12, 5, 4), "floats": (12, 3, 5, 4), "rows": (12, 4), "sequence": (12, 9, 2)}
    match kind:
        case "digits":
            data = load("digits:test")
        case "folder":
            data = load(folders(tmp_path, ["cat", "dog"]))
        case "table":
            (tmp_path / "t.csv").write_text("a,b,kind\n" + "".join(f"{i},{i * i},{'xy'[i % 2]}\n" for i in range(9)))
            data = load(f"csv:{tmp_path}/t.csv,label=kind")
        case "colour":
            pixels = chance.integers(0, 256, (12, 3, 4, 4), dtype=np.uint8)
            data = Dataset(pixels, y, 3, 255.0, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
        case _:
            x = 100 * chance.random(shapes[kind])
            np.savez(file, x=x.astype(np.uint8 if kind == "bytes" else np.float32), y=y)
            data = load(f"npz:{file}" + (",kind=sequence" if kind == "sequence" else ""))
    card = card_of(data, kind)
    mine, remarks = fitted(data, card, kind)
    every = np.arange(len(mine))
    np.testing.assert_array_equal(prepared_by_hand(json.loads(card.to_json()), mine.inputs), mine.batch(every).inputs)
    assert list(card.shape) == list(mine.batch(every).inputs.shape[1:])
    assert remarks == []


@pytest.mark.parametrize(
    "name", ["recycled", "found", "temporary", "trash", "@", "#1", "$100", "~", "snapshot", "icon", "lost"]
)
def test_names_that_people_give_are_classes(tmp_path: Path, name: str) -> None:
    assert name in load(folders(tmp_path, ["cat", name])).class_names

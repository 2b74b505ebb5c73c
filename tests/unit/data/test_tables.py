"""CSV files: what they may look like, and one sentence, with line and column, where one cannot be used."""

import gzip
import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zowarmup.common.system import memory
from zowarmup.data import DataError, Dataset, divide, load
from zowarmup.data.card import card_of, fitted

ROWS = "width,height,kind\n1,2.5,ant\n-3,4e1,bee\n5,6,ant\n"


def read(folder: Path, content: str | bytes, label: str = "kind") -> Dataset:
    path = folder / "data.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return load(f"csv:{path},label={label}")


def refused(folder: Path, content: str | bytes, label: str = "kind") -> str:
    with pytest.raises(DataError) as caught:
        read(folder, content, label)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(folder), "")


def check(data: Dataset) -> None:
    """It is ROWS."""
    assert (data.shape, data.classes, data.class_names) == ((2,), 2, ("ant", "bee"))
    assert data.feature_names == ("width", "height")
    np.testing.assert_array_equal(data.batch(np.arange(3)).inputs, np.array([[1, 2.5], [-3, 40], [5, 6]], np.float32))
    assert data.targets.tolist() == [0, 1, 0]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", ", "])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_delimiters_and_ends_of_lines(tmp_path: Path, delimiter: str, end: str) -> None:
    text = ROWS.replace(",", delimiter).replace("\n", end)
    check(read(tmp_path, text))
    check(read(tmp_path, text.removesuffix(end)))
    check(read(tmp_path, text + end + end))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("packed", [False, True])
def test_encodings_and_gzip(tmp_path: Path, encoding: str, packed: bool) -> None:
    text = ("\ufeff" if encoding == "utf-16-be" else "") + ROWS.replace("ant", "Ameise \u00fc").replace("bee", "\u732b")
    content = text.encode(encoding)
    data = read(tmp_path, gzip.compress(content) if packed else content)
    assert data.class_names == ("Ameise \u00fc", "\u732b")
    assert len(data) == 3


def test_quotes(tmp_path: Path) -> None:
    data = read(tmp_path, '"a, b",  "c ""d""","kind"\n1,"2","x, y"\n3,4,"two\nlines"\n'.replace("two\nlines", "z"))
    assert data.feature_names == ("a, b", 'c "d"')
    assert data.class_names == ("x, y", "z")


def test_the_labels_may_stand_anywhere(tmp_path: Path) -> None:
    check(read(tmp_path, "kind,width,height\nant,1,2.5\nbee,-3,4e1\nant,5,6\n"))
    check(read(tmp_path, "width,kind,height\n1,ant,2.5\n-3,bee,4e1\n5,ant,6\n"))


def test_labels_that_are_numbers_are_ordered_as_numbers(tmp_path: Path) -> None:
    data = read(tmp_path, "a,y\n1,10\n2,9\n3,9.0\n4,010\n5,-1\n", "y")
    assert (data.class_names, data.targets.tolist()) == (("-1", "9", "10"), [2, 1, 1, 2, 0])
    assert read(tmp_path, "a,y\n1,10\n2,9\n3,x\n", "y").class_names == ("10", "9", "x")


def test_names_are_compared_in_composed_form(tmp_path: Path) -> None:
    assert read(tmp_path, "u\u0308,kind\n1,a\u0308\n").class_names == ("\u00e4",)
    check(read(tmp_path, ROWS.replace("kind", "ki\u0301nd"), "k\u00ednd"))


def test_thousands_of_columns(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((40, 3000)).astype(np.float32)
    lines = [",".join([*(f"f{n}" for n in range(3000)), "y"])]
    lines += [",".join([*map(repr, row.tolist()), str(n % 3)]) for n, row in enumerate(values)]
    data = read(tmp_path, "\n".join(lines), "y")
    np.testing.assert_array_equal(data.inputs, values)


@given(
    st.lists(
        st.tuples(st.floats(-1e30, 1e30), st.floats(-1, 1), st.sampled_from(["a", "b", "c d", "7"])),
        min_size=1,
        max_size=30,
    ),
    st.sampled_from(",;\t|"),
)
def test_what_was_written_is_read(tmp_path_factory: pytest.TempPathFactory, rows: list, delimiter: str) -> None:  # type: ignore[type-arg]
    path = tmp_path_factory.getbasetemp() / "law.csv"
    lines = [("one", "two", "y"), *((repr(one), repr(two), y) for one, two, y in rows)]
    path.write_text("\n".join(delimiter.join(line) for line in lines))
    data = load(f"csv:{path},label=y")
    expected = np.array([row[:2] for row in rows], np.float64).astype(np.float32)
    np.testing.assert_array_equal(data.inputs, expected)
    assert [data.class_names[label] for label in data.targets] == [row[2] for row in rows]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "the first line is empty: it must name the columns"),
        ("\n1,2\n", "the first line is empty"),
        ("1,2,3\n4,5,6\n", "the first line holds only numbers: it must name the columns"),
        ("a,,kind\n1,2,x\n", "column 2 has no name: name it, or leave it out"),
        ("a,a,kind\n1,2,x\n", "two columns are named a: rename one"),
        ("a,b,label\n1,2,x\n", "there is no column kind (found: a, b, label): give its name as label=COLUMN"),
        ("kind\nx\n", "there is no column beside kind"),
        ("a,kind\n", "there are no lines below the first"),
        ("a,kind\n1,x\n1,2,x\n", "line 3 has 3 fields and the first line 2: mend it"),
        ("a,b,kind\n1,2,x\n1,x\n", "line 3 has 2 fields and the first line 3"),
        ("a,b,kind\n1,2,x\n\n1,,x\n", "line 4, column b: the value is missing: fill it in, or remove the line"),
        ("a,b,kind\nNaN,2,x\n", "line 2, column a: the value is missing"),
        ("kind,a,b\nx,NA,2\n", "line 2, column a: the value is missing"),
        (
            "kind,a,b\nx,1,red\n",
            "line 2, column b holds 'red', which is no number: leave the column out, or write it as",
        ),
        ("a;b;kind\n1;2,5;x\n", "line 2, column b holds '2,5': write numbers with a decimal point"),
        ("a,b,kind\n1,1_000,x\n", "line 2, column b holds '1_000', which is no number"),
        ("a,b,kind\n1,2,x\n\uff11,2,x\n", "line 3, column a holds '\uff11', which is no number"),
        ("a,kind\n1e39,x\n", "line 2, column a holds 1e39: numbers must be finite in 32 bits"),
        ("a,kind\ninf,x\n", "line 2, column a holds inf: numbers must be finite in 32 bits"),
        ("a,kind\n1,\n", "line 2, column kind: the label is missing: fill it in, or remove the line"),
        ("a,kind\n1,0.5\n", "line 2, column kind: the label is 0.5: labels must be names or whole numbers"),
        ("a,kind\n1,\x07\n", "line 2, column kind: the label is '\\x07': it may not have control characters"),
        ("a,\x07,kind\n1,2,x\n", "the name of column 2, '\\x07', has control characters: rename it"),
        ('a,kind\n1,"x"y\n', "line 2: this is no line of a table ("),
        ('a,kind\n1,"x\n', "this is no line of a table (unexpected end of data): see to its quotes and delimiters"),
        ('a,kind\n1,"' + "x" * 200_000 + '"\n', "line 2: this is no line of a table (field larger than field limit"),
        (b"a,kind\n1,\xff\xe4\n", "this file is not in UTF-8: save it as that"),
        (gzip.compress(ROWS.encode(), mtime=0)[:-10], "this file is damaged or cannot be read ("),
        (b"\x1f\x8b", "this file is damaged or cannot be read ("),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, content: str | bytes, sentence: str) -> None:
    said = refused(tmp_path, content)
    assert said.startswith("/data.csv: ")
    assert sentence in said


def test_the_line_is_named_among_many(tmp_path: Path) -> None:
    lines = ["a,b,kind", *("1,2,x" for _ in range(70_000)), "1,oops,x"]
    assert "line 70002, column b holds 'oops'" in refused(tmp_path, "\n".join(lines))


def test_a_column_of_targets_holds_numbers(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("a,y,b\n1,2.5,3\n4,-1e2,6\n")
    data = load(f"csv:{tmp_path}/data.csv,target=y")
    assert (data.classes, data.target_size, data.class_names, data.feature_names) == (0, 1, (), ("a", "b"))
    assert data.targets.tolist() == [[2.5], [-100.0]] and data.inputs.tolist() == [[1.0, 3.0], [4.0, 6.0]]
    for wrong, sentence in (
        ("red", "line 3, column y holds 'red', which is no number"),
        ("", "line 3, column y: the value is missing"),
        ("1e39", "line 3, column y holds 1e39: numbers must be finite in 32 bits"),
    ):
        (tmp_path / "data.csv").write_text(f"a,y,b\n1,2.5,3\n4,{wrong},6\n")
        with pytest.raises(DataError, match=re.escape(sentence)):
            load(f"csv:{tmp_path}/data.csv,target=y")
    with pytest.raises(DataError, match="say which column holds either the labels"):
        load(f"csv:{tmp_path}/data.csv,target=y,label=a")


def test_wrong_specs_are_refused(tmp_path: Path) -> None:
    def said(spec: str) -> str:
        with pytest.raises(DataError) as caught:
            load(spec)
        return str(caught.value)

    assert "say which column holds the labels: csv:PATH,label=COLUMN" in said(f"csv:{tmp_path}/data.csv")
    assert "say which column holds the labels" in said(f"csv:{tmp_path}/data.csv,label=")
    assert "the labels (a name without comma or slash): csv:" in said(f"csv:{tmp_path}/data.csv,label=mg/l")
    assert "there is no such file" in said(f"csv:{tmp_path}/gone.csv,label=y")
    assert "cannot be read (Is a directory)" in said(f"csv:{tmp_path},label=y")
    assert "option kind is not known: use label" in said(f"csv:{tmp_path}/data.csv,kind=sequence")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_table_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    read(tmp_path, ROWS)
    (tmp_path / "data.csv").chmod(0)
    with pytest.raises(DataError, match="this file may not be read: change its permissions"):
        load(f"csv:{tmp_path}/data.csv,label=kind")


def test_a_table_that_does_not_fit_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemAvailable: 10 kB\n")
    monkeypatch.setattr(memory, "ROOT", tmp_path)
    said = refused(tmp_path, "a,b,kind\n" + "1,oops,x\n" * 2000)
    assert "its examples take 16 kB of memory and this device has 10.2 kB (available memory): give this device" in said
    check(read(tmp_path, ROWS))


def test_a_table_can_be_shared_out(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("a,b,y\n" + "".join(f"{n},{-n},{n % 3}\n" for n in range(60)))
    shards = divide(f"csv:{tmp_path}/data.csv,label=y,alpha=1", 4, range(4))
    assert [len(shard) for shard in shards] == [15] * 4
    assert shards[0].feature_names == ("a", "b")
    assert len({value for shard in shards for value in shard.inputs[:, 0].tolist()}) == 60


def test_another_device_may_have_its_columns_in_another_order(tmp_path: Path) -> None:
    """Features and classes are matched by name, and every device takes off the run's mean, not its own."""
    card = card_of(read(tmp_path, "a,b,y\n0,10,cat\n2,30,dog\n4,50,emu\n", "y"), "held-out")
    assert card.feature_names == ("a", "b")
    assert card.class_names == ("cat", "dog", "emu")
    assert card.mean == (2.0, 30.0)
    mine, remarks = fitted(read(tmp_path, "y,b,a\nemu,50,2\ndog,30,2\n", "y"), card, "csv:mine")
    assert remarks == []
    assert (mine.targets.tolist(), mine.classes) == ([2, 1], 3)
    deviation = np.sqrt(np.array([8 / 3, 800 / 3]))
    np.testing.assert_allclose(mine.batch(np.arange(2)).inputs, np.array([[0, 20], [0, 0]]) / deviation, rtol=1e-6)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            "a,c,y\n1,2,cat\n",
            "other columns than the run; missing here: b; unknown to the run: c: name them as the run",
        ),
        ("a,y\n1,cat\n", "other columns than the run; missing here: b: name them"),
        ("a,b,c,y\n1,2,3,cat\n", "other columns than the run; unknown to the run: c: name them"),
        (
            "a,b,y\n1,20,yak\n",
            "it has yak, the run cat, dog, emu; unknown to the run: yak: name them as the run does, who",
        ),
        ("a,b,y\n1,20,Cat\n", "'Cat' for 'cat'): name them as the run does"),
        ("a,b,y\n1e5,2e5,cat\n", "store the values in the run's unit"),
    ],
)
def test_what_is_another_table_than_the_runs_is_refused(tmp_path: Path, content: str, sentence: str) -> None:
    card = card_of(read(tmp_path, "a,b,y\n0,10,cat\n2,30,dog\n4,50,emu\n", "y"), "held-out")
    with pytest.raises(DataError) as caught:
        fitted(read(tmp_path, content, "y"), card, "csv:mine")
    assert sentence in str(caught.value)


def test_rows_without_names_are_taken_by_their_place(tmp_path: Path) -> None:
    named = read(tmp_path, "a,b,y\n0,10,0\n2,30,1\n4,50,2\n", "y")
    np.savez(tmp_path / "x.npz", x=named.inputs, y=named.targets)
    plain = load(f"npz:{tmp_path}/x.npz")
    for held_out, mine, whose in ((named, plain, "npz:mine"), (plain, named, "the run")):
        data, remarks = fitted(mine, card_of(held_out, "held-out"), "npz:mine")
        assert any(f"{whose} has no names of features: they are taken to be" in remark for remark in remarks)
        assert data.batch(np.arange(3)).inputs.std() == pytest.approx(1)


def test_a_feature_that_never_changes_stays_finite(tmp_path: Path) -> None:
    card = card_of(read(tmp_path, "a,b,y\n7,1e9,0\n7,1e9,1\n7,1e9,1\n", "y"), "held-out")
    assert card.deviation == (1.0, 1.0)
    data, _ = fitted(read(tmp_path, "a,b,y\n7,1e9,0\n", "y"), card, "csv:mine")
    np.testing.assert_array_equal(data.batch(np.arange(1)).inputs, 0)

"""The demo's own pictures: what is found, how it is split and shared out, and each sentence of refusal."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.unit.data.test_published import EACH as BATCH
from tests.unit.data.test_published import cifar10
from zowarmup.data import DataError, load
from zowarmup.lab.demo.pictures import SIDE, find, share, write

COUNTS = {"cat": 40, "dog": 20, "eel": 4}
SHADE = {"cat": 40, "dog": 120, "eel": 200}


def folder(root: Path, counts: dict[str, int], size: tuple[int, int] = (8, 6)) -> Path:
    """A folder of plain pictures, each class with a shade of its own."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", size, (SHADE.get(name, 0), number, 0)).save(root / name / f"{number:03}.png")
    return root


def refused(path: Path, clients: int = 2) -> str:
    with pytest.raises(DataError) as caught:
        share(find(path), clients, 0.1, 0)
    return str(caught.value)


def test_of_each_class_a_fifth_is_held_out_and_at_least_one(tmp_path: Path) -> None:
    found = find(folder(tmp_path, COUNTS))
    assert found.class_names == ("cat", "dog", "eel")
    assert np.bincount(found.held_out.labels).tolist() == [8, 4, 1]
    assert np.bincount(found.training.labels).tolist() == [32, 16, 3]


def test_no_picture_is_used_twice_and_labels_go_with_their_pictures(tmp_path: Path) -> None:
    found = find(folder(tmp_path, COUNTS))
    shares = share(found, 5, 0.1, 7)
    assert [len(pool) for pool in shares.clients] == [10] * 5
    seen = [
        (pool.pixels(index)[0, 0, 0], pool.pixels(index)[1, 0, 0], found.class_names[label])
        for pool in (*shares.clients, shares.held_out)
        for index, label in enumerate(pool.labels)
    ]
    assert len(seen) == len({(shade, number) for shade, number, _ in seen}) == 50 + 13
    assert all(SHADE[name] == shade for shade, _, name in seen)


def test_the_seed_decides_who_gets_which_and_nothing_else(tmp_path: Path) -> None:
    found = find(folder(tmp_path, COUNTS))
    one, again, other = (share(found, 3, 0.1, seed) for seed in (0, 0, 1))

    def mixes(shares: object) -> list[list[int]]:
        return [np.bincount(pool.labels, minlength=3).tolist() for pool in shares.clients]  # type: ignore[attr-defined]

    assert mixes(one) == mixes(again) != mixes(other)
    assert one.held_out.labels.tolist() == other.held_out.labels.tolist()
    assert np.sum(mixes(one), axis=0).tolist() == np.sum(mixes(other), axis=0).tolist()


def test_what_is_written_is_data_for_a_client(tmp_path: Path) -> None:
    shares = share(find(folder(tmp_path / "in", COUNTS)), 5, 0.1, 0)
    checks: list[int] = []
    write({"low-1": shares.clients[0]}, shares.found.class_names, tmp_path / "out", lambda: checks.append(1))
    data = load(f"folder:{tmp_path / 'out' / 'low-1'}")
    assert (data.shape, data.class_names, len(data)) == ((3, SIDE, SIDE), ("cat", "dog", "eel"), 10)
    assert data.inputs[:, 0, 0, 0].tolist() == [list(SHADE.values())[label] for label in data.targets]
    assert len(checks) == 10


def test_a_deep_picture_becomes_bytes(tmp_path: Path) -> None:
    root = folder(tmp_path, {"cat": 2, "dog": 2})
    for file in (root / "dog").iterdir():
        Image.fromarray(np.full((8, 8), 65535 // 2, np.uint16)).save(file)
    pools = [find(root).training, find(root).held_out]
    assert {int(pool.pixels(1)[0, 0, 0]) for pool in pools} == {127}


def test_cifar10_is_found_and_its_test_pictures_are_held_out(tmp_path: Path) -> None:
    cifar10(tmp_path / "cifar-10-batches-py")
    shares = share(find(tmp_path), 4, 0.1, 0)
    assert (len(shares.found.training), len(shares.held_out), len(shares.clients[0])) == (5 * BATCH, BATCH, 15)
    assert sorted(shares.held_out.labels) == sorted(load(f"cifar10:{tmp_path}:test").targets)
    assert shares.data == "60 pictures of CIFAR-10"


def test_what_was_found_and_what_is_used_is_said(tmp_path: Path) -> None:
    folder(tmp_path / "zoo", COUNTS)
    folder(tmp_path / "zoo" / "fox", {}, (300, 200)).mkdir()
    for number in range(2):
        Image.new("L", (300, 200)).save(tmp_path / "zoo" / "fox" / f"{number}.png")
    assert share(find(tmp_path / "zoo"), 4, 0.1, 0).sentence == (
        "found zoo: 66 pictures of 8 x 6 to 300 x 200, 4 classes (cat, dog, eel, fox)\n"
        "used as 32 x 32 in colour: 4 clients with 13 each, of 52, and 14 held out, of 14"
    )


SOURCE = "https://www.cs.toronto.edu/~kriz/cifar.html"


def test_what_is_not_there_says_where_cifar10_is(tmp_path: Path) -> None:
    assert refused(tmp_path / "x") == (
        f"{tmp_path / 'x'}: there is no such folder: name one with a folder of images for each class, or with CIFAR-10 for "
        f"Python, which is at {SOURCE}"
    )


def test_what_is_not_understood_says_what_would_be(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    said = refused(tmp_path)
    assert "holds no class folders: put the images of each class into a folder of its own; or name one with" in said
    assert SOURCE in said


def test_half_of_cifar10_is_refused_with_its_source(tmp_path: Path) -> None:
    (cifar10(tmp_path / "cifar-10-batches-py") / "data_batch_3").unlink()
    said = refused(tmp_path)
    assert "there is no" in said
    assert SOURCE in said


def test_a_single_class_is_refused(tmp_path: Path) -> None:
    assert "holds one class folder, cat: put the images of each class into a folder" in refused(
        folder(tmp_path, {"cat": 9})
    )


@pytest.mark.parametrize("count", [0, 1])
def test_a_class_of_which_none_would_be_left_is_refused(count: int, tmp_path: Path) -> None:
    said = refused(folder(tmp_path, {"cat": 30, "dog": count}))
    assert said == f"{tmp_path / 'dog'}: holds {count} image{'s' * (count != 1)}, and one must be held out: put in more"


def test_too_few_for_so_many_clients_are_refused(tmp_path: Path) -> None:
    root = folder(tmp_path / "zoo", COUNTS)
    assert refused(root, 6) == (
        "zoo has 51 pictures beside those held out, and 6 clients need 10 each: give more pictures, or fewer clients with "
        "--high and --low"
    )


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    root = folder(tmp_path / "zoo", COUNTS)
    (root / "cat" / "007.png").write_bytes(b"no picture")
    assert "007.png: this image cannot be read" in refused(root)

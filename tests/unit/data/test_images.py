"""Folders of images: which of their entries are data. What an image becomes is in test_image_file."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zowarmup.data.image_file import Form
from zowarmup.data.images import is_leftover, read


@pytest.mark.parametrize("name", ["__MACOSX", "@eaDir", "lost+found", ".DS_Store", "Thumbs.db"])
def test_what_systems_leave_is_no_data(name: str) -> None:
    assert is_leftover(name)


@pytest.mark.parametrize("name", ["cat", "x.png", "Thumbs", "lost"])
def test_what_people_name_is(name: str) -> None:
    assert not is_leftover(name)


def test_classes_are_the_folders_by_name(tmp_path: Path) -> None:
    for place, name in enumerate(("dog", "cat", "__MACOSX")):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((4, 4, 3), 10 * place, np.uint8)).save(tmp_path / name / "x.png")
    (tmp_path / "eel").mkdir()
    data = read(tmp_path, Form())
    assert data.class_names == ("cat", "dog", "eel")
    assert data.targets.tolist() == [0, 1]
    assert data.inputs[:, 0, 0, 0].tolist() == [10, 0]

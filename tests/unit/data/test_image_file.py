"""What an image file becomes: as a person sees it, on a scale that its neighbours share, or one sentence."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from zowarmup.common.system import memory
from zowarmup.data import DataError, Dataset, load

RAMP = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
SIDES = np.zeros((32, 48, 3), np.uint8)  # white above, black below, red on the left
SIDES[:16] = 255
SIDES[:, :12] = (255, 0, 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images" / "a").mkdir(parents=True)
    return tmp_path / "images"


def pixels(folder: Path, options: str = "") -> NDArray[np.float32]:
    """The first example, as a model gets it."""
    batch: NDArray[np.float32] = load(f"folder:{folder}{options}").batch(np.array([0])).inputs
    return batch.reshape(batch.shape[1:])


def refused(folder: Path, options: str = "") -> str:
    with pytest.raises(DataError) as caught:
        load(f"folder:{folder}{options}")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def big_endian() -> Image.Image:
    return Image.frombytes("I;16B", (64, 64), RAMP.astype(">u2").tobytes())


DEEP: dict[str, Callable[[Path], None]] = {
    "x.png": lambda path: Image.fromarray(RAMP).save(path),
    "X.PNG": lambda path: Image.fromarray(RAMP).save(path, "PNG"),
    "x.tif": lambda path: Image.fromarray(RAMP).save(path),
    "big.tif": lambda path: big_endian().save(path),
    "float.tif": lambda path: Image.fromarray((RAMP / 65535).astype(np.float32)).save(path),
    "x.pgm": lambda path: _raw(path, b"P5 64 64 65535\n" + RAMP.astype(">u2").tobytes()),
    "x.jp2": lambda path: Image.fromarray(RAMP).save(path, irreversible=False),
    "inverted.tif": lambda path: Image.fromarray(65535 - RAMP).save(path, tiffinfo={262: 0}),
}


def _raw(path: Path, content: bytes) -> None:
    path.write_bytes(content)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", DEEP)
def test_a_deep_ramp_stays_a_ramp(folder: Path, name: str, channels: int) -> None:
    DEEP[name](folder / "a" / name)
    found = pixels(folder, f",channels={channels}")
    assert found.shape == (channels, 64, 64)
    for each in found:
        np.testing.assert_allclose(each, RAMP / 65535, atol=1e-6)
    halved = pixels(folder, f",channels={channels},size=32")
    assert halved.shape == (channels, 32, 32)
    assert (np.diff(halved, axis=2) > 0).all()


def test_twelve_bits_are_scaled_by_twelve(folder: Path) -> None:
    values = np.array([0, 4095, 2048, 1], np.uint16)
    packed = bytes([0, 15, 255, 128, 0, 1])
    tags = {256: (3, 2), 257: (3, 2), 258: (3, 12), 259: (3, 1), 262: (3, 1), 273: (4, 8), 277: (3, 1), 278: (3, 2)}
    tags[279] = (4, 6)
    entries = [
        n.to_bytes(2, "little") + t.to_bytes(2, "little") + (1).to_bytes(4, "little") + v.to_bytes(4, "little")
        for n, (t, v) in sorted(tags.items())
    ]
    directory = len(entries).to_bytes(2, "little") + b"".join(entries) + bytes(4)
    content = b"II*\0" + (14).to_bytes(4, "little") + packed + directory
    (folder / "a" / "x.tif").write_bytes(content)
    np.testing.assert_allclose(pixels(folder, ",channels=1").ravel(), values / 4095, rtol=1e-6)


def test_one_scale_for_all_images_of_a_folder(folder: Path) -> None:
    """Whatever an image holds, and however deep its neighbours are."""
    Image.fromarray(np.full((4, 4), 6553, np.uint16)).save(folder / "a" / "1.png")
    Image.new("L", (4, 4), 51).save(folder / "a" / "2.png")
    Image.new("RGB", (4, 4), (255, 51, 0)).save(folder / "a" / "3.png")
    data = load(f"folder:{folder}")
    assert data.inputs.dtype == np.float32
    assert data.scale == 1
    batch = data.batch(np.arange(3)).inputs
    np.testing.assert_allclose(batch[0], 0.1, atol=1e-4)
    np.testing.assert_allclose(batch[1], 0.2, atol=1e-6)
    np.testing.assert_allclose(batch[2, :, 0, 0], [1, 0.2, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            np.full((4, 4), 7, np.int32),
            "mode I (32-bit integers) does not say which value is white: store it as 16-bit",
        ),
        (
            np.linspace(0, 255, 16, dtype=np.float32).reshape(4, 4),
            "mode F has values from 0 to 255, which must be 0 to 1",
        ),
        (np.full((4, 4), -0.5, np.float32), "mode F has values from -0.5 to -0.5"),
        (np.full((4, 4), np.nan, np.float32), "mode F has values from nan to nan"),
    ],
)
def test_a_range_that_nothing_says_is_refused(folder: Path, values: NDArray[np.float32], sentence: str) -> None:
    Image.fromarray(values).save(folder / "a" / "x.tif")
    assert f"a/x.tif: {sentence}" in refused(folder)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif"])
def test_images_are_turned_as_exif_says(folder: Path, kind: str, orientation: int) -> None:
    """Stored turned, shown upright: the same pixels as the scene stored upright."""
    T = Image.Transpose
    stored = {
        2: T.FLIP_LEFT_RIGHT,
        3: T.ROTATE_180,
        4: T.FLIP_TOP_BOTTOM,
        5: T.TRANSPOSE,
        6: T.ROTATE_90,
        7: T.TRANSVERSE,
        8: T.ROTATE_270,
    }
    image = Image.fromarray(SIDES)
    if orientation in stored:
        image = image.transpose(stored[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    settings = {"quality": 95, "subsampling": 0} if kind == "jpg" else {"lossless": True} if kind == "webp" else {}
    image.save(folder / "a" / f"x.{kind}", exif=exif, **settings)
    np.testing.assert_allclose(pixels(folder).transpose(1, 2, 0) * 255, SIDES, atol=12)


def test_damaged_exif_says_nothing(folder: Path) -> None:
    Image.fromarray(SIDES).save(folder / "a" / "x.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\xff\xff\xff\xff")
    assert pixels(folder).shape == (3, 32, 48)


CLEAR: dict[str, Callable[[Path], None]] = {
    "RGBA.png": lambda path: Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(path),
    "LA.png": lambda path: Image.new("LA", (4, 4), (0, 0)).save(path),
    "L.png": lambda path: Image.new("L", (4, 4), 0).save(path, transparency=0),
    "RGB.png": lambda path: Image.new("RGB", (4, 4)).save(path, transparency=(0, 0, 0)),
    "P.png": lambda path: Image.new("P", (4, 4), 0).save(path, transparency=0),
    "Pbytes.png": lambda path: Image.new("P", (4, 4), 0).save(path, transparency=bytes([0, 255])),
    "1.png": lambda path: Image.new("1", (4, 4), 0).save(path, transparency=0),
    "P.gif": lambda path: Image.new("P", (4, 4), 0).save(path, transparency=0),
    "RGBA.webp": lambda path: Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(path, lossless=True),
    "RGBA.tif": lambda path: Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(path),
    "RGBa.tif": lambda path: Image.new("RGBA", (4, 4)).save(path, tiffinfo={338: 1}),
    "16.png": lambda path: Image.fromarray(np.zeros((4, 4), np.uint16)).save(path, transparency=0),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", CLEAR)
def test_what_is_transparent_is_white(folder: Path, name: str, channels: int) -> None:
    CLEAR[name](folder / "a" / name)
    np.testing.assert_array_equal(pixels(folder, f",channels={channels}"), 1)


def test_half_transparent_black_is_grey(folder: Path) -> None:
    Image.new("RGBA", (4, 4), (0, 0, 0, 128)).save(folder / "a" / "x.png")
    np.testing.assert_allclose(pixels(folder), 127 / 255, atol=1e-6)


def test_modes_that_are_no_plain_colours(folder: Path) -> None:
    """Each is red, as it is seen."""
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    red.convert("CMYK").save(folder / "a" / "1.jpg", quality=95)
    red.convert("CMYK").save(folder / "a" / "2.tif")
    red.convert("YCbCr").save(folder / "a" / "3.tif")
    red.quantize(4).save(folder / "a" / "4.png")
    red.save(folder / "a" / "5.BMP", "BMP")
    Image.new("LAB", (8, 8), (138, 80 + 128, 67 + 128)).save(folder / "a" / "6.tif")
    for each in load(f"folder:{folder}").batch(np.arange(6)).inputs:
        np.testing.assert_allclose(each.mean((1, 2)), [1, 0, 0], atol=0.05)


def test_one_bit_is_black_and_white(folder: Path) -> None:
    Image.fromarray(np.eye(4) > 0).save(folder / "a" / "x.png")
    np.testing.assert_array_equal(pixels(folder, ",channels=1")[0], np.eye(4))


@pytest.mark.parametrize("kind", ["gif", "png", "webp", "tif"])
def test_of_an_animated_file_the_first_image_counts(folder: Path, kind: str) -> None:
    first, second = (Image.new("RGB", (4, 4), colour) for colour in ((255, 255, 255), (0, 0, 0)))
    first.save(folder / "a" / f"x.{kind}", save_all=True, append_images=[second])
    np.testing.assert_array_equal(pixels(folder), 1)


def test_the_shorter_side_is_scaled_and_the_centre_taken(folder: Path) -> None:
    wide = np.zeros((20, 60), np.uint8)
    wide[:, 20:40] = 255
    Image.fromarray(wide).save(folder / "a" / "x.png")
    crop = pixels(folder, ",size=10,channels=1")[0]
    np.testing.assert_array_equal(crop, pixels(folder, ",size=10,channels=1,fit=crop")[0])
    assert crop[:, 1:-1].min() > 0.99, "the middle third, whole"
    squash = pixels(folder, ",size=12,channels=1,fit=squash")[0]
    assert squash[:, 5:7].min() > 0.99
    assert squash[:, [0, -1]].max() < 0.01
    pad = pixels(folder, ",size=12,channels=1,fit=pad")[0]
    assert pad[:3].min() > 0.99, "white above"
    assert pad[5:7, 0].max() < 0.01, "the whole width"


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_a_square_image_is_scaled_whole(folder: Path, fit: str) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))
    image.save(folder / "a" / "x.png")
    plain = np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    np.testing.assert_array_equal(load(f"folder:{folder},size=16,fit={fit}").inputs[0], plain)


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
@pytest.mark.parametrize("deep", [False, True])
def test_a_sliver_has_every_fit(folder: Path, fit: str, deep: bool) -> None:
    Image.fromarray(np.full((1, 900), 9, np.uint16 if deep else np.uint8)).save(folder / "a" / "x.png")
    assert pixels(folder, f",size=16,fit={fit}").shape == (3, 16, 16)


def test_wrong_fits_are_refused(folder: Path) -> None:
    Image.new("L", (4, 4)).save(folder / "a" / "x.png")
    assert "fit = 'stretch': must be crop, squash or pad" in refused(folder, ",size=8,fit=stretch")
    assert "fit says how images are resized: add ,size=N" in refused(folder, ",fit=pad")


def _truncated(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:-3000])


# A program, which Pillow gives to an interpreter where there is one.
_EPS = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"


@pytest.mark.parametrize(
    ("name", "write", "sentence"),
    [
        ("x.jpg", _truncated, "this image cannot be read ("),
        ("x.png", _truncated, "this image cannot be read ("),
        ("x.tif", _truncated, "this image cannot be read ("),
        ("empty.png", lambda path: path.write_bytes(b""), "this image cannot be read (it is none of AVIF, BMP"),
        ("x.eps", lambda path: path.write_text(_EPS), "this image cannot be read (it is none of AVIF, BMP"),
        ("x.txt", lambda path: path.write_text("hello"), "this image cannot be read (it is none of AVIF, BMP"),
    ],
)
def test_what_cannot_be_decoded_is_refused(
    folder: Path, name: str, write: Callable[[Path], None], sentence: str
) -> None:
    write(folder / "a" / name)
    said = refused(folder)
    assert f"a/{name}: {sentence}" in said
    assert said.endswith("replace it or move it out of the class folder")


def test_more_pixels_than_pillows_limit_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (200, 100)).save(folder / "a" / "x.png")
    for limit in (15_000, 1_000):  # above Pillow's warning, above its error
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert f"a/x.png: this image has more than {limit:,} pixels: make it smaller" in refused(folder, ",size=8")


def test_nothing_is_warned_of(folder: Path) -> None:
    """Pillow's warnings are for programmers; what matters is refused."""
    Image.new("P", (4, 4), 0).save(folder / "a" / "x.png", transparency=bytes([0, 255]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(f"folder:{folder}")


def test_a_link_to_nothing_is_refused(folder: Path) -> None:
    Image.new("L", (4, 4)).save(folder / "a" / "x.png")
    (folder / "a" / "y.png").symlink_to(folder / "gone.png")
    assert "a/y.png: this link leads to nothing: mend it or remove it" in refused(folder)
    (folder / "a" / "y.png").unlink()
    (folder / "b").symlink_to(folder / "gone")
    assert "images/b: this link leads to nothing" in refused(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_image_that_may_not_be_read_is_refused(folder: Path) -> None:
    Image.new("L", (4, 4)).save(folder / "a" / "x.png")
    (folder / "a" / "x.png").chmod(0)
    assert "a/x.png: this image may not be read: change its permissions" in refused(folder)


def test_images_that_do_not_fit_are_refused_before_they_are_decoded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemAvailable: 100 kB\n")
    for number in range(3):
        _truncated(folder / "a" / f"{number}.png")  # whoever decoded one would say so
    monkeypatch.setattr(memory, "ROOT", tmp_path)
    said = refused(folder, ",size=128")
    assert "images: its examples take 180 kB of memory and this device has 102 kB (available memory): give this" in said
    assert "this image cannot be read" in refused(folder, ",size=8")
    assert "add ,size=N" in refused(folder) or "cannot be read" in refused(folder)


def test_turning_is_pillows(folder: Path) -> None:
    """The same as what ImageOps shows, for a file as a phone writes it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(SIDES).save(folder / "a" / "x.jpg", exif=exif)
    data: Dataset = load(f"folder:{folder}")
    shown = ImageOps.exif_transpose(Image.open(folder / "a" / "x.jpg"))
    np.testing.assert_array_equal(data.inputs[0], np.asarray(shown).transpose(2, 0, 1))


def test_an_image_beside_the_class_folders_is_not_left_out_in_silence(tmp_path: Path) -> None:
    for name in ("cat/0.png", "dog/0.png"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "README.txt").write_text("cats and dogs")
    assert len(load(f"folder:{tmp_path}")) == 2
    Image.new("RGB", (4, 4)).save(tmp_path / "2.JPG", "JPEG")
    with pytest.raises(DataError, match=r"2\.JPG: this image is in no class folder"):
        load(f"folder:{tmp_path}")

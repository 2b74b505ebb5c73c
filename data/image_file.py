"""One image file as the pixels that a person sees: turned as EXIF says, transparency on white, its values from 0 to 1.

What Pillow knows as 8 bits stays bytes. Deeper greys (16 bits, and floats from 0 to 1) become float32 from 0 to 1 by
the range of their type, never by what one image happens to hold: the same light must be the same number in every image.
Of a file with several images the first counts.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.untrusted import TooLarge, require_ratio, require_size
from zowarmup.data.dataset import DataError
from zowarmup.data.reading import opened

if TYPE_CHECKING:
    from PIL.Image import Image

Fit = Literal["crop", "squash", "pad"]
FITS: tuple[Fit, ...] = ("crop", "squash", "pad")
BYTE = 255.0
_SIXTEEN_BITS = 65535.0
# A pixel's, at most, while its image is decoded and turned; and then put on white, or scaled from deeper values.
_PLAIN_BYTES, _LAYERED_BYTES = 8, 20
_FREE_BYTES, _MOST_FILE_BYTES = 256 << 20, 512 << 20
KINDS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP")
"""Of files. Others that Pillow knows are documents, run a program, or hold another image than their header says."""
_TILE = (322, 323)
"""Tags of TIFF: width and height of a tile, which is decoded as a whole, however small the image."""
# Tags of TIFF: bits of a sample; how grey is stored, and the value for which 0 is white.
_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0


@dataclass(frozen=True, slots=True)
class Form:
    """What every image of a folder becomes.

    Args:
        size: Height and width in pixels; None: as they are.
        channels: 1 (grey) or 3 (RGB).
        fit: How an image that is not square becomes so: "crop" scales its shorter side to `size` and takes the centre,
            "pad" scales its longer side and puts white around it, "squash" scales each side by itself.
    """

    size: int | None = None
    channels: int = 3
    fit: Fit = "crop"


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What an image file says before it is decoded.

    Args:
        width: In pixels.
        height: In pixels.
        deep: Whether its grey is deeper than 8 bits.
        decoding_bytes: About how many bytes of memory decoding takes.
    """

    width: int
    height: int
    deep: bool
    decoding_bytes: int


def header(file: Path) -> ImageHeader:
    """Raises DataError where the file is no image, has more pixels than Pillow's limit, or far more than there is of it."""
    with _opened(file) as image:
        deep = _is_deep(image)
        each = _LAYERED_BYTES if deep or image.has_transparency_data else _PLAIN_BYTES
        tile = [_tag(image, number) for number in _TILE] if image.format == "TIFF" else []
        across, down = (value if isinstance(value, int) else 0 for value in tile or (0, 0))
        needed = each * max(image.width, across) * max(image.height, down)
        size = f"{file}: {image.width} x {image.height} pixels"
        require_ratio(size, needed, file.stat().st_size, "store it in another way, or make it smaller", _FREE_BYTES)
        return ImageHeader(image.width, image.height, deep, needed)


def read(file: Path, form: Form) -> NDArray[Any]:
    """An image's pixels.

    Args:
        file: The image file.
        form: What the image becomes.

    Returns:
        Uint8 (channels, H, W) from 0 to 255, or float32 from 0 to 1 where the image is deep.

    Raises:
        DataError: The file cannot be decoded, or nothing says which of its values is white.
    """
    with _opened(file) as opened:
        image = _upright(opened)
        deep = _is_deep(opened)
        image = _deep(file, opened, image) if deep else _shallow(image, form.channels)
        if form.size is not None:
            image = _fitted(image, form.size, form.fit, 1.0 if deep else "white")
        pixels = np.asarray(image, np.float32 if deep else np.uint8)
    if pixels.ndim == 3:
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))
    return np.repeat(pixels[np.newaxis], form.channels, axis=0)


@contextmanager
def _opened(file: Path) -> "Iterator[Image]":
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise DataError("reading folders of images needs Pillow: pip install 'zowarmup[images]'") from error
    remedy = "replace it or move it out of the class folder"
    Image.init()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with opened(file) as stream:
                require_size(str(file), file.stat().st_size, _MOST_FILE_BYTES, "make it smaller")
                with Image.open(stream, formats=[kind for kind in KINDS if kind in Image.OPEN]) as image:
                    yield image
        except DataError:
            raise
        except TooLarge as error:
            raise DataError(str(error)) from error
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            limit = f"{Image.MAX_IMAGE_PIXELS:,}"
            raise DataError(f"{file}: this image has more than {limit} pixels: make it smaller") from error
        except MemoryError as error:
            raise DataError(f"{file}: this image does not fit into this device's memory: make it smaller") from error
        except UnidentifiedImageError as error:
            raise DataError(
                f"{file}: this image cannot be read (it is none of {', '.join(KINDS)}): {remedy}"
            ) from error
        except Exception as error:  # what a decoder raises over a damaged file is anything
            said = " ".join(str(error).split()) or type(error).__name__
            raise DataError(f"{file}: this image cannot be read ({said}): {remedy}") from error


def _is_deep(image: "Image") -> bool:
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _upright(image: "Image") -> "Image":
    """As it is shown. EXIF that is damaged says nothing, as in every viewer."""
    from PIL import ImageOps

    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  (what a damaged block raises is anything)
        return image


def _shallow(image: "Image", channels: int) -> "Image":
    """8-bit grey or RGB, what is transparent on white."""
    from PIL import Image

    if image.has_transparency_data:
        if image.mode == "La":  # premultiplied, which converts to LA alone
            image = image.convert("LA")
        seen = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")
    return image.convert("L" if channels == 1 else "RGB")


def _deep(file: Path, opened: "Image", image: "Image") -> "Image":
    """Grey from 0 to 1 by the range of its type. `opened`: the file itself, whose header says what the type does not."""
    from PIL import Image

    white = _white(opened)
    if white is None:
        raise DataError(
            f"{file}: mode {opened.mode} (32-bit integers) does not say which value is white: store it as 16-bit grey "
            "(0 to 65535), or as float from 0 to 1"
        )
    stored = np.asarray(image)
    grey = stored.astype(np.float32)
    if not np.isfinite(grey).all() or grey.min() < 0 or grey.max() > white:
        raise DataError(
            f"{file}: mode {opened.mode} has values from {stored.min():g} to {stored.max():g}, which must be 0 to "
            f"{white:g}: store it as 16-bit grey, or as float from 0 to 1"
        )
    grey /= np.float32(white)
    if opened.format == "TIFF" and _tag(opened, _PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey = 1 - grey
    if isinstance(clear := opened.info.get("transparency"), int):
        grey[stored == clear] = 1
    return Image.fromarray(grey)


def _white(image: "Image") -> float | None:
    """The stored value that stands for white; None where the file does not say."""
    if image.mode == "F":
        return 1.0
    if image.mode == "I":  # 16 bits in these files, whose values Pillow brings to the whole range
        return _SIXTEEN_BITS if image.format in ("PNG", "PPM") else None
    bits = _tag(image, _BITS) if image.format == "TIFF" else None
    return float((1 << bits[0]) - 1) if isinstance(bits, tuple) else _SIXTEEN_BITS


def _tag(image: "Image", number: int) -> Any:
    return getattr(image, "tag_v2", {}).get(number)


def _fitted(image: "Image", size: int, fit: Fit, white: float | str) -> "Image":
    from PIL import Image, ImageOps

    square, method = (size, size), Image.Resampling.BILINEAR
    if fit == "squash":
        return image.resize(square, method)
    if fit == "crop":
        return ImageOps.fit(image, square, method)
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    padded = Image.new(image.mode, square, white)
    padded.paste(image.resize((width, height), method), ((size - width) // 2, (size - height) // 2))
    return padded

"""Mending one picture: what is wrong with it, and the bytes and suffix that it should have. Pure but for Pillow."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from PIL import Image, ImageFile, ImageOps

LARGEST_SIDE = 4096  # pixels; presets learn from a few hundred
LEAST_RECOVERED = 0.5  # share of its rows that a damaged picture must still show
QUALITY = 95
ORIENTATION = 0x0112
SUFFIXES: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jfif"), "MPO": (".jpg", ".jpeg"), "PNG": (".png",), "BMP": (".bmp",), "GIF": (".gif",), "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"), "PPM": (".ppm", ".pgm", ".pbm"),
}  # fmt: skip
_PLAIN_MODES = ("1", "L", "RGB", "P")
_LOSSY = ("JPEG", "MPO", "WEBP")
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class Mended:
    """A picture that was mended: ``data`` is None if only its name is wrong; ``suffix`` is empty if that is right; ``repairs`` tells all."""

    data: bytes | None
    suffix: str
    repairs: tuple[str, ...]


def mend_picture(path: str, data: bytes | None, largest: int = LARGEST_SIDE) -> Mended | None:
    """What is to be done with a picture; None if there is nothing to mend, or nothing that can be mended.

    Args:
        path: its suffix is compared with what is inside.
        data: the encoded picture.
        largest: side in pixels above which it is made smaller.
    """
    if not data:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data)) as file:
                form = str(file.format)
                repairs: list[str] = []
                lost = _load(file, largest)
                picture: Image.Image = file
                if lost:
                    recovered = _recover(data)
                    if recovered is None:
                        return None
                    share, picture = recovered
                    repairs.append(f"{lost}: {share:.0%} of its rows were recovered and encoded anew")
                mended = _mend(picture, largest, repairs)
                return _answer(path, form, mended, repairs)
        except Exception:  # noqa: BLE001  what cannot be opened at all is for quarantine, which tells why
            return None


def _load(picture: Image.Image, largest: int) -> str:
    """Decode it, as small as serves; what is wrong if that fails."""
    if picture.format == "JPEG" and max(picture.size) > 2 * largest:
        picture.draft(None, (largest, largest))
    try:
        picture.load()
    except Exception as error:  # noqa: BLE001  Pillow's readers raise whatever the broken bytes lead them to
        return "truncated" if "truncated" in str(error).lower() else f"damaged ({str(error).strip() or type(error).__name__})"
    return ""


def _recover(data: bytes) -> tuple[float, Image.Image] | None:
    """The share of rows that a damaged file still shows, and what can be seen; None if that is too little."""
    try:
        with _truncated_allowed(), Image.open(io.BytesIO(data)) as picture:
            picture.load()
            found = picture.copy()
            found.info = dict(picture.info)
            turned = picture.getexif().get(ORIENTATION, 1)
    except Exception:  # noqa: BLE001
        return None
    if turned != 1:
        found.getexif()[ORIENTATION] = turned
    rows = np.asarray(found.convert("RGB"))
    same = (rows == rows[-1:, :1]).all(axis=(1, 2))  # what is missing has one colour, down to the end
    filled = int(np.argmax(~same[::-1])) if not same.all() else len(rows)
    share = 1 - filled / len(rows)
    return (share, found) if share >= LEAST_RECOVERED else None


@contextmanager
def _truncated_allowed() -> Iterator[None]:
    """Pillow knows one switch for the whole process; a worker runs one task at a time."""
    with _ONE_AT_A_TIME:
        before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, True
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before


def _mend(picture: Image.Image, largest: int, repairs: list[str]) -> Image.Image:
    """Upright, in plain channels, not too large."""
    turned = picture.getexif().get(ORIENTATION, 1)
    if turned in range(2, 9):
        picture = ImageOps.exif_transpose(picture)
        repairs.append(f"turned upright (EXIF orientation {turned})")
    if picture.mode not in _PLAIN_MODES or "transparency" in picture.info:
        repairs.append(f"channels {picture.mode}{' with transparency' if picture.mode in _PLAIN_MODES else ''} made plain")
        picture = plain_channels(picture)
    if max(picture.size) > largest:
        before = f"{picture.width} x {picture.height}"
        picture = picture if picture.mode in ("L", "RGB") else picture.convert("RGB")
        picture.thumbnail((largest, largest), Image.Resampling.LANCZOS)
        repairs.append(f"made smaller, from {before} to {picture.width} x {picture.height} pixels")
    return picture


def plain_channels(picture: Image.Image) -> Image.Image:
    """8 bits of grey or RGB: what is transparent becomes white, more than 8 bits are scaled down, not cut off."""
    if picture.mode[0] in "IF":
        values = np.asarray(picture, dtype=np.float64)
        most = max(float(values.max(initial=0.0)), 65_535.0 if picture.mode.startswith("I;16") else 1.0)
        most = 255.0 if picture.mode in ("I", "F") and 1.0 < most <= 255.0 else most
        return Image.fromarray((values.clip(0) * (255.0 / most)).round().astype(np.uint8))
    if picture.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
        whole = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole).convert("L" if picture.mode in ("L", "LA") else "RGB")
    return picture.convert("RGB")


def _answer(path: str, form: str, picture: Image.Image, repairs: list[str]) -> Mended | None:
    suffix = PurePosixPath(path).suffix
    if not repairs:
        allowed = SUFFIXES.get(form)
        if allowed is None or suffix.lower() in allowed:
            return None
        return Mended(None, allowed[0], (f"its name ends in {suffix or 'nothing'}, but it is {form}",))
    target = "JPEG" if form in _LOSSY else "PNG"
    if suffix.lower() not in SUFFIXES.get(form, (suffix.lower(),)):
        repairs.append(f"its name ends in {suffix or 'nothing'}, but it is {form}")
    encoded = io.BytesIO()
    picture = picture if picture.mode in ("L", "RGB") or target == "PNG" else picture.convert("RGB")
    if target == "JPEG":
        picture.save(encoded, "JPEG", quality=QUALITY, subsampling=0, exif=b"")
    else:
        picture.info.pop("transparency", None)
        picture.save(encoded, "PNG", exif=b"")
    return Mended(encoded.getvalue(), "" if suffix.lower() in SUFFIXES[target] else SUFFIXES[target][0], tuple(repairs))

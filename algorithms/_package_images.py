"""Pictures as a package takes them. The one decoder of training, validation of packages and prediction: Pillow and numpy only."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")

# What Pillow raises on broken files besides OSError.
_BROKEN = (ValueError, SyntaxError, TypeError, LookupError, ArithmeticError, EOFError, struct.error, Image.DecompressionBombError)


def decode_picture(source: str | os.PathLike[str] | bytes) -> NDArray[np.uint8]:
    """Pixels of a file or of encoded bytes: RGB, uint8 [H, W, 3]; the first frame, EXIF orientation left as it is.

    Raises:
        OSError: not a picture, truncated, or not readable; the sentence begins with "it" or "its" and names no path.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else Path(source)
    try:
        with Image.open(file) as picture:
            return np.asarray(picture.convert("RGB"), dtype=np.uint8)
    except UnidentifiedImageError:  # Pillow would tell the path, or the address of the object in memory, another one each time
        is_empty = not (source if isinstance(source, bytes) else Path(source).stat().st_size)
        raise OSError("it is empty" if is_empty else "its bytes are in no known picture format") from None
    except (OSError, *_BROKEN) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the file system's word, not Pillow's
            raise
        raise OSError(_in_words(error)) from None


def _in_words(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return f"it has too many pixels; at most {2 * (Image.MAX_IMAGE_PIXELS or 0):,} are decoded"
    told = str(error).strip() or type(error).__name__
    return "it is truncated: its bytes end too early" if "truncated" in told.lower() else f"it is damaged ({told})"


def group_by_size(pictures: list[NDArray[np.uint8]], most: int) -> list[list[int]]:
    """Indices of pictures that can share a batch: equal height and width, at most ``most`` of them, in order of their first member."""
    groups: dict[tuple[int, ...], list[list[int]]] = {}
    for index, picture in enumerate(pictures):
        batches = groups.setdefault(picture.shape, [[]])
        if len(batches[-1]) == most:
            batches.append([])
        batches[-1].append(index)
    return sorted((batch for batches in groups.values() for batch in batches), key=lambda batch: batch[0])

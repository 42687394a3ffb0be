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
        OSError: not a picture, truncated, or not readable.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else Path(source)
    try:
        with Image.open(file) as picture:
            return np.asarray(picture.convert("RGB"), dtype=np.uint8)
    except UnidentifiedImageError:
        if isinstance(source, bytes):  # Pillow would tell the address of the object in memory, another one each time
            raise OSError("its bytes are in no known picture format") from None
        raise
    except _BROKEN as error:
        raise OSError(f"not a picture that can be decoded: {error}") from None


def group_by_size(pictures: list[NDArray[np.uint8]], most: int) -> list[list[int]]:
    """Indices of pictures that can share a batch: equal height and width, at most ``most`` of them, in order of their first member."""
    groups: dict[tuple[int, ...], list[list[int]]] = {}
    for index, picture in enumerate(pictures):
        batches = groups.setdefault(picture.shape, [[]])
        if len(batches[-1]) == most:
            batches.append([])
        batches[-1].append(index)
    return sorted((batch for batches in groups.values() for batch in batches), key=lambda batch: batch[0])

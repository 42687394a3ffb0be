"""The picture profile: one row for each picture of a data set, made in one parallel pass that decodes every picture once.

Its columns are what image expectations speak of; ``docs/validation.md`` lists them.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from tasks._near_duplicates import make_thumb

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

LEVELS = np.arange(256, dtype=np.int64)
SQUARES = LEVELS**2
MEASURED = ("decodable", "why", "format", "width", "height", "mode", "channels", "mean", "std")
THUMB = "thumb"
DERIVED = ("copies", "leaks_into", "other_labels")
PICTURE_COLUMNS = ("path", "split", "label", "sha256", "num_bytes", *MEASURED, *DERIVED)
LATER_SPLITS = {"train": ("test", "valid"), "valid": ("test",)}
FLAT = 8.0  # standard deviation of the brightness below which a JPEG is looked at pixel by pixel
GRID = 64  # pixels each way by which brightness is measured: enough for it, at a few percent of the cost of decoding


def measure_pictures(pictures: Iterable[bytes | None]) -> dict[str, list[Any]]:
    """Decode pictures whole and measure them; a broken one is described, never raised.

    Returns:
        The ``MEASURED`` columns, a value for each picture: ``decodable``, ``why`` (not), ``format``, ``width`` and ``height`` in pixels,
        ``mode`` and ``channels``, ``mean`` and ``std`` of the brightness (0 to 255). What could not be measured is None. And ``thumb``, see
        ``tasks._near_duplicates``.
    """
    rows = []
    with warnings.catch_warnings():  # once for all of them: each entry makes Python forget which warnings it has filtered
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for data in pictures:
            row = _measure(data, reduced=True)
            if row["std"] is not None and row["std"] < FLAT and row["format"] == "JPEG" and data:
                row = _measure(data, reduced=False)  # averages of neighbours hide a fine grain
            rows.append(row)
    return {name: [row[name] for row in rows] for name in (*MEASURED, THUMB)}


def _measure(data: bytes | None, reduced: bool) -> dict[str, Any]:
    """The row of one picture. ``reduced``: a JPEG's pixels are averaged by its own decoder, which reads all of the file all the same."""
    found: dict[str, Any] = dict.fromkeys((*MEASURED, THUMB)) | {"decodable": False}
    if not data:
        return found | {"why": "the file is empty"}
    try:
        with Image.open(io.BytesIO(data)) as picture:
            found |= {"format": picture.format, "width": picture.width, "height": picture.height}
            if reduced and picture.format == "JPEG":
                picture.draft(None, (GRID, GRID))
            picture.load()
            mean, std, thumb = _brightness(picture)
            found |= {"mode": picture.mode, "channels": len(picture.getbands()), "mean": mean, "std": std, "decodable": True, THUMB: thumb}
    except Exception as error:  # noqa: BLE001  Pillow's readers raise whatever the broken bytes lead them to
        return dict.fromkeys((*MEASURED, THUMB)) | {"decodable": False, "why": _why(error, data)}
    return found


def _brightness(picture: Image.Image) -> tuple[float, float, bytes]:
    """Mean and standard deviation of the brightness, 0 to 255, of a grid of pixels: all of a small picture, every n-th of a large one; its thumbnail."""
    if max(picture.size) > GRID:
        picture = picture.resize((min(picture.width, GRID), min(picture.height, GRID)), Image.Resampling.NEAREST)
    if picture.mode[0] in "IF":  # 16 and 32 bit: conversion to 8 bits would clip them
        values = np.asarray(picture, dtype=np.float64)
        scale = 255.0 / max(float(values.max(initial=0.0)), 65_535.0 if picture.mode.startswith("I") else 1.0)
        thumb = make_thumb(Image.fromarray((values * scale).clip(0, 255).astype(np.uint8)))
        return float(values.mean() * scale), float(values.std() * scale), thumb
    grey = picture if picture.mode == "L" else picture.convert("L")
    counts = np.array(grey.histogram(), np.int64)
    total = int(counts.sum())
    mean, squares = int((counts * LEVELS).sum()) / total, int((counts * SQUARES).sum()) / total
    return mean, math.sqrt(max(squares - mean * mean, 0.0)), make_thumb(grey)


def _why(error: Exception, data: bytes) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is text, not a picture" if _is_text(data[:512]) else "its bytes are in no known picture format"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"too many pixels; at most {Image.MAX_IMAGE_PIXELS:,} are decoded"
    words = str(error).strip() or type(error).__name__
    return f"truncated ({words})" if "truncated" in words.lower() else f"damaged ({words})"


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        text = head[: error.start].decode("utf-8") if error.start > len(head) - 4 else "\0"
    return all(letter.isprintable() or letter.isspace() for letter in text)


def profile_pictures(table: pa.Table, split: str, classes: list[str]) -> pa.Table:
    """The profile of one row group (columns ``path``, ``sha256``, ``label``, ``image``), without the derived columns."""
    import pyarrow as pa
    import pyarrow.compute as pc

    text = ("path", "split", "label", "sha256", "why", "format", "mode")
    types = {"num_bytes": pa.int64(), "decodable": pa.bool_(), "mean": pa.float64(), "std": pa.float64()}
    names = [name for name in PICTURE_COLUMNS if name not in DERIVED]
    schema = pa.schema([*((name, pa.string() if name in text else types.get(name, pa.int32())) for name in names), (THUMB, pa.binary())])
    images = table.column("image")
    rows: dict[str, list[Any]] = measure_pictures(images[position].as_py() for position in range(table.num_rows))
    rows["num_bytes"] = [length or 0 for length in pc.binary_length(images).to_pylist()]
    labels = table.column("label").to_pylist()
    rows["path"], rows["split"] = table.column("path").to_pylist(), [split] * table.num_rows
    rows["label"] = [None if label is None else classes[label] for label in labels]
    rows["sha256"] = [value.hex() if isinstance(value, bytes) else value for value in table.column("sha256").to_pylist()]
    return pa.table(rows, schema=schema)


def join_profiles(profiles: list[pa.Table]) -> pd.DataFrame:
    """All pictures, with the columns that need them all: ``copies``, ``leaks_into``, ``other_labels`` (identical bytes)."""
    import pyarrow as pa

    frame = pa.concat_tables(profiles).to_pandas()
    good = frame["decodable"]
    frame["copies"] = frame[good].groupby(["split", "sha256"])["path"].transform("size").reindex(frame.index)
    leaks = _leaks(frame[good])
    frame["leaks_into"] = leaks.reindex(frame.index).astype(object)
    several = _several_labels(frame[good])
    others = [
        ", ".join(sorted(other for other in several.get(sha, ()) if other != label)) or None
        for sha, label in zip(frame["sha256"], frame["label"], strict=True)
    ]
    frame["other_labels"] = others
    return frame[list(PICTURE_COLUMNS)]


def _several_labels(frame: pd.DataFrame) -> dict[str, list[str]]:
    """The labels of every picture that has more than one, by its digest."""
    pairs = frame[["sha256", "label"]].drop_duplicates()
    pairs = pairs[pairs.duplicated("sha256", keep=False)]
    return {str(sha): list(group) for sha, group in pairs.groupby("sha256")["label"]}


def _leaks(frame: pd.DataFrame) -> pd.Series:
    """For each picture the later split that holds its exact copy; the copy in the split that judges stays, the one that teaches goes."""
    import pandas as pd

    leaks = pd.Series(None, index=frame.index, dtype=object)
    seen = {split: set(group) for split, group in frame.groupby("split")["sha256"]}
    for split, later in LATER_SPLITS.items():
        mine = frame.index[frame["split"] == split]
        for other in reversed(later):
            copied = mine[frame.loc[mine, "sha256"].isin(seen.get(other, set()))]
            leaks.loc[copied] = other
    return leaks


def summarise_pictures(frame: pd.DataFrame) -> dict[str, Any]:
    """Sizes, brightness, formats and duplicates of a data set in a few numbers (of the pictures that can be decoded)."""
    good = frame[frame["decodable"]]
    spread = {
        column: {
            "min": float(good[column].min()),
            "mean": round(float(good[column].mean()), 4),
            "median": float(good[column].median()),
            "max": float(good[column].max()),
        }
        for column in ("width", "height", "mean", "std", "num_bytes")
        if len(good)
    }
    spread = {{"mean": "brightness", "std": "contrast"}.get(name, name): numbers for name, numbers in spread.items()}
    return {
        **spread,
        "formats": {str(name): int(count) for name, count in good["format"].value_counts().sort_index().items()},
        "modes": {str(name): int(count) for name, count in good["mode"].value_counts().sort_index().items()},
        "duplicates": int((good["copies"] > 1).sum()),
        "leaks": int(good["leaks_into"].notna().sum()),
        "label_conflicts": int(good["other_labels"].notna().sum()),
    }

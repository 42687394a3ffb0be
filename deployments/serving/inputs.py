"""From what clients send to what the model takes: tensors, rows and pictures, checked against the package's schema. Pure functions."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from algorithms._package_images import decode_picture
from algorithms._package_tables import UnusableInputError, convert_row, property_type, stack_rows
from algorithms.package import Package
from deployments.serving.tensors import refuse

_KINDS = {"float": ("f", "FP32"), "int": ("iu", "INT64"), "string": ("O", "BYTES")}
_NUMPY = {"float": np.float32, "int": np.int64, "string": np.object_}
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may ask for at most."""

    max_rows: int = 1024
    max_megapixels: float = 50.0


@dataclass(frozen=True, slots=True)
class Column:
    """One input of a table model.

    Attributes:
        kind: ``float``, ``int`` or ``string``.
        nullable: whether its values may be missing (NaN, an empty text).
        required: whether it may be left out altogether.
    """

    name: str
    kind: str
    nullable: bool
    required: bool

    @property
    def datatype(self) -> str:
        return _KINDS[self.kind][1]


def columns_of(package: Package) -> list[Column]:
    """The inputs of a table model, in order; none of a picture model."""
    schema = package.description["inputs"]
    required = set(schema.get("required", [name for name, _ in package.columns]))
    found = []
    for name, kind in package.columns:
        definition = schema.get("properties", {}).get(name, {"type": ["null"]})
        found.append(Column(name, kind, property_type(definition)[1] and kind != "int", name in required))
    return found


def _check_rows(rows: int, limits: Limits) -> None:
    if rows < 1:
        raise refuse("there is no row in it")
    if rows > limits.max_rows:
        raise refuse(f"{rows} rows came, at most {limits.max_rows} are allowed in one request", 413)


def picture_tensors(inputs: Mapping[str, NDArray[Any]], limits: Limits) -> tuple[dict[str, NDArray[Any]], int]:
    """Feeds and number of rows from the tensors of a request for a picture model.

    Raises:
        RequestRefusedError: not one input ``image``, UINT8 [N, H, W, 3].
    """
    if set(inputs) != {"image"}:
        raise refuse(f"this model takes one input, 'image'; {', '.join(map(repr, sorted(inputs)))} came")
    image = inputs["image"]
    if image.dtype != np.uint8:
        raise refuse(f"input 'image' must be UINT8 [N, H, W, 3] (RGB from 0 to 255), its datatype here is {image.dtype}")
    if image.ndim != 4 or image.shape[3] != 3 or 0 in image.shape:
        raise refuse(f"input 'image' must have the shape [N, H, W, 3] (RGB), none of it 0; its shape here is {list(image.shape)}")
    rows, height, width, _ = image.shape
    _check_rows(rows, limits)
    _check_pixels(height, width, limits)
    return {"image": image}, rows


def _check_pixels(height: int, width: int, limits: Limits) -> None:
    if height * width > limits.max_megapixels * 1e6:
        raise refuse(f"the picture has {height * width / 1e6:.1f} megapixels, at most {limits.max_megapixels:g} are allowed", 413)


def table_tensors(inputs: Mapping[str, NDArray[Any]], columns: Sequence[Column], limits: Limits) -> tuple[dict[str, NDArray[Any]], int]:
    """Feeds and number of rows from the tensors of a request for a table model; columns that may be left out are missing then.

    Raises:
        RequestRefusedError: columns are missing, unknown, of another type or length, or hold values that they may not.
    """
    known = {column.name for column in columns}
    if unknown := sorted(set(inputs) - known):
        raise refuse(
            f"this model has no input {', '.join(map(repr, unknown[:_SHOWN]))}; it has {', '.join(map(repr, sorted(known)))}"[:600]
        )
    if absent := [column.name for column in columns if column.required and column.name not in inputs]:
        raise refuse(f"missing input{'s' if len(absent) > 1 else ''}: {', '.join(map(repr, absent[:20]))}")
    if not inputs:
        raise refuse("there is no row in it")
    rows = len(next(iter(inputs.values())))
    _check_rows(rows, limits)
    return {column.name: _column(column, inputs.get(column.name), rows) for column in columns}, rows


def _column(column: Column, array: NDArray[Any] | None, rows: int) -> NDArray[Any]:
    if array is None:
        missing: Any = {"float": math.nan, "int": 0, "string": ""}[column.kind]
        return np.full((rows, 1), missing, dtype=_NUMPY[column.kind])
    kinds, datatype = _KINDS[column.kind]
    if array.dtype.kind not in kinds:
        raise refuse(f"input {column.name!r} must be {datatype}, its values here are {array.dtype}")
    if array.shape not in ((rows,), (rows, 1)):
        raise refuse(f"input {column.name!r} must have the shape [{rows}, 1] like the others, its shape here is {list(array.shape)}")
    if array.dtype == np.uint64 and rows and int(array.max()) > np.iinfo(np.int64).max:
        raise refuse(f"input {column.name!r} holds a number above {np.iinfo(np.int64).max}")
    with np.errstate(over="ignore"):
        values: NDArray[Any] = array.astype(_NUMPY[column.kind], copy=False).reshape(rows, 1)
    _check_values(column, values)
    return values


def _check_values(column: Column, values: NDArray[Any]) -> None:
    if column.kind == "float":
        if np.isinf(values).any():
            raise refuse(f"input {column.name!r}: the value of row {_first(np.isinf(values))} is infinite, or too large for 32 bits")
        missing = np.isnan(values)
    elif column.kind == "string":
        missing = values == ""
    else:
        return
    if not column.nullable and missing.any():
        raise refuse(
            f"input {column.name!r}: the value of row {_first(missing)} is missing (NaN or empty), and the model knows no missing ones"
        )


def _first(flags: NDArray[Any]) -> int:
    """The number of the first row that is flagged, from 0."""
    return int(np.argmax(flags.ravel()))


def table_rows(rows: Sequence[Any], package: Package, columns: Sequence[Column], limits: Limits) -> dict[str, NDArray[Any]]:
    """Feeds from JSON objects, converted as ``atelier predict`` does.

    Raises:
        RequestRefusedError: rows that cannot be used; the first few of them, each with its number from 0.
    """
    _check_rows(len(rows), limits)
    converted, problems = [], []
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            problems.append(f"row {number}: expected an object with the columns as keys, got {type(row).__name__}")
            continue
        nested = [name for name, value in row.items() if isinstance(value, (dict, list))]
        try:
            if nested:
                raise UnusableInputError(f"column {nested[0]!r}: expected a number, a text, true, false or null")
            converted.append(convert_row(row, package.columns, package.description["inputs"]))
        except UnusableInputError as error:
            problems.append(f"row {number}: {error}")
        except OverflowError:
            problems.append(f"row {number}: a number is out of range")
    if problems:
        raise refuse("; ".join(problems[:_SHOWN]) + (f"; and {len(problems) - _SHOWN} more rows" if len(problems) > _SHOWN else ""))
    try:
        with np.errstate(over="ignore"):
            feeds = stack_rows(converted, package.columns)
    except OverflowError:
        raise refuse("a whole number is too large for 64 bits") from None
    for column in columns:
        if column.kind == "float" and np.isinf(feeds[column.name]).any():
            raise refuse(
                f"column {column.name!r}: the value of row {_first(np.isinf(feeds[column.name]))} is infinite, or too large for 32 bits"
            )
    return feeds


def picture(encoded: bytes, limits: Limits, name: str = "the picture") -> NDArray[np.uint8]:
    """Pixels [H, W, 3] of an encoded picture, decoded as in training; its size is looked at before it is decoded.

    Raises:
        RequestRefusedError: not a picture, truncated, or too large.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as opened:
            width, height = opened.size
    except (OSError, ValueError, SyntaxError, TypeError, Image.DecompressionBombError) as error:
        why = "it is empty" if not encoded else "its format is not known" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise refuse(f"{name} cannot be decoded: {why}") from None
    _check_pixels(height, width, limits)
    try:
        return decode_picture(encoded)
    except OSError as error:
        raise refuse(f"{name} cannot be decoded: {error}") from None

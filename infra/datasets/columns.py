"""Columns in one canonical form, and their content as bytes and as hashes.

Canonical types are int64, float64, bool, string and timestamp[us]; NaN counts as missing. So a table has the same content whether it came as
CSV, Parquet or JSON Lines.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.datasets.splits import mix

_NULL = np.uint64(0x6E756C6C)


def canonical_type(kind: pa.DataType) -> pa.DataType | None:
    """The type in which a column of this type is kept; None if it cannot be a column of a table."""
    if pa.types.is_dictionary(kind):
        return canonical_type(kind.value_type)
    if pa.types.is_null(kind) or pa.types.is_boolean(kind):
        return kind
    if pa.types.is_integer(kind):
        return pa.int64()
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return pa.float64()
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or pa.types.is_time(kind):
        return pa.string()
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return pa.timestamp("us")
    return None


def canonical(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """A column in a canonical type."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_timestamp(column.type) and column.type.tz is not None:
        column = pc.cast(column, pa.timestamp(column.type.unit))  # keeps the instant, as UTC
    if column.type != kind:
        column = pc.cast(column, kind, safe=not pa.types.is_timestamp(kind))  # nanoseconds are cut to microseconds
    if pa.types.is_float64(kind):
        nan = pc.is_nan(column)
        if pc.any(nan).as_py():
            column = pc.if_else(nan, pa.scalar(None, pa.float64()), column)
    return column


def column_bytes(column: pa.Array) -> Iterator[bytes | memoryview]:
    """The content of a canonical column: which values are there, then the values (0 or "" for those that are not)."""
    yield np.packbits(pc.is_valid(column).to_numpy(zero_copy_only=False)).tobytes()
    if pa.types.is_string(column.type):
        filled = pc.fill_null(column, "")
        yield pc.binary_length(filled).to_numpy(zero_copy_only=False).tobytes()
        _, offsets, data = filled.buffers()
        bounds = np.frombuffer(offsets, np.int32)[filled.offset : filled.offset + len(filled) + 1]
        if data is not None and len(bounds):
            yield memoryview(data)[bounds[0] : bounds[-1]]
    else:
        yield _words(column).tobytes()


def _words(column: pa.Array) -> NDArray[np.uint64]:
    """The values of a canonical column that is not of strings, as 64-bit words [N]; missing ones are 0."""
    if pa.types.is_boolean(column.type):
        return pc.fill_null(column, False).to_numpy(zero_copy_only=False).astype(np.uint64)
    if pa.types.is_timestamp(column.type):
        column = pc.cast(column, pa.int64())
    values = pc.fill_null(column, 0).to_numpy(zero_copy_only=False)
    if values.dtype == np.float64:
        values = values + 0.0  # -0.0 becomes 0.0
    return values.view(np.uint64)


def column_hashes(column: pa.Array, salt: np.uint64) -> NDArray[np.uint64]:
    """A 64-bit hash of each value, [N]; equal values of one column have equal hashes."""
    if pa.types.is_string(column.type):
        encoded = column.dictionary_encode()
        words = [int.from_bytes(hashlib.blake2b(v.encode(), digest_size=8).digest(), "little") for v in encoded.dictionary.to_pylist()]
        table = np.append(np.array(words, np.uint64), np.uint64(0))
        hashes = table[pc.fill_null(encoded.indices, len(words)).to_numpy(zero_copy_only=False)]
    else:
        hashes = _words(column).copy()
    if column.null_count:
        hashes[pc.is_null(column).to_numpy(zero_copy_only=False)] = _NULL
    return mix(hashes ^ salt)

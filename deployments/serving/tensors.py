"""Tensors of the Open Inference Protocol v2 on the wire: JSON, and the binary extension. Pure functions; numpy and orjson."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from infra.errors import RequestRefusedError

DATATYPES: Mapping[str, Any] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}
_NAMES = {np.dtype(dtype): name for name, dtype in DATATYPES.items()}
_NUMBERS = {int, float, type(None)}
_LENGTH_BYTES = 4
_MOST_DIMENSIONS = 8
_LONGEST_KNOWN = 1024  # bytes of a request's JSON part that is worth remembering


@dataclass(slots=True)
class InferRequest:
    """What a client sent to ``infer``.

    Attributes:
        id: of the request, as the client named it; comes back in the answer.
        inputs: arrays by name, each of the type and shape that the request stated.
        outputs: the names wanted, each with whether its data shall come as bytes; None: all.
        binary: whether outputs that do not say it come as bytes.
        parameters: of the request.
    """

    id: str
    inputs: dict[str, NDArray[Any]]
    outputs: dict[str, bool] | None
    binary: bool
    parameters: Mapping[str, Any] = field(default_factory=dict)


def refuse(reason: str, status: int = 400) -> RequestRefusedError:
    """The error that makes the server answer 4xx with this reason."""
    return RequestRefusedError(status, reason)


def load_json(body: bytes | bytearray | memoryview) -> Any:
    """The JSON value of a body.

    Raises:
        RequestRefusedError: it is none. NaN and Infinity are not JSON.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        what = "is empty" if not body else f"is not JSON ({error})"
        raise refuse(f"the body {what}") from None


@dataclass(frozen=True, slots=True)
class _Entry:
    """What a request says of one input; ``size`` bytes of it follow the JSON, or ``data`` is its value."""

    name: str
    datatype: str
    shape: list[int]
    size: int | None
    data: Any


@dataclass(frozen=True, slots=True)
class _Head:
    """The JSON part of a request, checked."""

    id: str
    entries: list[_Entry]
    outputs: dict[str, bool] | None
    binary: bool
    parameters: Mapping[str, Any]


def parse_infer(body: bytes | bytearray, header_length: int | None = None) -> InferRequest:
    """Read an inference request.

    Args:
        body: JSON, or JSON followed by the bytes of tensors.
        header_length: bytes of the JSON part (``Inference-Header-Content-Length``); None: all is JSON.

    Raises:
        RequestRefusedError: it does not follow the protocol.
    """
    view = memoryview(body)
    if header_length is None:
        head, offset = _read_head(load_json(view)), len(view)
    elif not 0 < header_length <= len(view):
        raise refuse(f"Inference-Header-Content-Length is {header_length}, but the body has {len(view)} bytes")
    else:
        said = view[:header_length]
        # A client that sends bytes says the same of them every time.
        head = _known_head(bytes(said)) if header_length <= _LONGEST_KNOWN else _read_head(load_json(said))
        offset = header_length
    inputs: dict[str, NDArray[Any]] = {}
    for entry in head.entries:
        if entry.name in inputs:
            raise refuse(f"input {entry.name!r} came twice")
        if entry.size is None:
            inputs[entry.name] = from_json(entry.data, entry.datatype, entry.shape, entry.name)
            continue
        if offset + entry.size > len(view):
            raise refuse(f"input {entry.name!r}: {entry.size} bytes were announced, {len(view) - offset} came")
        inputs[entry.name] = from_bytes(view[offset : offset + entry.size], entry.datatype, entry.shape, entry.name)
        offset += entry.size
    if offset != len(view):
        raise refuse(f"{len(view) - offset} bytes are left after the last tensor")
    return InferRequest(head.id, inputs, head.outputs, head.binary, head.parameters)


@lru_cache(maxsize=512)
def _known_head(said: bytes) -> _Head:
    return _read_head(load_json(said))


def _read_head(document: Any) -> _Head:
    if not isinstance(document, dict):
        raise refuse(f"the body must be a JSON object with 'inputs', got {type(document).__name__}")
    listed = document.get("inputs")
    if not isinstance(listed, list) or not listed:
        raise refuse("'inputs' must be a list of at least one tensor: {name, datatype, shape, data}")
    entries = [_read_entry(entry) for entry in listed]
    identifier = document.get("id", "")
    if not isinstance(identifier, str):
        raise refuse("'id' must be a text")
    parameters = _parameters(document, "the request")
    binary = bool(parameters.get("binary_data_output", False))
    return _Head(identifier, entries, _read_outputs(document.get("outputs"), binary), binary, parameters)


def _parameters(document: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    parameters = document.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise refuse(f"'parameters' of {what} must be an object")
    return parameters


def _read_outputs(listed: Any, binary: bool) -> dict[str, bool] | None:
    if listed is None or listed == []:
        return None
    if not isinstance(listed, list):
        raise refuse("'outputs' must be a list of objects with a 'name'")
    wanted: dict[str, bool] = {}
    for entry in listed:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise refuse("'outputs' must be a list of objects with a 'name'")
        wanted[entry["name"]] = bool(_parameters(entry, f"output {entry['name']!r}").get("binary_data", binary))
    return wanted


def _read_entry(entry: Any) -> _Entry:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise refuse("each input must be an object with 'name', 'datatype', 'shape' and 'data'")
    name, datatype, shape = entry["name"], entry.get("datatype"), entry.get("shape")
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise refuse(f"input {name!r}: the datatype {datatype!r} is none of {', '.join(DATATYPES)}")
    if not isinstance(shape, list) or not 0 < len(shape) <= _MOST_DIMENSIONS or set(map(type, shape)) != {int} or min(shape) < 0:
        raise refuse(f"input {name!r}: 'shape' must be a list of 1 to {_MOST_DIMENSIONS} whole numbers from 0 up, got {shape!r}"[:300])
    size = entry.get("parameters", {}).get("binary_data_size") if isinstance(entry.get("parameters", {}), dict) else None
    if size is None and "data" not in entry:
        raise refuse(f"input {name!r} has no 'data' (and no parameter 'binary_data_size')")
    if size is not None and (type(size) is not int or size < 0):
        raise refuse(f"input {name!r}: 'binary_data_size' must be a whole number of bytes, got {size!r}")
    return _Entry(name, datatype, shape, size, entry.get("data"))


def from_json(data: Any, datatype: str, shape: Sequence[int], name: str) -> NDArray[Any]:
    """An array from a flat or nested list; null is NaN in floating point numbers and an empty text in BYTES.

    Raises:
        RequestRefusedError: another number of values than the shape wants, ragged lists, or values of another type.
    """
    flat = _flatten(data, shape, name)
    count = math.prod(shape)
    if len(flat) != count:
        raise refuse(f"input {name!r}: its shape {list(shape)} wants {count} values, {len(flat)} came")
    try:
        if datatype == "UINT8":
            return np.frombuffer(bytes(flat), dtype=np.uint8).reshape(shape)  # ten times faster than np.array, and as strict
        kinds = set(map(type, flat))
        if datatype == "BYTES":
            if not kinds <= {str, type(None)}:
                raise TypeError
            return np.array(["" if value is None else value for value in flat], dtype=object).reshape(shape)
        if datatype.startswith("FP"):
            if not kinds <= _NUMBERS:
                raise TypeError
            with np.errstate(over="ignore"):  # what becomes infinite is refused later, by name
                return np.array(flat, dtype=DATATYPES[datatype]).reshape(shape)
        if not kinds <= ({bool} if datatype == "BOOL" else {int}):
            raise TypeError
        return np.array(flat, dtype=DATATYPES[datatype]).reshape(shape)
    except (TypeError, ValueError, OverflowError):
        raise refuse(f"input {name!r}: not all values are {_in_words(datatype)}") from None


def _in_words(datatype: str) -> str:
    if datatype == "BYTES":
        return "texts"
    if datatype == "BOOL":
        return "true or false"
    if datatype.startswith("FP"):
        return f"numbers ({datatype})"
    info = np.iinfo(DATATYPES[datatype])
    return f"whole numbers from {info.min} to {info.max} ({datatype})"


def _flatten(data: Any, shape: Sequence[int], name: str) -> list[Any]:
    if not isinstance(data, list):
        raise refuse(f"input {name!r}: 'data' must be a list")
    if not data or type(data[0]) is not list:
        return data
    level = data
    for depth, size in enumerate(shape[1:], start=1):
        if set(map(type, level)) != {list} or set(map(len, level)) != {size}:
            raise refuse(f"input {name!r}: the nested lists of 'data' do not have the shape {list(shape)} (at depth {depth})")
        level = list(chain.from_iterable(level))
    if level and type(level[0]) is list:
        raise refuse(f"input {name!r}: 'data' is nested deeper than its shape {list(shape)}")
    return level


def from_bytes(data: memoryview, datatype: str, shape: Sequence[int], name: str) -> NDArray[Any]:
    """An array from raw bytes, row-major and little-endian; a text is preceded by its length (4 bytes). Numbers are not copied.

    Raises:
        RequestRefusedError: the bytes are not as many as the shape wants, or a text is not UTF-8.
    """
    count = math.prod(shape)
    if datatype == "BYTES":
        return _texts(data, count, name).reshape(shape)
    dtype = np.dtype(DATATYPES[datatype])
    if len(data) != count * dtype.itemsize:
        raise refuse(f"input {name!r}: {datatype} {list(shape)} takes {count * dtype.itemsize} bytes, {len(data)} came")
    return np.frombuffer(data, dtype=dtype).reshape(shape)


def _texts(data: memoryview, count: int, name: str) -> NDArray[Any]:
    texts: list[str] = []
    offset = 0
    while offset + _LENGTH_BYTES <= len(data) and len(texts) < count:
        start = offset + _LENGTH_BYTES
        offset = start + int.from_bytes(data[offset:start], "little")
        if offset > len(data):
            break
        try:
            texts.append(str(data[start:offset], "utf-8"))
        except UnicodeDecodeError:
            raise refuse(f"input {name!r}: text {len(texts) + 1} is not UTF-8") from None
    if len(texts) != count or offset != len(data):
        raise refuse(f"input {name!r}: its bytes are not {count} texts, each preceded by its length in 4 bytes")
    return np.array(texts, dtype=object)


def datatype_of(array: NDArray[Any]) -> str:
    """The protocol's name of an array's type."""
    return _NAMES.get(array.dtype, "BYTES")


def build_response(
    model: str, version: str, identifier: str, outputs: Mapping[str, NDArray[Any]], binary: Mapping[str, bool]
) -> tuple[bytes, int | None]:
    """The answer's body, and the bytes of its JSON part if tensors follow it.

    Args:
        outputs: arrays by name.
        binary: which of them come as bytes; the others come as JSON, a number that is none as null.
    """
    entries: list[dict[str, Any]] = []
    tails: list[bytes] = []
    for name, array in outputs.items():
        entry: dict[str, Any] = {"name": name, "datatype": datatype_of(array), "shape": array.shape}
        if binary.get(name):
            tail = np.ascontiguousarray(array).tobytes() if array.dtype != object else _pack_texts(array)
            entry["parameters"] = {"binary_data_size": len(tail)}
            tails.append(tail)
        else:
            entry["data"] = array.ravel().tolist() if array.dtype == object else np.ascontiguousarray(array).ravel()
        entries.append(entry)
    if len(tails) == len(entries) == 1 and not identifier:
        (entry,), (tail,) = entries, tails
        head = _known_answer(model, version, entry["name"], entry["datatype"], entry["shape"], len(tail))
        return head + tail, len(head)
    head = _answer_head(model, version, identifier, entries)
    return (head, None) if not tails else (b"".join([head, *tails]), len(head))


@lru_cache(maxsize=512)
def _known_answer(model: str, version: str, name: str, datatype: str, shape: tuple[int, ...], size: int) -> bytes:
    entry = {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}}
    return _answer_head(model, version, "", [entry])


def _answer_head(model: str, version: str, identifier: str, entries: Sequence[Mapping[str, Any]]) -> bytes:
    document: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": entries}
    if identifier:
        document["id"] = identifier
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def _pack_texts(array: NDArray[Any]) -> bytes:
    encoded = [str(value).encode() for value in array.ravel()]
    return b"".join(part for text in encoded for part in (len(text).to_bytes(_LENGTH_BYTES, "little"), text))

"""The plain endpoint's bodies: JSON rows for tables; for pictures one picture as it is, several as a form, or base64 in JSON."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Mapping, MutableMapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deployments.serving.inputs import picture
from deployments.serving.tensors import load_json, refuse

if TYPE_CHECKING:
    from deployments.serving.model import ServedModel

_INLINE_BYTES = 16 << 10
_MOST_FILES = 256


@dataclass(frozen=True, slots=True)
class Plain:
    """What came: pictures, decoded and as they were sent; or rows."""

    pictures: Sequence[NDArray[np.uint8]]
    encoded: Sequence[bytes]
    rows: Sequence[Any]

    def parts(self, model: ServedModel) -> list[tuple[dict[str, NDArray[Any]], int]]:
        """Feeds for a version, with their rows; one part for each picture."""
        if self.pictures:
            if not model.is_image:
                raise refuse(f"the model {model.name!r} takes rows of a table, not pictures")
            return [({"image": pixels[None]}, 1) for pixels in self.pictures]
        return [(model.from_rows(self.rows), len(self.rows))]


async def read_plain(model: ServedModel, headers: Mapping[bytes, bytes], body: bytes | bytearray, executor: Executor) -> Plain:
    """Read a body by its content type.

    Raises:
        RequestRefusedError: 415 for another content type than the model takes, 400 for what cannot be read.
    """
    kind = headers.get(b"content-type", b"application/json").split(b";")[0].strip().lower().decode("latin-1")
    if kind in ("application/json", "text/json") or (kind == "application/x-www-form-urlencoded" and body[:1] in (b"{", b"[")):
        value = load_json(body)
        if not model.is_image:
            return Plain([], [], _rows(value))
        encoded = _base64_pictures(value)
    elif not model.is_image:
        raise refuse(f"the model {model.name!r} takes rows of a table as application/json; {kind!r} came", 415)
    elif kind == "multipart/form-data":
        encoded = await _form(headers, body)
    elif kind.startswith("image/") or kind == "application/octet-stream":
        encoded = [bytes(body)]
    else:
        raise refuse(f"a picture comes as image/*, application/octet-stream, multipart/form-data or application/json; {kind!r} came", 415)
    if len(encoded) > model.limits.max_rows:
        raise refuse(f"{len(encoded)} pictures came, at most {model.limits.max_rows} are allowed in one request", 413)
    names = ["the picture"] if len(encoded) == 1 else [f"picture {number}" for number in range(len(encoded))]
    if sum(map(len, encoded)) < _INLINE_BYTES:
        pictures = [picture(data, model.limits, name) for data, name in zip(encoded, names, strict=True)]
    else:
        loop = asyncio.get_running_loop()
        waiting = [loop.run_in_executor(executor, picture, data, model.limits, name) for data, name in zip(encoded, names, strict=True)]
        pictures = await asyncio.gather(*waiting)
    return Plain(pictures, encoded, [])


def _rows(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = value["rows"] if set(value) == {"rows"} else [value]
    if not isinstance(value, list):
        raise refuse(
            f'expected a row (an object with the columns as keys), a list of rows, or {{"rows": [...]}}; got {type(value).__name__}'
        )
    return value


def _base64_pictures(value: Any) -> list[bytes]:
    listed = value if isinstance(value, list) else [value]
    found = []
    for number, entry in enumerate(listed):
        text = entry.get("image") if isinstance(entry, dict) else None
        if not isinstance(text, str):
            raise refuse('this model takes pictures: {"image": "BASE64"}, or a list of such; or send the file itself as image/*')
        try:
            found.append(base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True))
        except (binascii.Error, ValueError):
            raise refuse(f"picture {number}: 'image' is not base64") from None
    if not found:
        raise refuse("there is no picture in it")
    return found


async def _form(headers: Mapping[bytes, bytes], body: bytes | bytearray) -> list[bytes]:
    """The files of a multipart form, in order."""
    from starlette.datastructures import UploadFile
    from starlette.exceptions import HTTPException
    from starlette.formparsers import MultiPartException
    from starlette.requests import Request

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": bytes(body), "more_body": False}

    scope = {"type": "http", "method": "POST", "headers": list(headers.items())}
    try:
        async with Request(scope, receive).form(max_files=_MOST_FILES, max_fields=_MOST_FILES) as form:
            found = [await value.read() for _, value in form.multi_items() if isinstance(value, UploadFile)]
    except (MultiPartException, HTTPException, KeyError, ValueError, UnicodeDecodeError) as error:
        raise refuse(f"the form cannot be read: {getattr(error, 'detail', None) or getattr(error, 'message', None) or error}") from None
    if not found:
        raise refuse("there is no file in the form")
    return found

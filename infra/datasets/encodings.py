"""Text files in other encodings than UTF-8, told by their bytes and written anew as UTF-8; the source is only read."""

from __future__ import annotations

import codecs
from pathlib import Path

from infra.errors import InvalidSourceError

_BLOCK = 4 << 20
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
# Windows-1252 is what Latin-1 files mostly are; five bytes mean nothing in it, and then Latin-1, which knows every byte, is left.
_GUESSES = ("utf-8", "cp1252", "latin-1")


def find_encoding(path: Path) -> str:
    """The encoding of a text file, as Python names it: told by its byte order mark, or the first of UTF-8, Windows-1252 and Latin-1 that fits."""
    with path.open("rb") as file:
        head = file.read(4)
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name
    return next(name for name in _GUESSES if _fits(path, name))


def _fits(path: Path, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    with path.open("rb") as file:
        while True:
            chunk = file.read(_BLOCK)
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError:
                return False
            if not chunk:
                return True


def mend_encoding(path: Path, name: str, target: Path) -> tuple[Path, str]:
    """The file in UTF-8 and the encoding that it was in: itself and "" if it is UTF-8, else ``target``, which is written.

    Args:
        name: for messages.

    Raises:
        InvalidSourceError: its byte order mark tells an encoding that it does not keep to.
    """
    encoding = find_encoding(path)
    if encoding in ("utf-8", "utf-8-sig"):
        return path, ""
    try:
        _to_utf8(path, encoding, target)
    except UnicodeDecodeError as error:
        raise InvalidSourceError(name, [f"it begins as {encoding} does, but is not: {error.reason}"], "Is the file whole?") from error
    return target, encoding


def _to_utf8(path: Path, encoding: str, target: Path) -> None:
    """Write a file anew as UTF-8, with the line ends that it has."""
    decoder = codecs.getincrementaldecoder(encoding)()
    with path.open("rb") as source, target.open("wb") as file:
        while chunk := source.read(_BLOCK):
            file.write(decoder.decode(chunk).encode("utf-8"))
        file.write(decoder.decode(b"", final=True).encode("utf-8"))

"""Which requests' true answers have been counted, so that one that is told twice counts once. Shared by the workers of one port, bounded."""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
from pathlib import Path

_SLOTS = 1 << 20
_WORD = struct.Struct("<Q")
_FILE = "counted"


class CountedOnce:
    """A table of marks, one a request, each in the slot that its digest says; the newer of two in one slot stays.

    So a request is forgotten when a later one falls on its slot: after k others with a chance of k in a million. It takes 8 MiB at most.

    Args:
        folder: where the workers of one port have their common file; None: this process is the only one.
    """

    def __init__(self, folder: str | None = None) -> None:
        if folder is None:
            self._marks = mmap.mmap(-1, _SLOTS * _WORD.size)
            return
        fd = os.open(Path(folder) / _FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, _SLOTS * _WORD.size)  # the same for all, and new bytes are zeros
            self._marks = mmap.mmap(fd, _SLOTS * _WORD.size)
        finally:
            os.close(fd)

    def first(self, request: str) -> bool:
        """Whether it has not been asked for this request before."""
        word = int.from_bytes(hashlib.blake2b(request.encode(), digest_size=8).digest(), "little")
        place, mark = (word % _SLOTS) * _WORD.size, word | 1  # 0 is an empty slot
        if _WORD.unpack_from(self._marks, place)[0] == mark:
            return False
        _WORD.pack_into(self._marks, place, mark)
        return True

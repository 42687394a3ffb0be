"""A rank's last commit, in memory that outlives the rank: two files without a name (memfd), held open by the Dask worker that started it.

So a process that was killed loses nothing that it had committed, its successor on the same worker goes on from there, and nothing is left behind
when the Dask worker ends. Commits go to the two files in turn; one counts from the moment when its number is written, which is the last thing to
happen. Layout of a file: number, length of the description, length of the data (8 bytes each); data from 4096 on; description (JSON)
from the next multiple of 4096 on. So a tensor that keeps its place in the data keeps it in the file.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from typing import Any

_HEAD = struct.Struct("<QQQ")
_PAGE = 4096
_SLACK = 2**16  # for a description that grows from commit to commit: each new mapping costs a page fault for every page


def make_files(name: str) -> tuple[int, int]:
    """Two empty files in memory, as descriptors of this process."""
    return os.memfd_create(f"{name}-0"), os.memfd_create(f"{name}-1")


def path_of(fds: tuple[int, int]) -> str:
    """How another process of the same user opens them."""
    return ":".join(f"/proc/{os.getpid()}/fd/{fd}" for fd in fds)


class CommitMemory:
    """The two files as one rank uses them.

    Args:
        path: what ``path_of`` gave; empty: memory of this process alone, which ends with it.
    """

    def __init__(self, path: str = "") -> None:
        self._fds = tuple(os.open(part, os.O_RDWR) for part in path.split(":")) if path else make_files("commit")
        self._maps: list[mmap.mmap | None] = [None, None]
        heads = [self._head(index) for index in (0, 1)]
        self.number = max(head[0] for head in heads)
        self._newest = 0 if heads[0][0] == self.number else 1

    def _head(self, index: int) -> tuple[int, int, int]:
        data = os.pread(self._fds[index], _HEAD.size, 0)
        number, described, length = _HEAD.unpack(data) if len(data) == _HEAD.size else (0, 0, 0)
        return number, described, length

    def _map(self, index: int, size: int) -> mmap.mmap:
        found = self._maps[index]
        if found is None or len(found) < size:
            have = os.fstat(self._fds[index]).st_size
            if have < size:
                have = _PAGE * -(-(size + _SLACK) // _PAGE)
                # Not only the length but the pages: a full memory shall be an error here, not a SIGBUS in the middle of a copy.
                os.posix_fallocate(self._fds[index], 0, have)
            found = self._maps[index] = mmap.mmap(self._fds[index], have, mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0))
        return found

    def latest(self) -> tuple[dict[str, Any], memoryview] | None:
        """Description and data of the last complete commit; None if there is none."""
        if self.number == 0:
            return None
        _, described, length = self._head(self._newest)
        start = _PAGE + _whole_pages(length)
        view = memoryview(self._map(self._newest, start + described))
        return json.loads(bytes(view[start : start + described])), view[_PAGE : _PAGE + length]

    def begin(self, description: dict[str, Any], length: int) -> tuple[memoryview, int]:
        """Room for the next commit; it counts once ``end`` is called.

        Returns:
            The writable data, and the file's number, 0 or 1: what was written into this file the time before the last is still there.

        Raises:
            OSError: there is not enough memory; the last commit is untouched.
        """
        index = 1 - self._newest
        text = json.dumps(description).encode()
        start = _PAGE + _whole_pages(length)
        view = memoryview(self._map(index, start + len(text)))
        view[: _HEAD.size] = _HEAD.pack(0, len(text), length)
        view[start : start + len(text)] = text
        return view[_PAGE : _PAGE + length], index

    def end(self) -> None:
        """The commit that ``begin`` began is complete."""
        index = 1 - self._newest
        found = self._maps[index]
        assert found is not None
        self.number += 1
        found[:8] = struct.pack("<Q", self.number)
        self._newest = index


def _whole_pages(length: int) -> int:
    return -(-length // _PAGE) * _PAGE

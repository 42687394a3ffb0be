"""Who is at work in a workspace on this machine: flows hold a shared lock, a clean-up the exclusive one. Locks end with their process."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra._files import folder_error

_LOCK = "locks/workspace.lock"


def _open(state_dir: Path) -> int:
    path = state_dir / _LOCK
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise folder_error(str(state_dir), error) from error


@contextmanager
def using(state_dir: Path) -> Iterator[None]:
    """Nothing that lies in the workspace is cleaned up meanwhile; waits for a clean-up that has begun (seconds)."""
    fd = _open(state_dir)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        yield
    finally:
        os.close(fd)


@contextmanager
def cleaning(state_dir: Path) -> Iterator[bool]:
    """Whether nobody is at work; if so, nobody begins until it is left."""
    fd = _open(state_dir)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(fd)

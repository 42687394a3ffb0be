"""The outermost level of the cache: what one machine made of the data (decoded pictures), the others fetch from a store instead of making it again.

    memory    the kernel's page cache, shared by all ranks of a machine
    disk      ``infra.cache``, bounded by ``ATELIER_CACHE_GIB``
    store     this module, if ``ATELIER_SHARED_CACHE`` names one; nothing is removed from it: give the bucket a rule for its age

Nothing here is needed: a store that does not answer, or holds damaged bytes, costs the time of making them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from infra.cache import sha256_file
from infra.errors import AtelierError
from infra.store import Store, open_store

Make = Callable[[Path], None]


def shared(uri: str, name: str, make: Make) -> Make:
    """``make(path)`` that first looks for ``name`` in the store at ``uri``, and leaves there what it made; ``make`` itself without a store."""
    if not uri:
        return make
    key = f"shared-cache/{name}"

    def fetch_or_make(path: Path) -> None:
        try:
            store = open_store(uri)
            if _fetch(store, key, path):
                return
        except (AtelierError, OSError):
            make(path)
            return
        make(path)
        try:
            store.put_file(path, key)
            # Last, so that an entry with a digest is whole.
            store.write_bytes(f"{key}.sha256", sha256_file(path).encode())
        except (AtelierError, OSError):
            return

    return fetch_or_make


def _fetch(store: Store, key: str, path: Path) -> bool:
    if not store.exists(f"{key}.sha256"):
        return False
    store.get_file(key, path)
    if sha256_file(path) == store.read_bytes(f"{key}.sha256").decode():
        return True
    path.unlink()
    return False

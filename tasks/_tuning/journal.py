"""Where studies are kept: Optuna's journal in the workspace, as a file or as objects of a store, or a database by setting.

``optuna-dashboard WORKSPACE/tuning/KEY/journal.log`` opens a study in a folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.errors import DamagedStudyError, MissingExtraError, ServiceError
from infra.store import Store

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

FILE = "journal.log"
Tell = Callable[[str], None]


def open_storage(url: str, store: Store, folder: str, tell: Tell) -> BaseStorage:
    """The storage of one study.

    Args:
        url: of a database (``postgresql://...``), or empty: the journal in ``folder`` of the store.
        tell: gets a sentence for a person, if a damaged end was dropped.

    Raises:
        DamagedStudyError: the journal is damaged before its end.
        MissingExtraError: the database's driver is not installed.
        ServiceError: the database does not answer.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # it would print a line for every trial
    if url:
        return _open_database(url)
    path = store.local_path(f"{folder}/{FILE}")
    if path is None:
        return JournalStorage(_store_journal(store, folder))
    path.parent.mkdir(parents=True, exist_ok=True)
    mend(path, tell)
    # Whoever held Optuna's lock was killed: the caller holds a lock of the kernel's on this study.
    path.with_name(path.name + ".lock").unlink(missing_ok=True)
    return JournalStorage(JournalFileBackend(str(path)))


def close_storage(storage: BaseStorage) -> None:
    """Close a database's connections; a journal has none open."""
    engine = getattr(storage, "engine", None)
    if engine is not None:
        storage.remove_session()
        engine.dispose()


def _open_database(url: str) -> BaseStorage:
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import SQLAlchemyError

    if url.startswith(("postgresql://", "postgres://")):  # which driver is ours to say, unless the URL names one
        url = "postgresql+pg8000://" + url.split("://", 1)[1]
    try:
        return RDBStorage(url)
    except ImportError as error:
        raise MissingExtraError(str(error.name or "pg8000"), "postgresql") from error
    except SQLAlchemyError as error:
        why = f"{str(error).splitlines()[0]}. Check ATELIER_OPTUNA_STORAGE, or leave it out to keep studies in the workspace."
        raise ServiceError("The database of the studies", why) from error


def whole_lines(data: bytes) -> tuple[int, int | None]:
    """How many bytes of a journal are good from its begin, and the number (from 1) of a damaged line that whole records follow, or None."""
    good, lines = 0, data.split(b"\n")[:-1]  # what has no line end is no whole record
    for number, line in enumerate(lines, start=1):
        if not _is_record(line):
            return good, number if any(map(_is_record, lines[number:])) else None
        good += len(line) + 1
    return good, None


def _is_record(line: bytes) -> bool:
    try:
        found = json.loads(line)
    except ValueError:
        return False
    return isinstance(found, dict) and "op_code" in found  # without which Optuna can make nothing of it


def mend(path: Path, tell: Tell) -> None:
    """Drop a torn end, which a kill, a full disk or a power cut leaves: everything behind the last whole record.

    Raises:
        DamagedStudyError: a line that is no record has whole ones behind it.
    """
    if not path.exists():
        return
    data = path.read_bytes()
    good, damaged = whole_lines(data)
    if damaged is not None:
        raise DamagedStudyError(str(path), damaged)
    if good < len(data):
        with path.open("r+b") as file:
            file.truncate(good)
        tell(f"The study's journal {path} was torn at its end: {len(data) - good} bytes of an unfinished record were dropped.")


def _store_journal(store: Store, folder: str) -> Any:
    """Optuna's journal as numbered objects that are created once and never change, each some records."""
    from optuna.storages.journal import BaseJournalBackend

    class StoreJournal(BaseJournalBackend):
        def __init__(self) -> None:
            self._records: list[dict[str, Any]] = []
            self._num_objects = 0
            for key in store.list(f"{folder}/journal/"):
                self._read(key)

        def _key(self, number: int) -> str:
            return f"{folder}/journal/{number:09d}.json"

        def _read(self, key: str) -> None:
            self._records += json.loads(store.read_bytes(key))
            self._num_objects += 1

        def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
            while store.exists(self._key(self._num_objects)):  # what others wrote meanwhile
                self._read(self._key(self._num_objects))
            yield from self._records[log_number_from:]

        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            data = json.dumps(logs, separators=(",", ":")).encode()
            while not store.create(self._key(self._num_objects), data):
                self._read(self._key(self._num_objects))
            self._records += logs
            self._num_objects += 1

    return StoreJournal()

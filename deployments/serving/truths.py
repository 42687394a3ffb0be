"""True answers as Parquet, for watching: ``feedback/MODEL/DATE/TIME-ID.parquet``. Written beside the serving, bounded, as captures are."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from deployments.serving.feedback import Told
from infra.errors import AtelierError
from infra.store import Store

logger = logging.getLogger("atelier.serving")
FOLDER = "feedback"
_MOST_WAITING, _FLUSH_ROWS = 8192, 1024


@dataclass(frozen=True, slots=True)
class Truth:
    """One prediction and its truth; ``correct`` for labels, ``squared_error`` for values. ``request`` and ``row`` are those of the capture."""

    at: float
    model: str
    version: int
    told: str
    truth: str
    correct: bool | None
    squared_error: float | None
    request: str
    row: int


class TruthWriter:
    """Takes truths on the event loop and writes them in a thread of its own, every ``every_s`` seconds; nothing is written where none came."""

    def __init__(self, store: Store, every_s: float = 10.0) -> None:
        self._store, self._every_s = store, every_s
        self._queue: deque[Truth] = deque()
        self._wake = threading.Event()
        self._ends = False
        self.num_dropped = 0
        self._thread = threading.Thread(target=self._work, name="feedback", daemon=True)
        self._thread.start()

    def put(self, truths: Sequence[Truth]) -> None:
        if len(self._queue) + len(truths) > _MOST_WAITING:
            self.num_dropped += len(truths)
            return
        self._queue.extend(truths)

    def close(self) -> None:
        """Write what waits, then end."""
        self._ends = True
        self._wake.set()
        self._thread.join(timeout=30)

    def _work(self) -> None:
        while not self._ends:
            self._wake.wait(self._every_s)
            self._flush()
        self._flush()

    def _flush(self) -> None:
        while self._queue:
            rows = [self._queue.popleft() for _ in range(min(_FLUSH_ROWS, len(self._queue)))]
            for name in sorted({row.model for row in rows}):
                self._write(name, [row for row in rows if row.model == name])

    def _write(self, name: str, rows: list[Truth]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table(
            {
                "time": pa.array([int(row.at * 1e6) for row in rows], pa.timestamp("us", tz="UTC")),
                "model": [row.model for row in rows],
                "version": pa.array([row.version for row in rows], pa.int32()),
                "told": [row.told for row in rows],
                "truth": [row.truth for row in rows],
                "correct": pa.array([row.correct for row in rows], pa.bool_()),
                "squared_error": pa.array([row.squared_error for row in rows], pa.float64()),
                "request": pa.array([row.request for row in rows], pa.string()),
                "row": pa.array([row.row for row in rows], pa.int32()),
            }
        )
        moment = datetime.now(UTC)
        try:
            sink = pa.BufferOutputStream()
            pq.write_table(table, sink, compression="zstd")
            key = f"{FOLDER}/{name}/{moment:%Y-%m-%d}/{moment:%H%M%S.%f}-{uuid.uuid4().hex[:8]}.parquet"
            self._store.write_bytes(key, sink.getvalue().to_pybytes())
        except (AtelierError, OSError, pa.ArrowException) as error:
            logger.error("true answers could not be kept: %s", error)
            time.sleep(1)


def as_truths(told: Told, truth: Sequence[str | float]) -> list[Truth]:
    """What was told and what is true, row by row, as it is kept."""
    now = time.time()
    return [
        Truth(now, told.model, told.version, str(one), str(true), one == true, None, told.request, row)
        if isinstance(one, str)
        else Truth(now, told.model, told.version, str(one), str(true), None, (float(one) - float(true)) ** 2, told.request, row)
        for row, (one, true) in enumerate(zip(told.told, truth, strict=True))
    ]

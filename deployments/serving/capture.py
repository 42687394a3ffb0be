"""A sample of the served requests, kept as Parquet for watching. What is served never waits for it: the queue is bounded, and what does
not fit is dropped and counted."""

from __future__ import annotations

import json
import logging
import random
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from infra.errors import AtelierError
from infra.store import Store

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from deployments.serving.model import ServedModel

logger = logging.getLogger("atelier.serving")
FOLDER = "captures"
FLUSH_ROWS = 1024
_MOST_WAITING, _MOST_WAITING_BYTES = 8192, 256 << 20


@dataclass(frozen=True, slots=True)
class Captured:
    """One row of a served request.

    Attributes:
        at: seconds since 1970.
        key: of the client, or who it is by API key.
        request: id of the request, by which the truth that comes later finds it.
        row: its place in the request.
        inputs: as the model got them: a value a column [1], or ``image`` [H, W, 3].
        encoded: the picture as it was sent, if it was sent so.
        output: scores [C], or a value.
        took_s: the whole request.
    """

    at: float
    model: ServedModel
    key: str
    request: str
    row: int
    inputs: dict[str, NDArray[Any]]
    encoded: bytes | None
    output: Any
    took_s: float

    @property
    def size(self) -> int:
        return 512 + sum(int(value.nbytes) for value in self.inputs.values()) + len(self.encoded or b"")


class Capture(Protocol):
    """Where served requests go, besides to the client. Called on the event loop: both must return at once."""

    def wants(self) -> bool:
        """Whether this request belongs to the sample."""
        ...

    def put(self, row: Captured) -> None: ...


class ParquetCapture:
    """Writes ``captures/MODEL/DATE/TIME-ID.parquet`` into the store, a file for up to 1,024 rows or ``every_s`` seconds.

    Columns: ``time`` (UTC), ``model``, ``version``, ``key``, ``request`` and ``row`` (by which a truth finds it), ``latency_s``, ``label`` and
    ``confidence`` and ``scores`` (JSON) or ``value``; for tables ``input.COLUMN``; for pictures ``image`` (as sent, or PNG; null if only
    statistics are kept), ``width``, ``height``, ``brightness`` and ``contrast`` (mean and standard deviation of the pixels, 0 to 255).

    Args:
        share: of the requests, 0 to 1.
        pictures: whether the pictures themselves are kept.
        count: told of each row's end: ``written``, ``dropped`` or ``failed``.
    """

    def __init__(self, store: Store, share: float, *, pictures: bool, count: Callable[[str, int], None], every_s: float = 10.0) -> None:
        self._store, self._share, self._pictures, self._count, self._every_s = store, share, pictures, count, every_s
        self._queue: deque[Captured] = deque()
        self._bytes = 0
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._ends = False
        self._thread = threading.Thread(target=self._work, name="capture", daemon=True)
        self._thread.start()

    def wants(self) -> bool:
        return random.random() < self._share

    def put(self, row: Captured) -> None:
        with self._lock:
            if len(self._queue) >= _MOST_WAITING or self._bytes + row.size > _MOST_WAITING_BYTES:
                self._count("dropped", 1)
                return
            self._queue.append(row)
            self._bytes += row.size
            if len(self._queue) >= FLUSH_ROWS:
                self._wake.set()

    def close(self) -> None:
        """Write what waits, then end."""
        self._ends = True
        self._wake.set()
        self._thread.join(timeout=30)

    def _work(self) -> None:
        while not self._ends:
            self._wake.wait(self._every_s)
            self._wake.clear()
            self._flush()
        self._flush()

    def _flush(self) -> None:
        while True:
            with self._lock:
                rows = [self._queue.popleft() for _ in range(min(FLUSH_ROWS, len(self._queue)))]
                self._bytes -= sum(row.size for row in rows)
            if not rows:
                return
            groups: dict[tuple[str, int], list[Captured]] = {}
            for row in rows:
                groups.setdefault((row.model.name, row.model.number), []).append(row)
            for (name, _), group in groups.items():
                self._write(name, group)

    def _write(self, name: str, rows: Sequence[Captured]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            sink = pa.BufferOutputStream()
            pq.write_table(as_table(rows, pictures=self._pictures), sink, compression="zstd")
            moment = datetime.now(UTC)
            key = f"{FOLDER}/{name}/{moment:%Y-%m-%d}/{moment:%H%M%S.%f}-{uuid.uuid4().hex[:8]}.parquet"
            self._store.write_bytes(key, sink.getvalue().to_pybytes())
            self._count("written", len(rows))
        except (AtelierError, OSError, pa.ArrowException) as error:
            logger.error("captured requests could not be kept: %s", error)
            self._count("failed", len(rows))
            time.sleep(1)  # a full disk does not get better by hammering on it


def as_table(rows: Sequence[Captured], *, pictures: bool) -> pa.Table:
    """Rows of one model version as a table."""
    import pyarrow as pa

    model = rows[0].model
    columns: dict[str, Any] = {
        "time": pa.array([int(row.at * 1e6) for row in rows], pa.timestamp("us", tz="UTC")),
        "model": [model.name] * len(rows),
        "version": pa.array([model.number] * len(rows), pa.int32()),
        "key": [row.key for row in rows],
        "request": [row.request for row in rows],
        "row": pa.array([row.row for row in rows], pa.int32()),
        "latency_s": [row.took_s for row in rows],
    }
    if model.output == "value":
        columns["value"] = [float(row.output) for row in rows]
    else:
        columns["label"] = [model.labels[int(row.output.argmax())] for row in rows]
        columns["confidence"] = [float(row.output.max()) for row in rows]
        columns["scores"] = [json.dumps(dict(zip(model.labels, map(float, row.output), strict=True)), ensure_ascii=False) for row in rows]
    if model.is_image:
        columns.update(_picture_columns(rows, pictures))
    for column in model.columns:
        values = [row.inputs[column.name].item() for row in rows]
        if column.kind == "float":
            columns[f"input.{column.name}"] = pa.array(values, pa.float64(), from_pandas=True)  # a missing number is null
        else:
            columns[f"input.{column.name}"] = [None if value == "" else value for value in values]
    return pa.table(columns)


def _picture_columns(rows: Sequence[Captured], pictures: bool) -> dict[str, Any]:
    import io

    import pyarrow as pa
    from PIL import Image

    def encoded(row: Captured) -> bytes:
        if row.encoded is not None:
            return row.encoded
        file = io.BytesIO()
        Image.fromarray(row.inputs["image"]).save(file, "PNG")
        return file.getvalue()

    return {
        "image": pa.array([encoded(row) if pictures else None for row in rows], pa.binary()),
        "height": [row.inputs["image"].shape[0] for row in rows],
        "width": [row.inputs["image"].shape[1] for row in rows],
        "brightness": [float(row.inputs["image"].mean()) for row in rows],
        "contrast": [float(row.inputs["image"].std()) for row in rows],
    }

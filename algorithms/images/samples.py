"""Pictures as a network reads them: decoded and resized once for a machine, kept as bytes on its disk, read at random.

A split becomes some parts, each a file in the local cache (``infra.cache``): pixels uint8 [n, S, S, C], then labels int64 [n]. Ranks
start making parts at different places and skip those that are there, so they share the work whatever machines they are on. Parts are read with
``pread``, not mapped: memory stays bounded however many pictures there are.
"""

from __future__ import annotations

import hashlib
import os
import resource
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from algorithms.engines.torch_engine import TorchData
from algorithms.images.config import ImageClassificationConfig
from algorithms.run import Run
from infra.cache import Cache
from infra.errors import InvalidSourceError
from infra.settings import load_settings
from infra.shared_cache import shared

if TYPE_CHECKING:
    from infra.datasets.dataset import Dataset, RowGroup

_MOST_PARTS = 64
_FORMAT = 1
_DECODED_AT_ONCE = 32


class PictureSamples:
    """One split, read from its parts; see ``algorithms.engines.torch_engine.Samples``."""

    def __init__(self, dataset: Dataset, split: str, files: Sequence[Path], counts: Sequence[int], size: int, channels: int) -> None:
        self.dataset, self.split = dataset, split
        self.shape = (size, size, channels)
        self._bytes = size * size * channels
        self._starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        # Kept open for good: a part that the cache removes under us stays readable.
        self._files = [os.open(path, os.O_RDONLY) for path in files]
        self.labels = self._read_labels()

    def _read_labels(self) -> np.ndarray:
        labels = np.empty(len(self), dtype=np.int64)
        for number, file in enumerate(self._files):
            first, last = self._starts[number], self._starts[number + 1]
            _read_into(file, labels[first:last].data.cast("B"), int(last - first) * self._bytes)
        return labels

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pictures uint8 [n, S, S, C] and labels int64 [n]; neighbours in the file are read in one go."""
        pictures = np.empty((len(indices), *self.shape), dtype=np.uint8)
        flat = pictures.reshape(-1).data
        parts = np.searchsorted(self._starts, indices, side="right") - 1
        breaks = np.flatnonzero((np.diff(indices) != 1) | (np.diff(parts) != 0)) + 1
        for first, last in zip([0, *breaks], [*breaks, len(indices)], strict=True):
            if first < last:
                part = parts[first]
                place = int(indices[first] - self._starts[part]) * self._bytes
                _read_into(self._files[part], flat[first * self._bytes : last * self._bytes], place)
        return pictures, self.labels[indices]

    def ids(self) -> list[str]:
        return [path for table in self.dataset.iter_tables(self.split, columns=["path"]) for path in table.column("path").to_pylist()]

    def encoded(self) -> Iterator[tuple[str, bytes, int]]:
        """Path, encoded picture and label of every sample, in order, with no more than a row group in memory."""
        for table in self.dataset.iter_tables(self.split, columns=["path", "image", "label"]):
            for row in zip(table.column("path"), table.column("image"), table.column("label"), strict=True):
                yield row[0].as_py(), row[1].as_py(), row[2].as_py()

    def close(self) -> None:
        """Let go of the files."""
        while self._files:
            os.close(self._files.pop())

    def __del__(self) -> None:
        self.close()


def _read_into(file: int, target: memoryview, place: int) -> None:
    while len(target):
        count = os.preadv(file, [target], place)
        if count == 0:
            raise EOFError(f"a part of the picture cache ends {len(target)} bytes too early")
        target, place = target[count:], place + count


def open_pictures(
    config: ImageClassificationConfig, dataset: Dataset, run: Run, *, splits: Sequence[str], fitted: dict[str, Any] | None
) -> TorchData:
    """The splits, prepared on this machine; called on every rank at once, which share the work."""
    size, channels = config.image_size, config.channels
    cache = Cache(load_settings().cache_path)
    samples = {split: _open_split(cache, dataset, split, size, channels, run) for split in splits}
    return TorchData("class", list(dataset.card.classes), (size, size, channels), samples, fitted or {})


def _open_split(cache: Cache, dataset: Dataset, split: str, size: int, channels: int, run: Run) -> PictureSamples:
    groups = list(dataset.row_groups(split))
    parts = [list(part) for part in np.array_split(np.arange(len(groups)), min(len(groups), _MOST_PARTS))] if groups else []
    counts = [sum(groups[number].num_rows for number in part) for part in parts]
    _allow_open_files(len(parts) + 256)
    where = run.collectives
    offset = where.local_rank * len(parts) // where.local_size if where.local_size > 1 else where.rank * len(parts) // where.size
    files: dict[int, Path] = {}
    done = 0
    with ThreadPoolExecutor(max(run.spec.threads, 1), thread_name_prefix="atelier-decode") as pool:
        for number in [*range(offset, len(parts)), *range(offset)]:
            part = [groups[index] for index in parts[number]]
            name = f"pictures/{_part_name(dataset, split, part, size, channels)}"
            expected = counts[number] * (size * size * channels + 8)
            files[number] = cache.get(
                name,
                shared(
                    load_settings().shared_cache,
                    name,
                    lambda path, part=part, pool=pool: _make_part(path, dataset, part, size, channels, pool),  # type: ignore[misc]
                ),
                lambda path, expected=expected: path.stat().st_size == expected,  # type: ignore[misc]
            )
            done += counts[number]
            if run.is_main:
                run.report({"kind": "progress", "phase": f"prepare {split}", "step": done, "steps": sum(counts)})
    return PictureSamples(dataset, split, [files[number] for number in range(len(parts))], counts, size, channels)


def _part_name(dataset: Dataset, split: str, part: Sequence[RowGroup], size: int, channels: int) -> str:
    identity = [_FORMAT, dataset.ref.digest, split, size, channels, [[group.shard, group.index] for group in part]]
    return hashlib.sha256(repr(identity).encode()).hexdigest()[:40]


def _make_part(path: Path, dataset: Dataset, part: Sequence[RowGroup], size: int, channels: int, pool: ThreadPoolExecutor) -> None:
    labels: list[np.ndarray] = []
    with path.open("wb") as file:
        for group in part:
            table = dataset.read(group, columns=["path", "image", "label"])
            labels.append(np.array(table.column("label").to_pylist(), dtype=np.int64))  # pyarrow's to_numpy would load pandas
            for start in range(0, table.num_rows, _DECODED_AT_ONCE):
                some = table.slice(start, _DECODED_AT_ONCE)
                rows = zip(some.column("path").to_pylist(), some.column("image").to_pylist(), strict=True)
                for pixels in pool.map(lambda row: _prepare(row[0], row[1], size, channels), rows):
                    file.write(pixels.data)
        file.write(np.concatenate(labels).data)
        file.flush()
        os.fsync(file.fileno())


def _prepare(path: str, encoded: bytes, size: int, channels: int) -> np.ndarray:
    import torch

    from algorithms._package_images import decode_picture
    from algorithms.images.preprocess import resize

    try:
        pixels = decode_picture(encoded)
    except OSError as error:
        raise InvalidSourceError(
            "the data set", [f"{path}: {error}"], "Validation sets such pictures aside; run it on this data set."
        ) from None
    return np.ascontiguousarray(resize(torch.from_numpy(pixels.copy())[None], size, channels)[0].numpy())


def _allow_open_files(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted * 3:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted * 3, hard), hard))

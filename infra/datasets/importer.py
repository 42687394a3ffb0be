"""Importing outside data as a version, and making versions from versions."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from infra import artifacts
from infra.datasets import names, sources, tabular_files
from infra.datasets.card import SPLITS, Card, DatasetRef, Lineage, Source
from infra.datasets.dataset import CARD
from infra.datasets.encodings import mend_encoding
from infra.datasets.images import FEATURES, list_images, prepare_images, write_images
from infra.datasets.splits import Ratios, check_ratios
from infra.datasets.tables import Target, prepare_table, write_table
from infra.errors import AtelierError, InvalidSourceError
from infra.settings import load_settings
from infra.store import FolderStore, Store, folder_error

FORMAT = 1  # of the version's files and of what the digest covers
RATIOS: Ratios = (0.7, 0.15, 0.15)
_MOST_IGNORED = 1000
Report = Callable[[dict[str, Any]], None]


def import_source(
    store: Store,
    source: str,
    name: str,
    *,
    target: str | None = None,
    regression: bool = False,
    ratios: tuple[float, ...] = RATIOS,
    split_seed: int = 0,
    mend: bool = False,
    report: Report | None = None,
) -> DatasetRef:
    """Make outside data a version, unless it is one already, and give it a name.

    Args:
        store: the workspace.
        source: a folder, file or archive: a path, ``file://`` or ``s3://``.
        name: what the version is called from now on.
        target: tables: the column to predict; its classes are the strata of the splits. None: splits are not stratified.
        regression: the target is a number; strata are quantiles, and the card has no classes.
        ratios: of train, valid and test, where the source does not give them.
        split_seed: of the splits.
        mend: tables: text files in another encoding than UTF-8 are decoded as what they seem to be; the card names them.
        report: gets ``progress`` and ``log`` events (see ``algorithms.run.Run``).

    Raises:
        SourceNotFoundError, InvalidSourceError, UnsafeArchiveError, InvalidOptionError
    """
    names.check_name(name)
    parts = check_ratios(tuple(ratios))
    progress = _Progress(report)
    fingerprint = source_fingerprint(store, source, target=target, regression=regression, ratios=parts, split_seed=split_seed, mend=mend)
    ref = names.recall(store, fingerprint, name)
    if ref is None:
        with scratch_folder(store) as scratch, _source_errors(source, scratch):
            local = sources.fetch_source(source, scratch)
            kind = sources.kind_of(local, source)
            load = _import_images if kind == "image" else partial(_import_table, mend=mend)
            ref = load(store, local, name, Target(target, regression), parts, split_seed, scratch, progress)
        names.remember(store, fingerprint, ref)
    names.record(store, ref, source)
    return ref


def source_fingerprint(
    store: Store,
    source: str,
    *,
    target: str | None = None,
    regression: bool = False,
    ratios: tuple[float, ...] = RATIOS,
    split_seed: int = 0,
    mend: bool = False,
) -> str:
    """A cheap key of a source and how it is to be split: names, sizes and times (or ETags), no content. Equal: the version is the same.

    Raises:
        SourceNotFoundError
    """
    path = sources.local_path(source)
    value = {
        "format": FORMAT,
        "source": str(path.resolve()) if path is not None else source,
        "files": sources.listing(source),
        "options": [target, regression, list(check_ratios(tuple(ratios))), split_seed, *(["mend"] if mend else [])],
    }
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


class _Progress:
    """Reports at most five times a second."""

    def __init__(self, report: Report | None) -> None:
        self._report = report
        self._last = 0.0

    def __call__(self, phase: str, step: int, steps: int) -> None:
        now = time.monotonic()
        if self._report is not None and (now - self._last > 0.2 or step == steps):
            self._last = now
            self._report({"kind": "progress", "phase": f"import: {phase}", "step": step, "steps": steps})

    def log(self, message: str) -> None:
        if self._report is not None:
            self._report({"kind": "log", "message": message})


@contextmanager
def scratch_folder(store: Store) -> Iterator[Path]:
    """A folder for large intermediate files: beside the data, if that is on this machine, else in the cache."""
    where = store if isinstance(store, FolderStore) else FolderStore(load_settings().cache_path / "scratch")
    with where.staging_folder() as folder:
        yield folder


@contextmanager
def _source_errors(source: str, scratch: Path) -> Iterator[None]:
    """The operating system's errors while importing: the source's, or those of the disk that is written to."""
    try:
        yield
    except AtelierError:
        raise
    except OSError as error:
        path = sources.local_path(source)
        if path is not None and error.filename and str(error.filename).startswith(str(path.resolve())):
            raise InvalidSourceError(source, [f"{error.filename}: {error.strerror}"], "Make it readable.") from error
        raise folder_error(str(scratch.parent.parent), error) from error


def _import_images(
    store: Store, local: sources.LocalSource, name: str, target: Target, ratios: Ratios, seed: int, scratch: Path, progress: _Progress
) -> DatasetRef:
    listing = list_images(local.path, local.uri)
    images = prepare_images(listing, ratios, seed, progress)
    ref = DatasetRef(digest=images.digest, name=name, kind="image")
    if artifacts.find(store, ref.key) is not None:
        return ref
    with scratch_folder(store) as folder:
        shards = write_images(images, folder, local.uri, progress)
        card = Card(
            digest=images.digest,
            name=name,
            kind="image",
            features=FEATURES,
            target="label",
            classes=images.classes,
            counts=images.counts,
            num_rows={split: sum(images.counts[split].values()) for split in SPLITS},
            num_bytes=sum(shard.num_bytes for shard in shards),
            shards=shards,
            split_rule=images.split_rule,
            source=_source(local, "image folder", listing.ignored),
        )
        return publish_version(store, folder, card)


def _import_table(
    store: Store,
    local: sources.LocalSource,
    name: str,
    target: Target,
    ratios: Ratios,
    seed: int,
    scratch: Path,
    progress: _Progress,
    *,
    mend: bool,
) -> DatasetRef:
    files: list[tuple[str, str | None]] = [(local.path.name, None)]
    root = local.path.parent
    ignored: list[str] = []
    if local.path.is_dir():
        files, ignored = tabular_files.find_tables(local.path, local.uri)
        root = local.path
    staging = scratch / "tables"
    staging.mkdir()
    staged = []
    encodings: dict[str, str] = {}
    for done, (file, split) in enumerate(files):
        progress("parsing", done, len(files))
        path = root / file
        if mend and tabular_files.table_format(file) != "parquet":
            path, encoding = mend_encoding(path, file, scratch / f"{done}-as-utf-8{path.suffix}")
            if encoding:
                encodings[file] = encoding
                progress.log(f"{file} is in {encoding}, not UTF-8; it was decoded as such.")
        staged.append(tabular_files.stage(path, file, split, staging))
    table = prepare_table(staged, target, ratios, seed, local.uri, progress)
    if table.num_without_target:
        progress.log(
            f"{table.num_without_target} of {len(table.splits)} rows have no value in {target.column!r}. They are imported; validation sets them aside."
        )
    ref = DatasetRef(digest=table.digest, name=name, kind="table")
    if artifacts.find(store, ref.key) is not None:
        return ref
    with scratch_folder(store) as folder:
        shards = write_table(table, folder, progress)
        formats = sorted({str(tabular_files.table_format(file)) for file, _ in files})
        card = Card(
            digest=table.digest,
            name=name,
            kind="table",
            features=table.features,
            target=target.column,
            classes=table.classes,
            counts=table.counts,
            num_rows={split: int((table.splits == i).sum()) for i, split in enumerate(SPLITS)},
            num_bytes=sum(shard.num_bytes for shard in shards),
            shards=shards,
            split_rule=table.split_rule,
            source=_source(local, " + ".join(formats), ignored),
            lineage=Lineage(details={"encodings": encodings} if encodings else {}),
        )
        return publish_version(store, folder, card)


def _source(local: sources.LocalSource, form: str, ignored: list[str]) -> Source:
    return Source(
        uri=local.uri,
        format=f"{form} in {local.archive}" if local.archive else form,
        imported_at=now(),
        ignored=ignored[:_MOST_IGNORED],
        num_ignored=len(ignored),
    )


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def publish_version(store: Store, folder: Path, card: Card) -> DatasetRef:
    (folder / CARD).write_text(card.model_dump_json(indent=1))
    artifacts.publish(store, folder, card.ref.key, "dataset", replace=False)
    return card.ref

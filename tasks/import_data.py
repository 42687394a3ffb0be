"""Import as a stage of a flow: skipped when the source has not changed since it was imported."""

from __future__ import annotations

from typing import Literal

from infra.context import StageContext
from infra.datasets import names, sources
from infra.datasets.card import DatasetRef
from infra.datasets.importer import source_fingerprint
from infra.errors import DatasetNotFoundError, SourceNotFoundError
from infra.store import Store
from tasks._gx import load_in_background
from tasks.ingest import ingest


def source_key(
    source: str,
    *,
    target: str | None,
    regression: bool,
    ratios: tuple[float, ...],
    split_seed: int,
    mend: bool = False,
    context: StageContext,
) -> str:
    """A cheap key of what ``source`` is right now: files by their names, sizes and times; a version by its digest.

    Raises:
        SourceNotFoundError: neither a path, nor an address at which something is, nor a version's name.
    """
    if "://" in source or sources.exists(source):
        return source_fingerprint(
            context.store, source, target=target, regression=regression, ratios=ratios, split_seed=split_seed, mend=mend
        )
    return find_version(context.store, source).digest


def find_version(store: Store, name: str) -> DatasetRef:
    """The version of a name or digest, where ``name`` was given as data.

    Raises:
        SourceNotFoundError: with the names that there are.
    """
    try:
        return names.resolve(store, name)
    except DatasetNotFoundError as error:
        raise SourceNotFoundError(name, f"Known data sets: {', '.join(error.known[:10])}." if error.known else "") from None


def check_source(store: Store, source: str) -> None:
    """Say early that there is no such data.

    Raises:
        SourceNotFoundError: see ``source_key``.
    """
    if "://" not in source and not sources.exists(source):
        find_version(store, source)


def import_data(
    source: str,
    fingerprint: str,
    name: str,
    kind: Literal["image", "table"],
    target: str | None,
    regression: bool,
    ratios: tuple[float, ...],
    split_seed: int,
    mend: bool = False,
    *,
    context: StageContext,
) -> DatasetRef:
    """The data set version of a path, a URI or a version's name; what is new is imported. ``fingerprint`` is there for the stage's cache key."""
    load_in_background()  # validation comes next, and loading Great Expectations takes seconds
    return ingest(
        source,
        name=name or None,
        algorithm_kind=kind,
        target=target,
        regression=regression,
        ratios=ratios,
        split_seed=split_seed,
        mend=mend,
        context=context,
    )

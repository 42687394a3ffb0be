"""Import as a stage of a flow: skipped when the source has not changed since it was imported."""

from __future__ import annotations

from typing import Literal

from infra.context import StageContext
from infra.datasets import names, sources
from infra.datasets.card import DatasetRef
from infra.datasets.importer import source_fingerprint
from infra.errors import DatasetNotFoundError
from tasks.ingest import ingest


def source_key(source: str, *, target: str | None, regression: bool, ratios: tuple[float, ...], split_seed: int, context: StageContext) -> str:
    """A cheap key of what ``source`` is right now: files by their names, sizes and times; a version by its digest.

    A source that is not there gets an empty key: the stage itself says so.

    Raises:
        SourceNotFoundError: an address (``s3://...``) at which nothing is.
    """
    if "://" in source or sources.exists(source):
        return source_fingerprint(context.store, source, target=target, regression=regression, ratios=ratios, split_seed=split_seed)
    try:
        return names.resolve(context.store, source).digest
    except DatasetNotFoundError:
        return ""


def import_data(
    source: str,
    fingerprint: str,
    name: str,
    kind: Literal["image", "table"],
    target: str | None,
    regression: bool,
    ratios: tuple[float, ...],
    split_seed: int,
    *,
    context: StageContext,
) -> DatasetRef:
    """The data set version of a path, a URI or a version's name; what is new is imported. ``fingerprint`` is there for the stage's cache key."""
    return ingest(
        source,
        name=name or None,
        algorithm_kind=kind,
        target=target,
        regression=regression,
        ratios=ratios,
        split_seed=split_seed,
        context=context,
    )

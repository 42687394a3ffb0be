"""The first stage: whatever the user names as data becomes a data set version."""

from __future__ import annotations

import re
from typing import Literal

from infra.context import StageContext
from infra.datasets import names, sources
from infra.datasets.card import DatasetRef
from infra.datasets.importer import RATIOS, import_source
from infra.datasets.sources import default_name
from infra.errors import DatasetNotFoundError, InvalidSourceError, SourceNotFoundError

__all__ = ["default_name", "ingest"]

_WORDS = {"image": "pictures", "table": "a table"}


def ingest(
    source: str,
    *,
    name: str | None = None,
    algorithm_kind: Literal["image", "table"],
    target: str | None = None,
    regression: bool = False,
    ratios: tuple[float, ...] = RATIOS,
    split_seed: int = 0,
    mend: bool = False,
    context: StageContext,
) -> DatasetRef:
    """Import what is new, and find what is there.

    Args:
        source: a path or URI; or the name, digest or beginning of the digest of a version. What exists as a path is a path.
        name: of the version that an import makes; by default from the source's base name.
        algorithm_kind: what the algorithm learns from.
        target: tables: the column to predict.
        regression: the target is a number.
        ratios: of train, valid and test, where the source does not give them.
        split_seed: of the splits.
        mend: tables: text files in another encoding than UTF-8 are decoded as what they seem to be.
        context: where to import to, and whom to tell.

    Raises:
        SourceNotFoundError: neither data nor a version.
        InvalidSourceError: cannot be imported, or is not what the algorithm learns from.
    """
    if _is_address(source) or sources.exists(source):
        ref = import_source(
            context.store,
            source,
            name or default_name(source),
            target=target if algorithm_kind == "table" else None,
            regression=regression,
            ratios=ratios,
            split_seed=split_seed,
            mend=mend,
            report=context.report,
        )
    else:
        try:
            ref = names.resolve(context.store, source)
        except DatasetNotFoundError as error:
            known = f"Known data sets: {', '.join(error.known[:10])}." if error.known else ""
            raise SourceNotFoundError(source, known) from error
    if ref.kind != algorithm_kind:
        problem = f"it holds {_WORDS[ref.kind]}, but the algorithm learns from {_WORDS[algorithm_kind]}"
        hint = f"Choose an algorithm for {_WORDS[ref.kind]} (`atelier algorithms` lists them), or other data."
        raise InvalidSourceError(source, [problem], hint)
    return ref


def _is_address(source: str) -> bool:
    return re.match(r"[a-z0-9]+://", source, re.IGNORECASE) is not None

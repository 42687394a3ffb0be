"""``import-data``: outside data becomes a version, which tells whoever waits for one."""

from __future__ import annotations

from typing import Literal

from flows.artifacts import show_data
from flows.embedded import embedded_flow, open_context
from infra.datasets.card import DatasetRef
from infra.datasets.dataset import open_dataset
from tasks.ingest import default_name, ingest


@embedded_flow(name="import-data")
def import_data(
    data: str, name: str = "", kind: Literal["image", "table"] = "image", target: str = "", regression: bool = False
) -> DatasetRef:
    """Import data as a version, and let its name mean this version.

    Args:
        data: A path or a URI.
        name: Of the data set; empty: from the path.
        kind: image or table.
        target: Tables: the column to predict.
        regression: The target is a number.

    Returns:
        The version.

    Raises:
        SourceNotFoundError, InvalidSourceError: it cannot be imported.
    """
    with open_context() as context:
        ref = ingest(
            data, name=name or default_name(data), algorithm_kind=kind, target=target or None, regression=regression, context=context
        )
        show_data(ref.name, open_dataset(context.store, ref, context.settings.cache_path).card, 0, "")
        return ref

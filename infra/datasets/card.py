"""The card of a data set version, and the handle by which stages name it. Only pydantic here: reading a card is cheap."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Kind = Literal["image", "table"]
SPLITS = ("train", "valid", "test")


class DatasetRef(BaseModel):
    """Names one version: what stages pass to each other."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str = Field(description="SHA-256 of the logical content, hex.")
    name: str = Field(default="", description="The name under which it was imported; for people, not part of its identity.")
    kind: Kind

    @property
    def key(self) -> str:
        """Its folder in the store."""
        return f"datasets/{self.digest}"


class Feature(BaseModel):
    """One column. ``image`` is encoded picture bytes; a ``label`` is an index into ``Card.classes``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    type: Literal["image", "label", "integer", "float", "boolean", "string", "datetime"]
    nulls: int = 0


class Shard(BaseModel):
    """One Parquet file of a split. ``row_groups`` are the row counts of its row groups, in order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    split: str
    row_groups: list[int]
    num_bytes: int


class Source(BaseModel):
    """Where a version came from: not part of its identity."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    uri: str
    format: str
    imported_at: str = Field(description="ISO 8601, UTC.")
    ignored: list[str] = Field(default_factory=list, description="Files that are no samples (first 1,000), such as Thumbs.db.")
    num_ignored: int = 0


class Lineage(BaseModel):
    """How a version was made from others: ``operation`` is import, quarantine, augment, ..."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    operation: str = "import"
    parents: list[str] = Field(default_factory=list, description="Digests.")
    details: dict[str, Any] = Field(default_factory=dict)


class Card(BaseModel):
    """Everything about a version but its rows.

    ``counts[split][class]`` for classification, ``counts[split][""]`` otherwise. ``classes`` are sorted by name; a label is an index into them.
    Image rows: ``path`` (relative to the source), ``sha256`` (of the bytes), ``label`` (int32), ``image`` (binary). Table rows: the columns as
    imported, and ``_row`` (int64), the row's number in the source from 0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str
    name: str
    kind: Kind
    features: list[Feature]
    target: str | None = Field(default=None, description="Tables: the column to predict, if it was known at import; images: 'label'.")
    classes: list[str] = Field(default_factory=list)
    counts: dict[str, dict[str, int]]
    num_rows: dict[str, int]
    num_bytes: int
    shards: list[Shard]
    split_rule: dict[str, Any] = Field(description="{'given': true} or {'seed', 'ratios', 'stratified_by'}.")
    source: Source
    lineage: Lineage = Lineage()

    @property
    def ref(self) -> DatasetRef:
        return DatasetRef(digest=self.digest, name=self.name, kind=self.kind)

"""A model version as a value, how MLflow's tags carry it, and how people name it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from infra.artifacts import Artifact
from infra.errors import InvalidOptionError

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_PREFIX = "atelier."


class ModelVersion(BaseModel):
    """One registered version of a model: a value, read at one moment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: int
    aliases: list[str] = Field(default_factory=list)
    algorithm: str
    dataset: str = Field(description="Digest of the data it was trained and measured on.")
    metrics: dict[str, float] = Field(description="Of the package on the test split; the figures, without tables.")
    created: str = Field(description="ISO 8601, UTC.")
    package: Artifact
    run_id: str = Field(default="", description="MLflow run.")
    run_card: str = Field(default="", description="Key of the run card in the store.")
    tags: dict[str, str] = Field(default_factory=dict)

    @property
    def ref(self) -> str:
        return f"{self.name}/{self.version}"


def check_name(name: str) -> str:
    """The name itself, if a model may be called so.

    Raises:
        InvalidOptionError: otherwise; with a name that would do.
    """
    if _NAME.fullmatch(name):
        return name
    near = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:100]
    hint = f"{near!r} would do." if near and _NAME.fullmatch(near) else ""
    raise InvalidOptionError(
        "the name of a model", [f"{name!r}: allowed are a-z, 0-9, '-', '_' and '.', a letter or digit first, at most 100"], hint
    )


def check_alias(alias: str) -> str:
    """The alias itself, if a version may be called so.

    Raises:
        InvalidOptionError: otherwise; MLflow keeps ``latest``, and ``v`` with a number, for itself.
    """
    if not _NAME.fullmatch(alias):
        raise InvalidOptionError("an alias", [f"{alias!r}: allowed are a-z, 0-9, '-', '_' and '.', a letter or digit first, at most 100"])
    if alias == "latest" or re.fullmatch(r"v\d+", alias):
        raise InvalidOptionError("an alias", [f"{alias!r} always means a version by its number"], "Take another word, such as 'stable'.")
    return alias


def parse_ref(ref: str) -> tuple[str, str | int | None]:
    """``name``, and the alias of ``name@alias``, the number of ``name/3``, or None.

    Raises:
        InvalidOptionError: it is none of these.
    """
    name, at, alias = ref.partition("@")
    if at:
        if not _NAME.fullmatch(alias) or "/" in name:
            raise InvalidOptionError("a model", [f"{ref!r}: expected NAME, NAME@ALIAS or NAME/VERSION"])
        return check_name(name), alias
    name, slash, number = ref.partition("/")
    if not slash:
        return check_name(name), None
    if not number.isdigit():
        raise InvalidOptionError("a model", [f"{ref!r}: {number!r} is not a version number; expected NAME, NAME@ALIAS or NAME/VERSION"])
    return check_name(name), int(number)


def figures(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that are single finite numbers."""
    numbers = {key: value for key, value in metrics.items() if isinstance(value, (int, float)) and not isinstance(value, bool)}
    return {key: float(value) for key, value in sorted(numbers.items()) if math.isfinite(value)}


def to_tags(version: ModelVersion) -> dict[str, str]:
    """What MLflow stores about the version, besides name, number, aliases and run."""
    return {
        **version.tags,
        f"{_PREFIX}algorithm": version.algorithm,
        f"{_PREFIX}dataset": version.dataset,
        f"{_PREFIX}metrics": json.dumps(version.metrics, sort_keys=True),
        f"{_PREFIX}package": version.package.model_dump_json(),
        f"{_PREFIX}package_digest": version.package.digest,
        f"{_PREFIX}run_card": version.run_card,
        f"{_PREFIX}created": version.created,
    }


def from_tags(name: str, version: int, aliases: list[str], run_id: str | None, tags: Mapping[str, str | None]) -> ModelVersion | None:
    """The inverse of ``to_tags``; None for a version that Atelier did not register."""
    if f"{_PREFIX}package" not in tags:
        return None
    own = {key.removeprefix(_PREFIX): value or "" for key, value in tags.items() if key.startswith(_PREFIX)}
    return ModelVersion(
        name=name,
        version=version,
        aliases=sorted(aliases),
        algorithm=own["algorithm"],
        dataset=own["dataset"],
        metrics=json.loads(own["metrics"]),
        created=own["created"],
        package=Artifact.model_validate_json(own["package"]),
        run_id=run_id or "",
        run_card=own["run_card"],
        tags={key: value or "" for key, value in sorted(tags.items()) if not key.startswith((_PREFIX, "mlflow."))},
    )


def now() -> datetime:
    return datetime.now(UTC)


def iso(moment: datetime) -> str:
    """ISO 8601 with microseconds, so that the text sorts as the time does."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")

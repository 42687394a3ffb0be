"""A stage's result that lies in the workspace is data, never code: whoever can write there must not be able to run something here.

Prefect's result files name the serializer that reads them, ``pickle`` among others, and the classes to make. Only what our own stages write is
read: plain JSON by Prefect's JSON serializer, with classes of this project.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

_SERIALIZER = {
    "type": "json",
    "jsonlib": "json",
    "object_encoder": "prefect.serializers.prefect_json_object_encoder",
    "object_decoder": "prefect.serializers.prefect_json_object_decoder",
    "dumps_kwargs": {},
    "loads_kwargs": {},
}
_OWN = ("infra.", "algorithms.", "tasks.", "flows.")
_NAMING = ("__class__", "__exc_type__")


def check_result(content: bytes) -> bytes:
    """The content of a result file, if it is one that a stage of ours wrote.

    Raises:
        ValueError: another serializer, or classes from elsewhere; Prefect takes it as "there is no result", and the stage is done again.
    """
    record = json.loads(content)
    if not isinstance(record, dict) or set(record) != {"metadata", "result"} or not isinstance(record["result"], str):
        raise ValueError("this is no result of a stage")
    if not isinstance(record["metadata"], dict) or record["metadata"].get("serializer") != _SERIALIZER:
        raise ValueError("a stage's result is read as JSON only")
    for name in _named(json.loads(record["result"])):
        if not isinstance(name, str) or not name.startswith(_OWN):
            raise ValueError(f"a stage's result names {name!r}, which is no class of this project")
    return content


def _named(value: Any) -> Iterator[Any]:
    """The classes that the value names, at any depth."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key in _NAMING:
                yield item
            else:
                yield from _named(item)
    elif isinstance(value, list):
        for item in value:
            yield from _named(item)

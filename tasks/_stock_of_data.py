"""Data set versions and studies: which there are, and which of them something points at."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from typing import Any

from infra.datasets import names
from infra.datasets.card import Card
from infra.errors import ArtifactNotFoundError
from infra.registry import ModelVersion
from infra.store import Store
from tasks._retention import Item

_DIGEST = re.compile(r"[0-9a-f]{64}")
_BEST = "best"  # tuning/best/: notes for later studies, small


def _things(store: Store, prefix: str) -> dict[str, tuple[int, float]]:
    """Bytes and newest time of each folder right below a prefix."""
    found: dict[str, tuple[int, float]] = {}
    for key, num_bytes, written in store.written(f"{prefix}/"):
        name = key.split("/")[1]
        size, newest = found.get(name, (0, 0.0))
        found[name] = size + num_bytes, max(newest, written)
    return found


def dataset_items(store: Store) -> Iterable[Item]:
    """Every version, in the group of its name."""
    cards = {card.digest: card for card in names.list_versions(store)}
    for digest, (size, written) in _things(store, "datasets").items():
        if _DIGEST.fullmatch(digest):
            group = cards[digest].name if digest in cards else ""
            yield Item(kind="dataset", key=f"datasets/{digest}", group=group, num_bytes=size, written=written)


def study_items(store: Store) -> Iterable[Item]:
    """Every study that lies in the workspace, in the group of its algorithm; those in a database of their own are none of ours."""
    for key, (size, written) in _things(store, "tuning").items():
        if key != _BEST:
            group = str((_study(store, key) or {}).get("algorithm", "unfinished"))
            yield Item(kind="study", key=f"tuning/{key}", group=group, num_bytes=size, written=written)


def _study(store: Store, key: str) -> dict[str, Any] | None:
    """What a finished study tells of itself; None: it is not finished."""
    try:
        found: dict[str, Any] = json.loads(store.read_bytes(f"tuning/{key}/result/study.json"))
    except ArtifactNotFoundError:
        return None
    return found


def lineage(cards: dict[str, Card], digests: Collection[str]) -> set[str]:
    """These versions and all that they were made from."""
    found: set[str] = set()
    todo = list(digests)
    while todo:
        digest = todo.pop()
        if digest in found:
            continue
        found.add(digest)
        if digest in cards:
            made = cards[digest].lineage
            todo += [*made.parents, *(one for one in made.details.get("with", []) if isinstance(one, str))]
    return found


def pointed_at_by_versions(store: Store, versions: Collection[ModelVersion]) -> set[str]:
    """Keys of the data that registered versions come from, and of the studies of their algorithm on it."""
    cards = {card.digest: card for card in names.list_versions(store)}
    digests = lineage(cards, {version.dataset for version in versions})
    learned = {(version.algorithm, digest) for version in versions for digest in lineage(cards, {version.dataset})}
    studies = {
        f"tuning/{key}"
        for key in _things(store, "tuning")
        if key != _BEST and (told := _study(store, key)) is not None and (told["algorithm"], told["dataset"]) in learned
    }
    return {f"datasets/{digest}" for digest in digests} | studies


def named_or_awaited(store: Store) -> set[str]:
    """Keys of the versions that a name means now, with all that they were made from, and of those that events tell of which no run has taken."""
    cards = {card.digest: card for card in names.list_versions(store)}
    wanted = {entry.digest for entry in names.current(store).values()}
    for key in [*store.list("events/outbox/"), "triggers/ledger.json"]:
        try:
            wanted.update(_DIGEST.findall(store.read_bytes(key).decode(errors="replace")))
        except ArtifactNotFoundError:
            continue  # taken meanwhile; or there are no triggers
    return {f"datasets/{digest}" for digest in lineage(cards, wanted)}

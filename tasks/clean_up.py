"""Cleaning up: look at all there is, plan (``tasks._retention``), remove. Packages, the registry and the audit log are never touched."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from infra.context import StageContext
from infra.errors import AtelierError
from infra.registry import Registry
from infra.store import Store
from tasks._retention import Item, Kind, Plan
from tasks._stock_of_data import dataset_items, pointed_at_by_versions, study_items

# Prefix in the store: kind, and how many parts of the key make one thing.
_PLACES: tuple[tuple[str, Kind, int], ...] = (
    ("runs", "run", 2),
    ("batches", "batch", 2),
    ("captures", "capture", 4),
    ("feedback", "feedback", 4),
    ("monitor", "report", 3),
    ("candidates", "candidates", 3),
    ("prefect/results", "result", 3),
    ("prefect/times", "result", 3),
    ("events/log", "event", 3),
)
_BY_MODEL: frozenset[Kind] = frozenset(["capture", "feedback", "report", "candidates"])


def take_stock(context: StageContext, older_than: float) -> list[Item]:
    """Everything that a clean-up may remove; MLflow's runs only those that ended before ``older_than`` (seconds since 1970)."""
    items = [item for prefix, kind, depth in _PLACES for item in _in_store(context.store, prefix, kind, depth)]
    items += _checkpoints(context.store)
    items += [*dataset_items(context.store), *study_items(context.store)]
    items += _logs(context.settings.state_dir / "logs")
    runs = Registry(context.settings, context.store).old_runs(older_than)
    return items + [Item(kind="mlflow run", key=run_id, written=end) for run_id, end in runs]


def _in_store(store: Store, prefix: str, kind: Kind, depth: int) -> Iterable[Item]:
    sizes: dict[str, int] = {}
    times: dict[str, float] = {}
    for key, num_bytes, written in store.written(f"{prefix}/"):
        parts = key.split("/")
        if len(parts) < depth or (kind == "report" and parts[1] == "references"):
            continue
        thing = "/".join(parts[:depth])
        sizes[thing] = sizes.get(thing, 0) + num_bytes
        times[thing] = max(times.get(thing, 0.0), written)
    for thing, num_bytes in sizes.items():
        group = thing.split("/")[1] if kind in _BY_MODEL else prefix
        yield Item(kind=kind, key=thing, group=group, num_bytes=num_bytes, written=times[thing])


def _checkpoints(store: Store) -> list[Item]:
    """Checkpoints of trainings that have ended: nobody goes on from them."""
    found: dict[str, list[tuple[int, float]]] = {}
    ended: set[str] = set()
    for key, num_bytes, written in store.written("runs/"):
        parts = key.split("/")
        if len(parts) > 3 and parts[2] == "checkpoints":
            found.setdefault("/".join(parts[:3]), []).append((num_bytes, written))
        elif parts[2:] == ["trained", "MANIFEST.json"]:
            ended.add("/".join(parts[:2]))
    return [
        Item(kind="checkpoints", key=key, group="runs", num_bytes=sum(size for size, _ in files), written=max(at for _, at in files))
        for key, files in found.items()
        if key.rpartition("/")[0] in ended
    ]


def _logs(folder: Path) -> list[Item]:
    items = []
    for one in sorted(folder.glob("*/*")):
        files = [path.stat() for path in (one.rglob("*") if one.is_dir() else [one]) if path.is_file()]
        written = max((status.st_mtime for status in files), default=one.stat().st_mtime)
        items.append(Item(kind="log", key=str(one), group=one.parent.name, num_bytes=sum(s.st_size for s in files), written=written))
    return items


def pointed_at(context: StageContext) -> set[str]:
    """Keys of runs, data and studies, and ids of MLflow runs, that a version in the registry or its log points at."""
    versions = Registry(context.settings, context.store).recorded()
    found = pointed_at_by_versions(context.store, versions)
    for version in versions:
        for key in (version.run_card, version.package.key):
            if key.startswith("runs/"):
                found.add("/".join(key.split("/")[:2]))
        if version.run_id:
            found.add(version.run_id)
    return found


def remove(plan: Plan, context: StageContext, remove_rows: Callable[[Collection[str]], None]) -> tuple[list[Item], list[str]]:
    """Remove what was planned; what was written to since stays, and one that cannot be removed does not keep the others.

    Args:
        remove_rows: removes Prefect's flow runs of these ids.

    Returns:
        What went, and what went wrong, in words.
    """
    gone: list[Item] = []
    problems: list[str] = []
    registry = Registry(context.settings, context.store)
    for item in plan.remove:
        try:
            if item.kind == "prefect run":
                remove_rows([item.key])
            elif item.kind == "mlflow run":
                registry.delete_run(item.key)
            elif item.kind == "log":
                path = Path(item.key)
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
            elif any(at > item.written for key, _, at in context.store.written(item.key) if (key + "/").startswith(item.key + "/")):
                continue  # in use again
            else:
                context.store.delete(item.key)
        except (AtelierError, OSError) as error:
            problems.append(f"{item.key}: {error}")
            continue
        gone.append(item)
    return gone, problems

"""From requests over HTTP to a verdict: captured, compared with the training data, told as an event; true answers count, too."""

from __future__ import annotations

import io
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from flows.monitor import tell
from infra.artifacts import publish, read_file
from infra.context import StageContext
from infra.datasets.card import DatasetRef
from infra.datasets.dataset import open_dataset
from infra.datasets.importer import import_source
from infra.events import MODEL_DRIFTED, QUALITY_DROPPED, Event, pending
from infra.registry import ModelVersion, Registry
from infra.settings import Settings
from infra.store import Store, open_store
from tasks._drift import Bars
from tasks.labelled import labelled_requests
from tasks.monitor import CANDIDATES, EVIDENTLY, PAGE, REPORT, Watched, monitor
from tests.deployments.serving.conftest import Running, running
from tests.packages import write_colours

if TYPE_CHECKING:
    from distributed import Client

RGB = {"red": (160, 120, 120), "green": (120, 160, 120), "blue": (120, 120, 160)}
BARS = Bars(min_rows=30, min_feedback=20)
LIMIT_S = 60.0


def picture(name: str, seed: int, brightness: float = 1.0) -> bytes:
    noise = np.random.default_rng(seed).normal(0, 12, (12, 12, 3))
    file = io.BytesIO()
    Image.fromarray(((np.array(RGB[name]) + noise) * brightness).clip(0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def send(server: Running, pictures: list[bytes]) -> list[str]:
    """The token of each prediction."""
    answers = [server.ask("/v2/models/watched/predict", one, content_type="image/png") for one in pictures]
    assert {answer.status for answer in answers} == {200}, answers[0].body
    return [answer.headers["atelier-prediction"] for answer in answers]


def until_kept(store: Store, folder: str, number: int) -> None:
    limit = time.monotonic() + LIMIT_S
    while True:
        kept = sum(pq.read_metadata(io.BytesIO(store.read_bytes(key))).num_rows for key in store.list(f"{folder}/watched/"))
        if kept >= number:
            return
        assert time.monotonic() < limit, f"{kept} of {number} rows in {folder}"
        time.sleep(0.1)


@pytest.fixture
def watched(tmp_path: Path, own_cache: Path) -> tuple[Settings, ModelVersion]:
    """A champion whose training data is in the workspace."""
    settings = Settings(workspace=str(tmp_path / "workspace"), cache_dir=own_cache)
    store = open_store(settings.workspace_uri)
    for index in range(300):
        name = list(RGB)[index % 3]
        path = tmp_path / "data" / name / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(name, index))
    data = import_source(store, str(tmp_path / "data"), "colours")
    package = publish(store, write_colours(tmp_path / "package"), "runs/x/package", "export")
    registry = Registry(settings, store)
    version = registry.register(
        "watched", package, algorithm="image-classification/small-cnn", dataset=data.digest, metrics={"accuracy": 0.95}
    )
    return settings, registry.promote("watched", version.version)


def look(context: StageContext, version: ModelVersion, **more: Any) -> Watched:
    found = monitor(version.name, version.version, version.package, version.dataset, version.metrics, bars=BARS, context=context, **more)
    tell(found, context)
    return found


def told(store: Store) -> list[Event]:
    """What monitoring said; the data set and the registry tell of themselves, too."""
    return [event for event in pending(store) if event.event in (MODEL_DRIFTED, QUALITY_DROPPED)]


def test_shifted_requests_are_a_drift_and_wrong_answers_a_drop(
    watched: tuple[Settings, ModelVersion], cluster: Client, tmp_path: Path
) -> None:
    settings, version = watched
    store = open_store(settings.workspace_uri)
    context = StageContext(settings, store)
    context.use_cluster(cluster)
    nothing = look(context, version)
    assert (nothing.num_rows, nothing.report, nothing.verdict.enough) == (0, None, False)

    with running(settings, tmp_path / "server", "watched", "--capture", "1", "--capture-s", "0.2") as server:
        tokens = send(server, [picture(list(RGB)[index % 3], 1000 + index) for index in range(60)])
        for index, token in enumerate(tokens):
            body = {"prediction": token, "truth": [list(RGB)[index % 3]]}
            assert server.ask("/v2/models/watched/feedback", body).status == 200
        until_kept(store, "captures", 60)
        until_kept(store, "feedback", 60)
        same = look(context, version)
        assert same.num_rows == 60
        assert not same.verdict.drifted, same.verdict.reasons
        assert same.quality is not None
        assert same.quality.value == 1.0
        assert told(store) == []

        dark = send(server, [picture("red", 2000 + index, brightness=0.3) for index in range(60)])
        for truth in ("red", "blue"):  # a person errs, and mends it
            for token in dark:
                assert server.ask("/v2/models/watched/feedback", {"prediction": token, "truth": [truth]}).status == 200
        until_kept(store, "captures", 120)
        until_kept(store, "feedback", 180)
    found = look(context, version, num_candidates=20)
    again = look(context, version, num_candidates=20)

    assert found.verdict.drifted
    assert {"brightness", "label"} <= {column.name for column in found.columns if column.drifted}
    assert not any(column.drifted for column in found.columns if column.name in ("width", "height"))
    assert found.verdict.quality_dropped
    assert found.quality is not None
    assert (found.quality.value, found.quality.num) == (0.5, 120), "of two truths of one request the last one holds, and counts once"
    events = {event.event: event for event in told(store)}
    assert set(events) == {"atelier.model.drifted", "atelier.model.quality.dropped"}
    assert len(told(store)) == 2, "the same rows looked at again are the same event"
    assert events["atelier.model.drifted"].payload["version"] == version.version
    assert again.verdict == found.verdict

    data, now = DatasetRef(digest=version.dataset, kind="image"), datetime.now(UTC).isoformat()
    labelled = labelled_requests("watched", data, None, 1.0, now, context=context)
    assert labelled is not None
    card = open_dataset(store, labelled, settings.cache_path).card
    assert {name: sum(split[name] for split in card.counts.values()) for name in card.classes} == {"blue": 80, "green": 20, "red": 20}
    assert labelled_requests("watched", data, None, 1.0, now, context=context) == labelled
    assert labelled_requests("another", data, None, 1.0, now, context=context) is None

    assert found.report is not None
    assert json.loads(read_file(store, found.report, REPORT))["verdict"]["drifted"]
    assert b"brightness" in read_file(store, found.report, EVIDENTLY)
    page = read_file(store, found.report, PAGE).decode()
    assert "<svg" in page
    assert "<script" not in page
    assert found.candidates is not None
    rows = pq.read_table(io.BytesIO(read_file(store, found.candidates, CANDIDATES))).to_pylist()
    assert len(rows) == found.num_candidates == 20
    assert all(row["true_label"] is None and row["reason"] for row in rows)
    folder = store.local_path(found.candidates.key)
    assert folder is not None
    shown = sorted((folder / "pictures").rglob("*.png"))
    assert {path.parent.name for path in shown} <= set(RGB)
    assert len(shown) == 20

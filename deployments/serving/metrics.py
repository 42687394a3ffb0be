"""What the server counts, for Prometheus: requests by outcome, latency by part, batches, predictions, feedback; all by model and version.

Where several workers serve one port, each counts into files of a common folder (``PROMETHEUS_MULTIPROC_DIR``, set before this module is
imported) and any of them answers with the sum.
"""

from __future__ import annotations

import collections
import os
import weakref
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

SECONDS = (0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.015, 0.03, 0.06, 0.12, 0.25, 0.5, 1.0, 2.5, 10.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 512)
PARTS = ("queue", "preprocess", "model", "postprocess")
OUTCOMES = ("ok", "refused", "failed")
_MOST_GATHERED = 512
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """All metrics of one process."""

    def __init__(self) -> None:
        disable_created_metrics()
        self._registry = CollectorRegistry()
        more: dict[str, Any] = {"registry": self._registry}
        version = ("model", "version")
        self.requests = Counter("atelier_requests", "Inference requests.", [*version, "outcome"], **more)
        self.seconds = Histogram("atelier_request_seconds", "From the request's last byte to the answer.", version, buckets=SECONDS, **more)
        self.parts = Histogram("atelier_part_seconds", "The same by part.", [*version, "part"], buckets=SECONDS, **more)
        self.batch_rows = Histogram("atelier_batch_rows", "Rows of the run that a request shared.", version, buckets=ROWS, **more)
        self.predictions = Counter("atelier_predictions", "Answers by class, or by band of the value.", [*version, "label"], **more)
        self.feedback = Counter("atelier_feedback", "True answers that came later.", [*version, "correct"], **more)
        self.squared_error = Counter("atelier_feedback_squared_error", "Sum of squared errors of values.", version, **more)
        self.error_spread = Counter("atelier_feedback_quartic_error", "Sum of their squares, for the spread.", version, **more)
        self.shadow = Counter(
            "atelier_shadow", "Copied requests, by whether both versions said the same.", [*version, "shadow", "agree"], **more
        )
        self.responses = Counter("atelier_http_responses", "Answers by status.", ["status"], **more)
        self.load_failures = Counter("atelier_load_failures", "Versions that could not be loaded.", ["model"], **more)
        self.captured = Counter("atelier_captured", "Captured requests by what became of them.", ["outcome"], **more)
        self.loaded = Gauge("atelier_model_loaded", "Versions that are loaded.", version, multiprocess_mode="livemax", **more)
        self._status: collections.Counter[int] = collections.Counter()
        self._versions: weakref.WeakSet[VersionMetrics] = weakref.WeakSet()

    def count_response(self, status: int) -> None:
        self._status[status] += 1

    def of(self, model: str, version: int) -> VersionMetrics:
        made = VersionMetrics(self, model, str(version))
        self._versions.add(made)
        return made

    def flush(self) -> None:
        """Count what has gathered; on the event loop only."""
        for version in list(self._versions):
            version.flush()
        for status, count in self._status.items():
            self.responses.labels(str(status)).inc(count)
        self._status.clear()

    def exposition(self) -> bytes:
        """All of it in Prometheus' text format; of all workers where there are several."""
        if folder := os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            registry = CollectorRegistry()
            MultiProcessCollector(registry, path=folder)
            return generate_latest(registry)
        return generate_latest(self._registry)


class VersionMetrics:
    """The metrics of one version. What every request tells is gathered and counted in one go: that is ten times cheaper than one by one.

    ``flush`` does it: before each exposition, several times a second, and when much has gathered. Only the event loop may call it.
    """

    def __init__(self, metrics: Metrics, model: str, version: str) -> None:
        self._metrics, self._labels = metrics, (model, version)
        self.ok, self.refused, self.failed = (metrics.requests.labels(*self._labels, outcome) for outcome in OUTCOMES)
        parts = [metrics.parts.labels(*self._labels, part) for part in PARTS]
        self._histograms = [metrics.seconds.labels(*self._labels), *parts, metrics.batch_rows.labels(*self._labels)]
        self._bounds = [*[np.array(SECONDS)] * (1 + len(PARTS)), np.array(ROWS)]
        self._gathered: list[tuple[float, ...]] = []
        self._told: collections.Counter[str] = collections.Counter()
        self._predictions: dict[str, Any] = {}
        self.loaded = metrics.loaded.labels(*self._labels)

    def answered(
        self, *, queue_s: float, preprocess_s: float, model_s: float, postprocess_s: float, total_s: float, batch_rows: int
    ) -> None:
        """One request was answered; seconds by part and in all."""
        self._gathered.append((total_s, queue_s, preprocess_s, model_s, postprocess_s, batch_rows))
        if len(self._gathered) >= _MOST_GATHERED:
            self.flush()

    def predicted(self, label: str) -> None:
        self._told[label] += 1

    def flush(self) -> None:
        """Count what has gathered."""
        if self._gathered:
            columns = np.array(self._gathered).T
            self._gathered.clear()
            self.ok.inc(columns.shape[1])
            for histogram, bounds, values in zip(self._histograms, self._bounds, columns, strict=True):
                # As Histogram.observe does, which takes one value a call.
                histogram._sum.inc(float(values.sum()))
                for bucket, count in zip(histogram._buckets, np.bincount(np.searchsorted(bounds, values)), strict=False):
                    if count:
                        bucket.inc(int(count))
        for label, count in self._told.items():
            if label not in self._predictions:
                self._predictions[label] = self._metrics.predictions.labels(*self._labels, label)
            self._predictions[label].inc(count)
        self._told.clear()

    def judged(self, *, correct: bool | None, squared_error: float | None) -> None:
        """A true answer came: of a class, whether the prediction was right; of a value, its squared error."""
        if squared_error is not None:
            self._metrics.squared_error.labels(*self._labels).inc(squared_error)
            self._metrics.error_spread.labels(*self._labels).inc(min(squared_error**2, 1e300))
        self._metrics.feedback.labels(*self._labels, "value" if correct is None else str(correct).lower()).inc()

    def load_failed(self) -> None:
        self._metrics.load_failures.labels(self._labels[0]).inc()

    def compared(self, shadow: int, agree: bool) -> None:
        self._metrics.shadow.labels(*self._labels, str(shadow), str(agree).lower()).inc()

"""The canary judge: gives a version a growing share of the requests, compares it with the live one, promotes it or sends it back, and writes
why into the registry's log. It reads the servers' metrics, so it may run anywhere."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from deployments.serving.routes import clear_route, write_route
from deployments.serving.routing import Route
from deployments.serving.verdict import Bars, Seen, Verdict, judge
from infra.errors import InvalidOptionError, ServiceError
from infra.registry import Registry
from infra.store import Store

STEPS = (1.0, 10.0, 50.0, 100.0)
Counts = dict[tuple[str, tuple[tuple[str, str], ...]], float]
_MOST_SILENCE_S = 60.0
_LOOK_GROWTH = 1.1


class Outcome(BaseModel):
    """How a canary ended."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    version: int
    outcome: Literal["promoted", "rolled back"]
    weight: float
    reason: str
    live: Seen
    canary: Seen
    tests: dict[str, float]


def read_counts(texts: Iterable[str]) -> Counts:
    """Sums over servers of every sample of their metrics, by name and labels."""
    from prometheus_client.parser import text_string_to_metric_families

    counts: Counts = {}
    for text in texts:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                key = (sample.name, tuple(sorted(sample.labels.items())))
                counts[key] = counts.get(key, 0.0) + sample.value
    return counts


def grown(before: Counts, after: Counts) -> Counts:
    """What was counted in between; a counter that fell was started anew."""
    return {key: value - before.get(key, 0.0) if value >= before.get(key, 0.0) else value for key, value in after.items()}


def seen_of(counts: Counts, model: str, version: int) -> Seen:
    """The counts of one version."""
    mine = {
        (name, tuple(pair for pair in labels if pair[0] not in ("model", "version"))): value
        for (name, labels), value in counts.items()
        if ("model", model) in labels and ("version", str(version)) in labels
    }

    def one(name: str, **labels: str) -> float:
        return mine.get((name, tuple(sorted(labels.items()))), 0.0)

    def by(name: str, label: str) -> dict[str, float]:
        return {dict(labels)[label]: value for (found, labels), value in mine.items() if found == name}

    cumulative = sorted((float(bound), count) for bound, count in by("atelier_request_seconds_bucket", "le").items())
    below = [0.0, *(count for _, count in cumulative)]
    return Seen(
        answered=int(one("atelier_requests_total", outcome="ok")),
        failed=int(one("atelier_requests_total", outcome="failed")),
        slower_than={bound: int(count - before) for (bound, count), before in zip(cumulative, below, strict=False)},
        predictions={label: int(count) for label, count in by("atelier_predictions_total", "label").items()},
        right=int(one("atelier_feedback_total", correct="true")),
        wrong=int(one("atelier_feedback_total", correct="false")),
        values=int(one("atelier_feedback_total", correct="value")),
        squared_error=one("atelier_feedback_squared_error_total"),
        quartic_error=one("atelier_feedback_quartic_error_total"),
    )


def fetch_metrics(url: str, key: str = "") -> str:
    """The metrics of one server.

    Raises:
        ServiceError: it does not answer, or not with metrics.
    """
    request = urllib.request.Request(f"{url.rstrip('/')}/metrics", headers={"Authorization": f"Bearer {key}"} if key else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return str(answer.read(), "utf-8")
    except (OSError, urllib.error.URLError, ValueError) as error:
        raise ServiceError(f"The server {url}", f"its metrics cannot be read ({error}). An API key goes into ATELIER_API_KEY.") from None


class Judge:
    """One canary, from its first request to its end.

    Args:
        read: the metrics of all servers, one text each.
        steps: shares of the requests, per cent, growing.
        look_s: how often it looks, seconds.
        step_s: a step that has not had enough requests by then ends the canary.
        say: told what happens.
    """

    def __init__(
        self,
        registry: Registry,
        store: Store,
        read: Callable[[], Sequence[str]],
        *,
        bars: Bars,
        steps: Sequence[float] = STEPS,
        look_s: float = 5.0,
        step_s: float = 3600.0,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        if not steps or list(steps) != sorted(set(steps)) or not 0 < steps[0] <= steps[-1] <= 100:
            raise InvalidOptionError(
                "a canary", [f"steps {', '.join(f'{step:g}' for step in steps)}: expected growing shares from 0 to 100 %"]
            )
        self._registry, self._store, self._read, self._bars, self._steps = registry, store, read, bars, steps
        self._look_s, self._step_s, self._say = look_s, step_s, say
        self._looks = 0

    def run(self, name: str, version: int, who: str | None = None) -> Outcome:
        """Take the version through all steps.

        Raises:
            InvalidOptionError: it is live already.
            ModelNotFoundError: no such version.
            ServiceError: the servers do not answer; the canary's share is taken back.
        """
        live = self._registry.get(name)
        candidate = self._registry.get(f"{name}/{version}")
        if live.version == version:
            raise InvalidOptionError("a canary", [f"{candidate.ref} is live already"])
        before = read_counts(self._read())
        shares = ", ".join(f"{step:g}" for step in self._steps)
        self._registry.note(name, version, reason=f"canary begins beside {live.ref}: {shares} %", who=who)
        try:
            for step in self._steps:
                verdict, seen = self._step(name, version, live.version, step, before)
                if verdict.decision != "advance":
                    return self._send_back(name, version, step, verdict, seen, who)
            reason = f"canary: {seen[1].answered:,} requests up to {self._steps[-1]:g} %, no test speaks against it"
            compared = _compared(verdict, seen)
            self._registry.promote(name, version, reason=reason, compared=compared, who=who)
            self._say(reason)
            return Outcome(
                model=name,
                version=version,
                outcome="promoted",
                weight=step,
                reason=reason,
                live=seen[0],
                canary=seen[1],
                tests=verdict.tests,
            )
        finally:
            clear_route(self._store, name)

    def _step(self, name: str, version: int, live: int, weight: float, before: Counts) -> tuple[Verdict, tuple[Seen, Seen]]:
        write_route(self._store, name, Route(canary=version, weight=weight, reason="canary judge"))
        self._say(f"{name}/{version} gets {weight:g} % of the requests")
        begun, at_start, last_look = time.monotonic(), None, 0
        while True:
            counts = grown(before, self._patiently())
            seen = seen_of(counts, name, live), seen_of(counts, name, version)
            answered = seen[1].answered + seen[1].failed
            at_start = answered if at_start is None else at_start
            if answered >= max(1, last_look * _LOOK_GROWTH):  # a look at what was looked at already tells nothing new
                self._looks, last_look = self._looks + 1, answered
                verdict = judge(*seen, self._bars, look=self._looks, in_step=answered - at_start, is_last=weight == self._steps[-1])
                if verdict.decision != "wait":
                    return verdict, seen
            if time.monotonic() - begun > self._step_s:
                reasons = [f"too few requests in {self._step_s:g} s to judge it at {weight:g} %: {answered - at_start}"]
                return Verdict(decision="roll back", reasons=reasons), seen
            time.sleep(self._look_s)

    def _patiently(self) -> Counts:
        """The metrics; a server that restarts gets a minute."""
        end = time.monotonic() + _MOST_SILENCE_S
        while True:
            try:
                return read_counts(self._read())
            except ServiceError:
                if time.monotonic() > end:
                    raise
                time.sleep(1)

    def _send_back(self, name: str, version: int, weight: float, verdict: Verdict, seen: tuple[Seen, Seen], who: str | None) -> Outcome:
        reason = f"canary rolled back at {weight:g} %: {'; '.join(verdict.reasons)}"
        clear_route(self._store, name)  # first of all
        self._registry.note(name, version, reason=reason, compared=_compared(verdict, seen), who=who, withdraw=True)
        self._say(reason)
        return Outcome(
            model=name,
            version=version,
            outcome="rolled back",
            weight=weight,
            reason=reason,
            live=seen[0],
            canary=seen[1],
            tests=verdict.tests,
        )


def _compared(verdict: Verdict, seen: tuple[Seen, Seen]) -> Mapping[str, object]:
    """What the log keeps of the figures."""
    fields = {"answered", "failed", "predictions", "right", "wrong", "values", "squared_error"}
    return {"live": seen[0].model_dump(include=fields), "canary": seen[1].model_dump(include=fields), "p_values": verdict.tests}

"""The two endpoints that predict, ``infer`` (protocol v2) and ``predict`` (plain JSON, pictures): read, pick a version, ask it, answer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from deployments.serving.access import CHALLENGE, allow
from deployments.serving.batching import Answer
from deployments.serving.capture import Capture, Captured
from deployments.serving.feedback import HEADER, MOST_ROWS, Signer, request_ids
from deployments.serving.fleet import Fleet
from deployments.serving.keys import KeyRing
from deployments.serving.metrics import Metrics
from deployments.serving.model import ServedModel
from deployments.serving.plain import Plain, read_plain
from deployments.serving.tensors import build_response, parse_infer, refuse
from deployments.serving.wire import JSON, Headers, Receive, Scope, Send, headers_of, number_header, read_body, respond, respond_error
from infra.errors import RequestRefusedError

logger = logging.getLogger("atelier.serving")
_BINARY = (b"content-type", b"application/octet-stream")
_MOST_COPIES = 64
Feeds = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Target:
    """What a path of a prediction names."""

    name: str
    version: str | None
    action: str


def target_of(path: str) -> Target | None:
    """``/v2/models/NAME[/versions/VERSION]/infer`` or ``.../predict``; None for every other path."""
    parts = path.split("/")
    if len(parts) == 5 and parts[4] in ("infer", "predict") and parts[1] == "v2" and parts[2] == "models":
        return Target(parts[3], None, parts[4])
    if len(parts) == 7 and parts[6] in ("infer", "predict") and parts[1] == "v2" and parts[2] == "models" and parts[4] == "versions":
        return Target(parts[3], parts[5], parts[6])
    return None


@dataclass(slots=True)
class _Asked:
    """One request on its way.

    Attributes:
        parts: feeds and rows; pictures of several sizes are several parts.
        rows_of: the same inputs for another version, which copies go to.
        finish: body and headers of the answer, from the rows of the output.
    """

    parts: list[tuple[Feeds, int]]
    again: Callable[[ServedModel], list[tuple[Feeds, int]]]
    finish: Callable[[ServedModel, NDArray[Any]], tuple[bytes, Headers]]
    pictures: Sequence[bytes] = ()


class Predictor:
    """Answers the paths of ``target_of``."""

    def __init__(
        self, fleet: Fleet, ring: KeyRing, metrics: Metrics, signer: Signer, *, max_body: int, executor: Executor, capture: Capture | None
    ) -> None:
        self._fleet, self._ring, self._metrics, self._signer = fleet, ring, metrics, signer
        self._max_body, self._executor, self._capture = max_body, executor, capture
        self._copies: set[asyncio.Task[None]] = set()
        self._requests = request_ids()

    async def __call__(self, target: Target, scope: Scope, receive: Receive, send: Send, extra: Headers) -> None:
        """Answer one request; ``extra`` headers go with every answer."""
        status, headers, model = 200, headers_of(scope), None
        try:
            if scope["method"] != "POST":
                status = 405
                await respond_error(scope, receive, send, status, "this path takes POST", [(b"allow", b"POST"), *extra])
                return
            who = allow(self._ring, headers, "predict")
            sent = headers.get(b"atelier-key")
            key = sent.decode("latin-1") if sent is not None else None
            model = self._fleet.pick(target.name, target.version, key)
            body = await read_body(headers, receive, self._max_body)
            answer, more = await self._answer(model, target, headers, body, key or who)
            await respond(send, status, answer, more + extra if extra else more)
        except RequestRefusedError as error:
            status = error.status
            if model is not None:
                model.metrics.refused.inc()
            more = CHALLENGE + extra if status == 401 else [(b"retry-after", b"1"), *extra] if status == 503 else extra
            await respond_error(scope, receive, send, status, error.reason, more)
        except Exception:
            status = 500
            if model is not None:
                model.metrics.failed.inc()
            logger.exception("%s could not answer a request", target.name)
            await respond_error(scope, receive, send, status, "the model failed; the server's log says why", extra)
        finally:
            self._metrics.count_response(status)

    async def _answer(
        self, model: ServedModel, target: Target, headers: Mapping[bytes, bytes], body: bytes | bytearray, key: str
    ) -> tuple[bytes, Headers]:
        begun = time.perf_counter()
        asked = self._read_infer(model, headers, body) if target.action == "infer" else await self._read_plain(model, headers, body)
        read = time.perf_counter()
        if len(asked.parts) == 1:
            feeds, rows = asked.parts[0]
            answer = await model.batcher.submit(feeds, rows, _group(feeds))
        else:
            answer = await _ask_all(model, asked.parts)
        back = time.perf_counter()
        output = answer.output
        model.check(output)
        told = model.count(output)
        content, more = asked.finish(model, output)
        more.append((b"atelier-version", b"%d" % model.number))
        request = next(self._requests)
        if len(told) <= MOST_ROWS:
            values = told if model.output == "scores" else output.tolist()
            more.append((HEADER, self._signer.sign(model.name, model.number, values, request)))
        end = time.perf_counter()
        model.metrics.answered(
            queue_s=max(0.0, back - read - answer.model_s),
            preprocess_s=read - begun,
            model_s=answer.model_s,
            postprocess_s=end - back,
            total_s=end - begun,
            batch_rows=answer.batch_rows,
        )
        self._afterwards(model, target, asked, output, told, key, request, end - begun)
        return content, more

    def _read_infer(self, model: ServedModel, headers: Mapping[bytes, bytes], body: bytes | bytearray) -> _Asked:
        request = parse_infer(body, number_header(headers, b"inference-header-content-length"))
        feeds, rows = model.from_tensors(request.inputs)
        wanted = request.outputs
        if wanted is not None and (unknown := [name for name in wanted if name not in (model.output, "label")]):
            raise refuse(f"this model has no output {unknown[0]!r}; it has {_outputs_in_words(model)}")
        if wanted is not None and "label" in wanted and model.output != "scores":
            raise refuse(f"this model has no output 'label'; it has {_outputs_in_words(model)}")

        def finish(model: ServedModel, output: NDArray[Any]) -> tuple[bytes, Headers]:
            binary = wanted if wanted is not None else {model.output: request.binary}
            arrays = {name: output if name == model.output else _labels(model, output) for name in binary}
            content, head = build_response(model.name, str(model.number), request.id, arrays, binary)
            if head is None:
                return content, [JSON]
            return content, [_BINARY, (b"inference-header-content-length", b"%d" % head)]

        return _Asked([(feeds, rows)], lambda other: [other.from_tensors(request.inputs)], finish)

    async def _read_plain(self, model: ServedModel, headers: Mapping[bytes, bytes], body: bytes | bytearray) -> _Asked:
        plain: Plain = await read_plain(model, headers, body, self._executor)

        def finish(model: ServedModel, output: NDArray[Any]) -> tuple[bytes, Headers]:
            predictions = [model.package.answer(row) for row in output]
            return orjson.dumps({"model": model.name, "version": model.number, "predictions": predictions}), [JSON]

        return _Asked(plain.parts(model), plain.parts, finish, plain.encoded)

    def _afterwards(
        self,
        model: ServedModel,
        target: Target,
        asked: _Asked,
        output: NDArray[Any],
        told: list[str],
        key: str,
        request: str,
        took_s: float,
    ) -> None:
        """What the client does not wait for: the copy to the shadow, and the capture."""
        shadow = self._fleet.shadow_of(model.name, model) if target.version is None else None
        # A shadow that cannot keep up gets fewer copies; it never holds up what is answered.
        if shadow is not None and shadow.batcher.rows_waiting < _MOST_COPIES:
            task = asyncio.ensure_future(self._copy(model, shadow, asked, told))
            self._copies.add(task)
            task.add_done_callback(self._copies.discard)
        if self._capture is not None and self._capture.wants():
            for row, ((feeds, _), index) in enumerate(_rows_of(asked.parts)):
                encoded = asked.pictures[row] if row < len(asked.pictures) else None
                inputs = {name: value[index] for name, value in feeds.items()}
                self._capture.put(Captured(time.time(), model, key, request, row, inputs, encoded, output[row], took_s))

    async def _copy(self, model: ServedModel, shadow: ServedModel, asked: _Asked, told: list[str]) -> None:
        try:
            parts = asked.again(shadow)
            answer = await _ask_all(shadow, parts)
            begun = time.perf_counter()
            shadow.check(answer.output)
            said = shadow.count(answer.output)
        except RequestRefusedError:
            shadow.metrics.refused.inc()
            model.metrics.compared(shadow.number, agree=False)
            return
        except Exception:
            shadow.metrics.failed.inc()
            logger.exception("the shadow %s/%d failed", shadow.name, shadow.number)
            return
        shadow.metrics.answered(
            queue_s=answer.queue_s,
            preprocess_s=0.0,
            model_s=answer.model_s,
            postprocess_s=time.perf_counter() - begun,
            total_s=answer.queue_s + answer.model_s,
            batch_rows=answer.batch_rows,
        )
        for mine, other in zip(told, said, strict=True):
            model.metrics.compared(shadow.number, agree=mine == other)


def _group(feeds: Feeds) -> Any:
    """Pictures of one size share a run; rows of a table always do."""
    image = feeds.get("image")
    return image.shape[1:] if image is not None and image.ndim == 4 else None


async def _ask_all(model: ServedModel, parts: Sequence[tuple[Feeds, int]]) -> Answer:
    answers = await asyncio.gather(*(model.batcher.submit(feeds, rows, _group(feeds)) for feeds, rows in parts))
    slowest = max(answers, key=lambda answer: answer.queue_s + answer.model_s)
    output = np.concatenate([answer.output for answer in answers]) if len(answers) > 1 else answers[0].output
    return Answer(output, slowest.queue_s, slowest.model_s, slowest.batch_rows)


def _rows_of(parts: Sequence[tuple[Feeds, int]]) -> list[tuple[tuple[Feeds, int], int]]:
    return [(part, index) for part in parts for index in range(part[1])]


def _labels(model: ServedModel, output: NDArray[Any]) -> NDArray[Any]:
    return np.array([model.labels[int(place)] for place in output.argmax(axis=1)], dtype=object)


def _outputs_in_words(model: ServedModel) -> str:
    return "'scores' and 'label'" if model.output == "scores" else "'value'"

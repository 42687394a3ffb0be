"""One server process: ``python -m deployments.serving.worker '<ServeOptions>'``, or called by ``atelier serve``.

It listens once all its models are loaded, and says so on standard output: ``serving http://HOST:PORT``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.metadata import version as version_of
from types import FrameType

import uvicorn

from algorithms._package_runtime import num_cores
from deployments.serving.app import Server
from deployments.serving.capture import ParquetCapture
from deployments.serving.counted import CountedOnce
from deployments.serving.feedback import Signer, secret_of
from deployments.serving.fleet import Fleet
from deployments.serving.inputs import Limits
from deployments.serving.keys import KeyRing
from deployments.serving.loading import Loader
from deployments.serving.metrics import Metrics
from deployments.serving.options import ServeOptions
from deployments.serving.predicting import Predictor
from deployments.serving.truths import TruthWriter
from infra.access import is_loopback
from infra.errors import AtelierError, ServiceError, to_wire
from infra.registry import Registry
from infra.settings import Settings, load_settings
from infra.store import open_store

logger = logging.getLogger("atelier.serving")
_BACKLOG = 2048
_KEEP_ALIVE_S = 75
_GRACE_S = 30
_COUNT_S = 0.25


def bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A socket on the address; it does not listen yet.

    Args:
        shared: whether other processes may bind it, too; each of them gets a part of the connections.

    Raises:
        ServiceError: the port is taken, or the address is none of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        why = f"{host}:{port}: {error.strerror or error}"
        raise ServiceError("The inference server", f"{why}. Choose another --port (0 takes a free one) or --host.") from None
    return bound


def address_of(bound: socket.socket) -> str:
    """The URL of a bound socket."""
    host, port = bound.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


class _Uvicorn(uvicorn.Server):
    """Stops in two steps: first not ready but still answering, so that balancers and clients turn away; then no new connections, and the
    requests that are on their way are finished."""

    def __init__(self, config: uvicorn.Config, server: Server, drain_s: float) -> None:
        super().__init__(config)
        self._server, self._drain_s = server, drain_s
        self._loop: asyncio.AbstractEventLoop | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._server.draining or sig == signal.SIGINT:
            super().handle_exit(sig, frame)
            return
        self._server.draining = True
        if self._loop is None:
            super().handle_exit(sig, frame)  # it does not serve yet
        else:
            self._loop.call_soon_threadsafe(self._later)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def _later(self) -> None:
        logger.info("stopping: new requests are taken for %g s more", self._drain_s)
        asyncio.get_running_loop().call_later(self._drain_s, self._stop)

    def _stop(self) -> None:
        self.should_exit = True


def build(options: ServeOptions, settings: Settings) -> Server:
    """The application with all its models loaded.

    Raises:
        AtelierError: a model does not exist, or its package is damaged.
    """
    store = open_store(settings.workspace_uri)
    registry = Registry(settings, store)
    ring = KeyRing(store, open_without_keys=is_loopback(options.host))
    metrics = Metrics()
    executor = ThreadPoolExecutor(max_workers=num_cores() + 2, thread_name_prefix="serve")
    limits = Limits(options.max_rows, options.max_megapixels)
    loader = Loader(registry, settings, metrics, options, limits, executor)
    fleet = Fleet(registry, settings, store, options.models, loader, options.poll_s)
    signer = Signer(secret_of(settings.state_dir))
    truths = TruthWriter(store, options.capture_s)
    counted = CountedOnce(os.environ.get("PROMETHEUS_MULTIPROC_DIR"))
    capture = None
    if options.capture > 0:
        capture = ParquetCapture(
            store,
            options.capture,
            pictures=options.capture_pictures,
            count=lambda what, rows: metrics.captured.labels(what).inc(rows),
            every_s=options.capture_s,
        )
    predictor = Predictor(fleet, ring, metrics, signer, max_body=int(options.max_body_mib * 2**20), executor=executor, capture=capture)
    fleet.start()

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        tasks = [asyncio.create_task(work) for work in (fleet.follow(), _follow_keys(ring, options.poll_s), _count(metrics))]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.to_thread(truths.close)
            if capture is not None:
                await asyncio.to_thread(capture.close)
            executor.shutdown(wait=False)

    return Server(fleet, ring, metrics, predictor, signer, truths, counted, lifespan, version_of("atelier"))


async def _count(metrics: Metrics) -> None:
    """Where there are several workers, any of them tells the metrics of all: what they have gathered must not wait for their own turn."""
    while True:
        await asyncio.sleep(_COUNT_S)
        metrics.flush()


async def _follow_keys(ring: KeyRing, poll_s: float) -> None:
    while True:
        await asyncio.sleep(poll_s)
        try:
            await asyncio.to_thread(ring.load)
        except (AtelierError, OSError) as error:
            logger.error("the API keys could not be read, the known ones stay: %s", error)


def run(options: ServeOptions, bound: socket.socket, before_serving: Callable[[str], None] | None = None) -> int:
    """Serve until asked to stop; the exit status.

    Args:
        before_serving: called with the address when all models are loaded.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    server = build(options, load_settings())
    if before_serving is not None:
        before_serving(address_of(bound))
    config = uvicorn.Config(
        server,
        http="httptools",
        loop="uvloop",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_GRACE_S,
        backlog=_BACKLOG,
    )
    bound.listen(_BACKLOG)  # connections queue up from here on
    print(f"serving {address_of(bound)}", flush=True)
    uvicorn_server = _Uvicorn(config, server, options.drain_s)
    with contextlib.suppress(KeyboardInterrupt):  # raised again by uvicorn when all is finished
        uvicorn_server.run(sockets=[bound])
    return 0


def main() -> int:
    """A worker of several: the options come as JSON, the port is chosen."""
    options = ServeOptions.model_validate_json(sys.argv[1])
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    try:
        return run(options, bind(options.host, options.port, shared=True))
    except AtelierError as error:
        print(f"failed {json.dumps(to_wire(error))}", flush=True)
        return error.exit_status


def _end_with_parent() -> None:
    """Standard input is a pipe that the supervisor holds open; it ends with it, also if that is killed."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())

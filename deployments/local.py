"""``atelier up`` itself: the local stack from its first process to its last."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from types import FrameType

from filelock import FileLock, Timeout

from deployments.serving.access import check_access
from deployments.stack.addresses import addresses_file, lock_file, write_addresses
from deployments.stack.databases import prepare_databases
from deployments.stack.keeper import Keeper
from deployments.stack.lost_runs import restart_lost_runs
from deployments.stack.options import UpOptions, choose_ports
from deployments.stack.parts import Part, make_parts
from infra.access import check_exposure, login
from infra.audit import write_down
from infra.cluster import python_path
from infra.errors import InvalidOptionError, ServiceError
from infra.settings import Settings, load_settings
from infra.store import open_store

_ATTEMPTS = 20


def up(options: UpOptions, say: Callable[[str], None]) -> int:
    """Run the stack until Ctrl-C or SIGTERM; the exit status.

    Raises:
        InvalidOptionError: ports are taken, or a stack of this workspace runs already.
        ServiceError: a part did not get ready; the others are ended.
    """
    settings = load_settings()
    folder = settings.state_dir / "stack"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock_file(settings), timeout=0):
            return _up(options, settings, say)
    except Timeout:
        raise InvalidOptionError(
            "atelier up",
            [f"a stack of the workspace {settings.workspace} runs already"],
            f"Its addresses are in {addresses_file(settings)}.",
        ) from None


def _up(options: UpOptions, settings: Settings, say: Callable[[str], None]) -> int:
    _check_doors(options, settings)
    ports = choose_ports(options)
    parts = make_parts(options, settings, ports, prepare_databases(settings))
    folder = settings.state_dir / "stack"
    environment = {name: value for name, value in parts[-1].environment.items() if value is not None}
    api = environment["PREFECT_API_URL"]
    keeper = Keeper(parts, settings.state_dir / "logs" / "stack", folder, say, lambda name: _schedule_lost_runs(name, api, say))

    def asked_to_stop(number: int, frame: FrameType | None) -> None:
        keeper.ask_to_stop()

    handlers = {number: signal.signal(number, asked_to_stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        say("starting; this takes half a minute, the first time longer")
        keeper.start([part.name for part in parts if part.name not in ("worker", "triggers")])
        if not keeper.stopping and options.deploy:
            _run_module("deployments.deploying", environment, "The deployments")
        if not keeper.stopping:
            _schedule_lost_runs("worker", api, say)
        keeper.start(["worker", "triggers"])
        if not keeper.stopping:
            _tell_addresses(settings, parts, api, environment["ATELIER_CLUSTER"], say)
            write_down(open_store(settings.workspace_uri), "up", options.host, capture=options.capture, login=bool(login(settings)))
            say("ready; Ctrl-C stops all of it")
        keeper.keep()
        say("stopping")
        write_down(open_store(settings.workspace_uri), "down", options.host)
        return 0
    finally:
        addresses_file(settings).unlink(missing_ok=True)
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_IGN if handler is None else handler)
        keeper.stop()


def _check_doors(options: UpOptions, settings: Settings) -> None:
    """Refuse to open what has no lock.

    Raises:
        InvalidSettingError: other machines would reach Prefect and MLflow, and there is no login; or the login is none.
        InvalidOptionError: they would reach the inference server, and there is no API key.
    """
    for service in ("Prefect", "MLflow"):
        check_exposure(service, options.host, settings)
    check_access(options.host, settings, "atelier up")


def _tell_addresses(settings: Settings, parts: list[Part], api: str, cluster: str, say: Callable[[str], None]) -> None:
    outside = {part.name: part.outside for part in parts if part.outside}
    if "prefect" in outside:
        outside["api"] = f"{outside['prefect']}/api"
    write_addresses(settings, {"api": api, "cluster": cluster} | {part.name: part.address for part in parts if part.address}, outside)
    for part in parts:
        if part.address:
            say(f"{part.title:<10} {part.address}{f'  from other machines {part.outside}' if part.outside else ''}")


def _schedule_lost_runs(name: str, api: str, say: Callable[[str], None]) -> None:
    """What the worker that died was running begins again with the next one."""
    if name != "worker":
        return
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            if lost := restart_lost_runs(api):
                say(f"{lost} {'run' if lost == 1 else 'runs'} of the worker that died will begin again")
            return
        except ServiceError as error:
            if attempt == _ATTEMPTS:
                say(str(error))
            time.sleep(1)


def _run_module(module: str, environment: dict[str, str], what: str) -> None:
    """Run one of our modules to its end.

    Raises:
        ServiceError: it failed.
    """
    command = [sys.executable, "-m", module]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": python_path(), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        start_new_session=True,
    )
    if done.returncode != 0:
        raise ServiceError(what, (done.stderr or done.stdout)[-2000:])

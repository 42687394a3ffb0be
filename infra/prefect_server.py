"""The Prefect API that flows need: the one that is configured, or an embedded server of our own.

Prefect's own ephemeral server outlives a killed parent and migrates an empty database for 15 seconds; ours is ended with its
parent by the supervisor, and starts from a migrated template that the set-up leaves in the cache.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from types import TracebackType

from infra._supervisor import start_supervised
from infra.errors import ServiceError, StoreAccessError
from infra.settings import Settings

_LAST_WORDS = 2000  # characters
_WHO = "The embedded Prefect server"
_own_urls: set[str] = set()
LOGGING_CONFIG = Path(__file__).with_name("prefect_logging.yml")
SERVER_LOGGING_CONFIG = Path(__file__).with_name("prefect_server_logging.yml")
_MOST_LOG = 1 << 20  # bytes of earlier runs


def quiet_environment() -> dict[str, str]:
    """What keeps Prefect off the terminal: its logs go to its API only, and no telemetry is sent."""
    return {
        "PREFECT_LOGGING_SETTINGS_PATH": str(LOGGING_CONFIG),
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_CLI_PROMPT": "false",
        "DO_NOT_TRACK": "1",
    }


def quieten() -> None:
    """Set ``quiet_environment`` for this process, where the user has not set something else; call it before Prefect is imported."""
    os.environ.update({name: value for name, value in quiet_environment().items() if name not in os.environ})


def configured_url() -> str | None:
    """The API that the user chose by variable or Prefect profile, if any; read without importing Prefect, which takes seconds."""
    if (url := os.environ.get("PREFECT_API_URL")) and url not in _own_urls:
        return url
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    profiles = Path(os.environ.get("PREFECT_PROFILES_PATH", home / "profiles.toml"))
    try:
        known = tomllib.loads(profiles.read_text())
    except FileNotFoundError:
        return None
    active = os.environ.get("PREFECT_PROFILE", known.get("active", ""))
    url = known.get("profiles", {}).get(active, {}).get("PREFECT_API_URL")
    return str(url) if url else None


def _database_url(path: Path) -> str:
    return f"sqlite+aiosqlite:///{path}"


def template_path(settings: Settings) -> Path:
    """A migrated, empty database for this version of Prefect."""
    return settings.cache_path / "templates" / f"prefect-{version('prefect')}.db"


def make_template(settings: Settings) -> Path:
    """Make the template if it is not there: a new workspace then starts in seconds. Takes about 15 s of one core."""
    target = template_path(settings)
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    code = "import asyncio; from prefect.server.database import provide_database_interface as p; asyncio.run(p().create_db())"
    environment = {**os.environ, **quiet_environment(), "PREFECT_API_DATABASE_CONNECTION_URL": _database_url(partial)}
    try:
        try:
            done = subprocess.run(
                [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=settings.start_s, check=False
            )
        except subprocess.TimeoutExpired as error:
            told = error.stderr.decode(errors="replace") if isinstance(error.stderr, bytes) else error.stderr or ""
            raise ServiceError("The Prefect database", _too_slow(settings.start_s, told)) from None
        if done.returncode != 0:
            raise ServiceError("The Prefect database", f"it ended with status {done.returncode}. {_last_words(done.stderr)}")
        _fold_journal(partial)
        partial.replace(target)
    finally:
        for left in partial.parent.glob(partial.name + "*"):
            left.unlink(missing_ok=True)
    return target


def _last_words(text: str, log: Path | None = None) -> str:
    where = f" (all of it: {log})" if log is not None else ""
    return f"Its last words{where}:\n{text.strip()[-_LAST_WORDS:]}" if text.strip() else f"It wrote nothing{where}."


def _too_slow(waited_s: float, text: str) -> str:
    """That it took too long, how busy the machine is, and what to do; with what it wrote, if anything."""
    busy = f"the load is {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    told = f"it was not ready within {waited_s:g} s ({busy}). Wait for a quieter moment, or raise ATELIER_START_S."
    return f"{told} {_last_words(text)}" if text.strip() else told


def _fold_journal(database: Path) -> None:
    """Write what SQLite's journal still holds into the file, so that the file alone can be copied."""
    import sqlite3

    with sqlite3.connect(database) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


class EmbeddedServer:
    """A Prefect API server on loopback, without UI; started at once, awaited by ``wait``, ended by leaving."""

    def __init__(self, settings: Settings) -> None:
        self.home = settings.state_dir / "prefect"
        database = self.home / "prefect.db"
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            if not database.exists():
                partial = database.with_name(f"prefect.db.{os.getpid()}.partial")
                shutil.copyfile(make_template(settings), partial)
                partial.replace(database)
        except OSError as error:
            raise StoreAccessError(str(self.home), str(error.strerror or error), "Give it room and permission to write.") from None
        self.patience_s = settings.start_s
        self.log = self.home / "server.log"
        with suppress(FileNotFoundError):  # the first run here; or another one that starts just now was faster
            if self.log.stat().st_size > _MOST_LOG:
                self.log.replace(self.log.with_name("server.log.1"))
        listening = socket.create_server(("127.0.0.1", 0))  # bound here, so that nobody can take the port in between
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}/api"
        environment = {
            **os.environ,
            **quiet_environment(),
            "PREFECT_LOGGING_SETTINGS_PATH": str(SERVER_LOGGING_CONFIG),
            "PREFECT_HOME": str(self.home),
            "PREFECT_API_DATABASE_CONNECTION_URL": _database_url(database),
            "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
            "PREFECTSERVER_LOGGING_CONFIG_LEVEL": "WARNING",
            "PREFECT_UI_ENABLED": "0",
            "PREFECT__SERVER_EPHEMERAL": "1",
            "PREFECT__SERVER_FINAL": "1",
        }
        for variable in ("PREFECT_API_URL", "OMP_NUM_THREADS"):
            environment.pop(variable, None)
        command = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
        command += ["--fd", str(listening.fileno()), "--log-level", "error", "--lifespan", "on"]
        with self.log.open("ab") as log, listening:
            self._log_start = log.tell()  # what stands before is of earlier runs
            self.process = start_supervised(command, env=environment, output_fd=log.fileno(), pass_fds=[listening.fileno()], grace_s=3.0)

    def wait(self) -> str:
        """The API's URL, once it answers.

        Raises:
            ServiceError: it ended, or did not answer in time: which of them, how it answered last, and its own last words.
        """
        end, answered = time.monotonic() + self.patience_s, "nothing"
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise ServiceError(_WHO, f"it ended by itself{self._status()}. {self._last_words()}")
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=2) as answer:
                    if answer.status == 200:
                        return self.url
                    answered = f"status {answer.status}"
            except (urllib.error.URLError, OSError) as error:
                answered = str(error)
                time.sleep(0.05)
        raise ServiceError(_WHO, f"{_too_slow(self.patience_s, '')} Its last answer: {answered}. {self._last_words()}")

    def _status(self) -> str:
        """How the server ended, if its supervisor could still tell."""
        assert self.process.stdout is not None
        told = [line.split() for line in self.process.stdout.read().decode(errors="replace").splitlines()]
        return next((f" with status {words[1]}" for words in told if len(words) > 1 and words[0] == "exited"), "")

    def _last_words(self) -> str:
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return _last_words(log.read().decode(errors="replace"), self.log)

    def __enter__(self) -> EmbeddedServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def prefect_server(settings: Settings) -> Iterator[EmbeddedServer | None]:
    """Begin to start the embedded server, unless an API is configured; the caller goes on meanwhile and calls ``wait`` when it needs it."""
    quieten()
    if configured_url():
        yield None
        return
    with EmbeddedServer(settings) as server:
        # Where Prefect is not imported yet, it reads this once and every thread of its knows the address.
        _own_urls.add(server.url)
        before = os.environ.get("PREFECT_API_URL")
        os.environ["PREFECT_API_URL"] = server.url
        try:
            yield server
        finally:
            if before is None:
                os.environ.pop("PREFECT_API_URL", None)
            else:
                os.environ["PREFECT_API_URL"] = before


if __name__ == "__main__":
    from infra.settings import load_settings

    print(make_template(load_settings()))

"""Headless Chromium, for pages that people look at."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from websockets.sync.client import connect
from websockets.sync.connection import Connection

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def _command(folder: Path, *arguments: str) -> list[str]:
    assert CHROMIUM is not None
    quiet = [
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]
    return [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--hide-scrollbars",
        "--disable-dev-shm-usage",
        *quiet,
        f"--user-data-dir={folder / 'profile'}",
        *arguments,
    ]


def chromium(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run it with these arguments and a profile of its own in ``folder``."""
    return subprocess.run(_command(folder, *arguments), capture_output=True, text=True, timeout=120, check=True)


class Page:
    """A page that is open in a browser, spoken to by the DevTools protocol: it lives in real time, as before a person."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._numbers = count(1)
        self._session: str | None = None
        targets = self._call("Target.getTargets")["targetInfos"]
        [target] = [one["targetId"] for one in targets if one["type"] == "page"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        session = {"sessionId": self._session} if self._session else {}
        self._connection.send(json.dumps({"id": number, "method": method, "params": parameters, **session}))
        while (answer := json.loads(self._connection.recv(timeout=30))).get("id") != number:
            pass  # an event, or somebody else's answer
        assert "error" not in answer, answer["error"]
        result: dict[str, Any] = answer["result"]
        return result

    def wait_for(self, *texts: str, timeout_s: float = 60) -> str:
        """The document as it stands once it holds all of ``texts``; after ``timeout_s`` seconds as it stands then."""
        end = time.monotonic() + timeout_s
        while True:
            found = self._call("Runtime.evaluate", expression="document.documentElement.outerHTML")["result"]
            document: str = found.get("value", "")
            if all(one in document for one in texts) or time.monotonic() > end:
                return document
            time.sleep(0.1)

    def shoot(self, target: Path) -> None:
        """Write what is seen to ``target``, a PNG."""
        target.write_bytes(base64.b64decode(self._call("Page.captureScreenshot")["data"]))


def _wait_for_lines(path: Path, lines: int, timeout_s: float = 60) -> list[str]:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if path.exists() and len(found := path.read_text().splitlines()) >= lines:
            return found
        time.sleep(0.05)
    raise TimeoutError(f"the browser has not written {path.name} within {timeout_s:.0f} s")


@contextmanager
def open_page(address: str, folder: Path, *, size: tuple[int, int] = (1200, 1600)) -> Iterator[Page]:
    """A browser window of ``size`` (pixels) on ``address``, with a profile of its own in ``folder``."""
    command = _command(folder, "--remote-debugging-port=0", f"--window-size={size[0]},{size[1]}", address)
    written = folder / "profile" / "DevToolsActivePort"
    written.unlink(missing_ok=True)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            port, path = _wait_for_lines(written, 2)
            with connect(f"ws://127.0.0.1:{port}{path}", max_size=None, proxy=None) as connection:
                yield Page(connection)
        finally:
            process.kill()

"""How a part tells that it is well: functions that say what is missing yet, and an empty text when nothing is."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from infra.events import authorization

Check = Callable[[], str]
TIMEOUT_S = 5.0


def http_ok(url: str) -> Check:
    """It answers a GET with 200."""

    def check() -> str:
        try:
            with urlopen(Request(url, headers=authorization()), timeout=TIMEOUT_S) as answer:
                return "" if answer.status == 200 else f"{url} answers with {answer.status}"
        except (URLError, HTTPException, OSError) as error:
            return f"{url} does not answer: {error}"

    return check


def file_there(path: Path) -> Check:
    """It has written its file (``say_ready``)."""
    return lambda: "" if path.exists() else f"{path.stem} has not said that it is ready"


def worker_online(api: str, pool: str, name: str) -> Check:
    """Prefect's server knows the worker and hears of it."""

    def check() -> str:
        try:
            found = post(f"{api}/work_pools/{pool}/workers/filter", {})
        except (URLError, HTTPException, OSError, ValueError) as error:
            return f"the work pool {pool} is not there: {error}"
        online = any(worker["name"] == name and worker["status"] == "ONLINE" for worker in found)
        return "" if online else f"Prefect has not heard of the worker {name!r}"

    return check


def post(url: str, body: Any, method: str = "POST") -> Any:
    """Ask Prefect's API; what it answers, as a JSON value (None: nothing).

    Raises:
        URLError, HTTPException, OSError: no answer, or a status that is none of success. ValueError: not JSON.
    """
    request = Request(url, json.dumps(body).encode(), {"Content-Type": "application/json", **authorization()}, method=method)
    try:
        with urlopen(request, timeout=TIMEOUT_S) as answer:
            text = answer.read()
    except HTTPError as error:
        error.close()
        raise
    return json.loads(text) if text else None


def say_ready() -> None:
    """Tell the keeper, if there is one, that this process does its work now."""
    if path := os.environ.get("ATELIER_READY_FILE"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(str(os.getpid()))

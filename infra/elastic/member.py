"""A rank's line to the driver of its elastic job: asking for a place, showing that it lives, hearing that the group changes."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, NoReturn

from infra import wire

BEAT_TIMEOUT_S = 5.0
GUARD_S = 4.0  # how long a process may take to notice that its group is broken
OPENING_GUARD_S = 0.5  # the same while the group is only just coming together, which native code does not give up by itself
LAST_WORD_S = 2.0
ORPHAN_S = 60.0  # without any answer from the driver


@dataclass(frozen=True)
class Plan:
    """A place in a generation. ``source``: the rank that has the state, None: nobody has. ``last``: write a checkpoint, then end."""

    generation: int
    rank: int
    size: int
    backend: str
    environment: dict[str, str]
    source: int | None
    last: bool


class Member:
    """The line itself, with a thread that beats.

    The thread ends the process (``RESTART_STATUS``) if the group is broken and the process does not leave it by itself: a rank can be stuck in
    native code that nothing interrupts. Its last commit is safe (``infra.elastic.memory``) and its successor goes on from there.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        host, port = environment[wire.DRIVER_VARIABLE].rsplit(":", 1)
        self.driver, self.secret = (host, int(port)), environment[wire.SECRET_VARIABLE]
        self.name = environment[wire.MEMBER_VARIABLE]
        self.host = environment[wire.HOST_VARIABLE]
        self.largest = int(environment[wire.LARGEST_VARIABLE])
        self.generation = 0
        self.operations = 0
        self.waits = False
        self.position = (-1, -1)
        self.leaving = False
        self.opening = False
        self.notice = ""
        self.listener: socket.socket | None = None
        self._inside = False  # has a place in a group
        self._broken_at: float | None = None
        self._heard_at = time.monotonic()
        faulthandler.register(signal.SIGUSR1, all_threads=True, chain=False)
        signal.signal(signal.SIGTERM, self._on_term)
        threading.Thread(target=self._beat, name="beat", daemon=True).start()

    def _on_term(self, number: int, frame: Any) -> None:
        self.leaving = True  # at the next commit

    @property
    def change_wanted(self) -> bool:
        """Whether the group shall come together anew at the next commit."""
        return self.leaving or self.notice == "regroup"

    @property
    def broken(self) -> bool:
        return self.notice == "break"

    def join(self, offer: tuple[int, int] | None) -> Plan:
        """Leave the group, if in one, and wait for a place in the next; never returns if this process is wanted no more."""
        self._inside, self._broken_at = False, None
        if self.leaving:
            self._leave()
        if self.listener is not None:
            self.listener.close()
        self.listener = socket.create_server((self.host, 0), family=socket.AF_INET6 if ":" in self.host else socket.AF_INET)
        word = {"offer": offer, "port": self.listener.getsockname()[1], "generation": self.generation}
        while True:
            found = self.say("join", word)
            if found:
                break
            if self.leaving:
                self._leave()
        plan = Plan(**found)
        self.generation, self.operations, self.notice, self._inside = plan.generation, 0, "", True
        return plan

    def _leave(self) -> NoReturn:
        """End, and have the driver know that it was in good order: a Dask worker that closes can no longer tell it."""
        with contextlib.suppress(OSError):  # who has no driver any more leaves all the same
            wire.request(self.driver, self.secret, "POST", f"/member/{self.name}/left", b"{}", timeout_s=LAST_WORD_S)
        self.end(wire.LEFT_STATUS)

    def say(self, kind: str, word: dict[str, Any]) -> dict[str, Any]:
        """Tell the driver something; its answer, empty if there is no news or it cannot be reached at the moment."""
        body = json.dumps(word).encode()
        try:
            status, answer = wire.request(self.driver, self.secret, "POST", f"/member/{self.name}/{kind}", body, timeout_s=BEAT_TIMEOUT_S)
        except OSError:
            if self.leaving or time.monotonic() - self._heard_at > ORPHAN_S:
                self.end(wire.RESTART_STATUS)
            time.sleep(0.1)
            return {}
        self._heard_at = time.monotonic()
        if status == HTTPStatus.GONE:
            self.end(wire.LEFT_STATUS)
        if status != HTTPStatus.OK:
            raise RuntimeError(f"the driver answered {status} to {kind}")
        found: dict[str, Any] = json.loads(answer)
        return found

    def _beat(self) -> None:
        while True:
            if not self._inside:
                time.sleep(0.05)
                continue
            generation = self.generation
            word = {"operations": self.operations, "waits": self.waits, "position": self.position, "leaving": self.leaving}
            answer = self.say("beat", {**word, "notice": self.notice, "generation": generation})
            if answer and generation == self.generation and self._inside:
                self.notice = answer["notice"]
            if not (self.broken and self._inside):
                self._broken_at = None
            elif self._broken_at is None:
                self._broken_at = time.monotonic()
            elif time.monotonic() - self._broken_at > (OPENING_GUARD_S if self.opening else GUARD_S):
                print(
                    "The group is broken and this process does not notice; it is started anew. It stands here:", file=sys.stderr, flush=True
                )
                faulthandler.dump_traceback(all_threads=True)
                self.end(wire.RESTART_STATUS)

    def end(self, status: int) -> NoReturn:
        """End this process at once, past everything that would wait for others."""
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

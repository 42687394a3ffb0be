"""Keeps the parts of the stack running: starts them in order, starts one again when it dies, and ends all of them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deployments.serving.supervise import seconds_until_restart
from deployments.stack.options import family_of
from deployments.stack.parts import Part
from infra._supervisor import start_supervised
from infra.cluster import python_path
from infra.errors import ServiceError

_STEADY_S = 60.0
_LOOK_S = 0.1
_MOST_LOG = 50 << 20  # bytes; a part's log is begun anew above it


@dataclass
class _State:
    """What is known of one part."""

    part: Part
    process: subprocess.Popen[bytes] | None = None
    pid: int = 0
    begun: float = 0.0
    deaths: int = 0
    due: float | None = 0.0
    well: bool = False
    told: str = ""
    listening: socket.socket | None = field(default=None, repr=False)


class Keeper:
    """The running stack.

    Args:
        parts: in the order in which they start.
        logs: folder of their output.
        ready: folder of the files by which some say that they are ready.
        say: told what happens, one line each.
        before_restart: called with the name of a part that died, just before it is started again.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        logs: Path,
        ready: Path,
        say: Callable[[str], None],
        before_restart: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._states = {part.name: _State(part) for part in parts}
        self._logs, self._ready, self._say, self._before_restart = logs, ready, say, before_restart
        self._stopping = threading.Event()

    def ask_to_stop(self) -> None:
        """Let ``start`` and ``keep`` return soon; safe in a signal handler."""
        self._stopping.set()

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    def start(self, names: Sequence[str]) -> None:
        """Start these parts and wait until each is well.

        Raises:
            ServiceError: one ended, or was not well in time; with the end of its log.
        """
        todo = [self._states[name] for name in names]
        while not self._stopping.is_set():
            waiting = [state for state in todo if not state.well]
            if not waiting:
                return
            for state in waiting:
                if state.process is None:
                    if all(self._states[name].well for name in state.part.after):
                        self._begin(state)
                elif state.process.poll() is not None:
                    raise ServiceError(state.part.title, f"it ended before it was ready. {self._last_words(state)}")
                else:
                    if not self._look(state) and time.monotonic() - state.begun > state.part.start_s:
                        raise ServiceError(
                            state.part.title, f"not ready in {state.part.start_s:.0f} s: {state.told}. {self._last_words(state)}"
                        )
            self._stopping.wait(_LOOK_S)

    def keep(self) -> None:
        """Start again what dies, until asked to stop."""
        while not self._stopping.wait(_LOOK_S):
            for state in self._states.values():
                self._tend(state)

    def _tend(self, state: _State) -> None:
        now = time.monotonic()
        if state.process is not None and state.process.poll() is not None:
            state.deaths = 1 if now - state.begun >= _STEADY_S else state.deaths + 1
            wait_s = seconds_until_restart(now - state.begun, state.deaths)
            how = self._ended(state)
            self._say(f"{state.part.title} {how}; it starts again{f' in {wait_s:g} s' if wait_s else ''} (log: {self._log(state)})")
            state.process, state.well, state.due = None, False, now + wait_s
            self._write_pids()
        elif state.process is None and state.due is not None and now >= state.due:
            if all(self._states[name].well for name in state.part.after):
                self._before_restart(state.part.name)
                self._begin(state)
        elif state.process is not None and not state.well:
            if self._look(state):
                self._say(f"{state.part.title} is back")
            elif now - state.begun > state.part.start_s:
                self._say(f"{state.part.title} does not get ready ({state.told}); it starts again (log: {self._log(state)})")
                self._end([state])

    def _begin(self, state: _State) -> None:
        part = state.part
        (self._ready / f"{part.name}.ready").unlink(missing_ok=True)
        environment = {**os.environ, "PYTHONPATH": python_path(), **part.environment}
        command, fds = part.command, []
        if part.listens is not None:
            if state.listening is None:
                state.listening = socket.create_server(part.listens, family=family_of(part.listens[0]), backlog=512)
            fds = [state.listening.fileno()]
            command = [word.replace("{fd}", str(fds[0])) for word in command]
        log = self._log(state)
        log.parent.mkdir(parents=True, exist_ok=True)
        if log.exists() and log.stat().st_size > _MOST_LOG:
            log.replace(log.with_suffix(".old.log"))
        with log.open("ab") as output:
            state.process = start_supervised(
                command,
                env={name: value for name, value in environment.items() if value is not None},
                output_fd=output.fileno(),
                pass_fds=fds,
                grace_s=part.grace_s,
            )
        state.begun, state.due, state.well, state.told = time.monotonic(), None, False, ""
        assert state.process.stdout is not None
        words = state.process.stdout.readline().split()
        state.pid = int(words[1]) if words[:1] == [b"started"] else 0
        self._write_pids()

    def _look(self, state: _State) -> bool:
        """Whether it is well now."""
        state.told = state.part.check()
        state.well = not state.told
        return state.well

    def _ended(self, state: _State) -> str:
        assert state.process is not None
        assert state.process.stdout is not None
        words = state.process.stdout.read().split()
        self._close(state.process)
        if len(words) < 2:
            return "lost its supervisor and ended"
        status = int(words[1])
        return f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"

    @staticmethod
    def _close(process: subprocess.Popen[bytes]) -> None:
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    def _log(self, state: _State) -> Path:
        return self._logs / f"{state.part.name}.log"

    def _last_words(self, state: _State) -> str:
        log = self._log(state)
        lines = log.read_text(errors="replace").strip().splitlines()[-15:] if log.exists() else []
        return "\n".join([f"Log: {log}", *lines])

    def _write_pids(self) -> None:
        """For people and tests: which process is which part."""
        pids = {name: state.pid for name, state in self._states.items() if state.process is not None}
        self._ready.mkdir(parents=True, exist_ok=True)
        part = self._ready / "pids.json.part"
        part.write_text(json.dumps(pids))
        part.replace(self._ready / "pids.json")

    def stop(self) -> None:
        """End all of them, those that were started last first."""
        self._stopping.set()
        started = [state for state in self._states.values() if state.process is not None]
        first = [state for state in started if state.part.name in ("serving", "worker", "triggers")]
        self._end(first)
        self._end([state for state in started if state not in first])
        for state in started:
            if state.listening is not None:
                state.listening.close()
            if state.process is not None:
                self._close(state.process)

    @staticmethod
    def _end(states: Sequence[_State]) -> None:
        for state in states:
            if state.process is not None and state.process.stdin is not None and not state.process.stdin.closed:
                state.process.stdin.close()
        for state in states:
            assert state.process is not None
            try:
                state.process.wait(timeout=state.part.grace_s + 10)
            except subprocess.TimeoutExpired:
                state.process.kill()
                state.process.wait()

"""A process that has loaded its libraries and forks one child for each job: a start costs milliseconds instead of seconds.

    python -P -m infra._warm_process MODULE CONTROL_FD PRELOAD...

``MODULE.run(argument, report) -> status`` does a job. On CONTROL_FD come lines of JSON: ``{"argument": ..., "env": {...}}`` starts a job
(``"log"``: its own file for what it prints), ``{"stop": true}`` kills the one that runs, ``{"signal": N}`` sends it a signal. The end of the orders, or
SIGTERM, ends this process; the job gets SIGTERM and the ``grace_s`` seconds of its order (0 without) to end by itself. Events go to
ATELIER_EVENTS_FD: ``warm`` when all is loaded, those of the job, and ``ended`` with its ``status`` (negative: killed by that signal) and its largest
memory, ``peak_kib``. A job that crashes takes nothing along: it is a process of its own, in a group of its own, with a temporary folder of its own, and
all three are gone when ``ended`` is told.

Nothing here may start a thread or touch a GPU before the fork: neither survives it.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

Event = dict[str, Any]
Work = Callable[[str, Callable[[Event], None]], int]


class WarmProcess:
    """One job at a time, from the orders on ``control_fd``."""

    def __init__(self, work: Work, control_fd: int, events_fd: int) -> None:
        self.work, self.control_fd, self.events_fd = work, control_fd, events_fd
        self.child = 0
        self.scratch = ""
        self.grace_s = 0.0
        self._ending = False
        self._rest = b""
        self._wake_fd, wake_write_fd = os.pipe()
        for fd in (self._wake_fd, wake_write_fd):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(wake_write_fd, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # Python writes the number to the wake-up pipe
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "_ending", True))

    def report(self, event: Event) -> None:
        data = json.dumps(event).encode() + b"\n"
        while data:
            data = data[os.write(self.events_fd, data) :]

    def serve(self) -> None:
        """Until nobody can give orders any more."""
        while True:
            ready = select.select([self.control_fd, self._wake_fd], [], [])[0]
            if self._wake_fd in ready:
                os.read(self._wake_fd, 4096)
                self._reap()
            if self._ending:
                self._end_job()
                return
            if self.control_fd in ready:
                chunk = os.read(self.control_fd, 2**16)
                if not chunk:
                    self._end_job()
                    return
                *lines, self._rest = (self._rest + chunk).split(b"\n")
                for line in filter(None, lines):
                    order = json.loads(line)
                    if order.get("stop"):
                        self._kill()
                    elif "signal" in order:
                        self._signal(order["signal"])
                    else:
                        self._start(order)

    def _start(self, order: dict[str, Any]) -> None:
        assert not self.child, "one job at a time"
        self.scratch = tempfile.mkdtemp(prefix="atelier-warm-")
        self.grace_s = float(order.get("grace_s", 0.0))
        sys.stdout.flush()
        sys.stderr.flush()
        self.child = os.fork()
        if self.child == 0:
            self._be_child(order)
        _own_group(self.child)

    def _be_child(self, order: dict[str, Any]) -> None:
        status = 1
        try:
            _own_group(0)
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            os.close(self.control_fd)
            if order.get("log"):
                log_fd = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
                for fd in (1, 2):
                    os.dup2(log_fd, fd)
                os.close(log_fd)
            os.environ.update(order["env"], TMPDIR=self.scratch)
            tempfile.tempdir = self.scratch
            status = self.work(order["argument"], self.report)
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)  # past the handlers of the process that was forked

    def _kill(self) -> None:
        if self.child:
            _kill_group(self.child)

    def _signal(self, number: int) -> None:
        if self.child:
            os.kill(self.child, number)  # not yet waited for, so the number is still its own

    def _end_job(self) -> None:
        """Let the job end by itself for as long as it may; then kill it."""
        if self.child and self.grace_s > 0:
            self._signal(signal.SIGTERM)
            deadline = time.monotonic() + self.grace_s
            while self.child and time.monotonic() < deadline:
                self._reap()
                time.sleep(0.02)
        self._kill()
        self._reap(wait=True)

    def _reap(self, *, wait: bool = False) -> None:
        if not self.child:
            return
        pid, status, usage = os.wait4(self.child, 0 if wait else os.WNOHANG)
        if not pid:
            return
        _kill_group(self.child)  # what it left behind
        self.child = 0
        shutil.rmtree(self.scratch, ignore_errors=True)  # a daemon that left the group may still write there
        try:
            self.report({"kind": "ended", "status": os.waitstatus_to_exitcode(status), "peak_kib": usage.ru_maxrss})
        except BrokenPipeError:
            return  # who wanted to know is gone; the end of the orders, which comes with it, does the rest


def _own_group(pid: int) -> None:
    try:
        os.setpgid(pid, pid)
    except (PermissionError, ProcessLookupError):
        return  # the other of parent and child was first, and the child has gone on


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # all of them are gone already


def main() -> int:
    module, control_fd, *preload = sys.argv[1:]
    gc.disable()  # what modules make while they load stays, and looking for garbage in it takes a tenth of the time
    for name in preload:
        try:
            importlib.import_module(name.removesuffix("?"))
        except ImportError:
            if not name.endswith("?"):  # may be missing
                raise
    work: Work = importlib.import_module(module).run
    gc.freeze()  # or the first full collection of a job would write into, and so copy, every page of what is loaded here
    gc.enable()
    process = WarmProcess(work, int(control_fd), int(os.environ["ATELIER_EVENTS_FD"]))
    process.report({"kind": "warm"})
    process.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())

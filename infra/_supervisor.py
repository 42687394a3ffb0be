"""A small parent for one process that must not outlive whoever asked for it; run as a script, standard library only (it starts in 30 ms).

    python -I -S _supervisor.py GRACE_S OUTPUT_FD PASS_FDS -- COMMAND...

The command runs in a session of its own, so a terminal's Ctrl-C does not reach it; its output goes to OUTPUT_FD. It ends when
- the supervisor's standard input ends (whoever started the supervisor closed it, or died, even by SIGKILL), or the supervisor gets SIGTERM:
  SIGTERM and SIGCONT to the group, after GRACE_S seconds SIGKILL;
- the supervisor dies: the kernel kills it (PR_SET_PDEATHSIG).
What the command itself started goes with it, also if it left the group: orphans come back to the supervisor (PR_SET_CHILD_SUBREAPER).

On standard output: ``started PID``, and at the end ``exited STATUS ENDED PEAK_KIB``: STATUS is that of ``subprocess``
(negative: by that signal), ENDED is 1 if the supervisor asked for the end.
"""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
PARENT_CHECK_S = 0.5


def start_supervised(
    command: Sequence[str], *, env: Mapping[str, str], output_fd: int, pass_fds: Sequence[int] = (), grace_s: float = 2.0
) -> subprocess.Popen[bytes]:
    """Start the command under a supervisor; close the returned process' ``stdin`` to end it, read ``stdout`` for what became of it."""
    fds = ",".join(map(str, pass_fds))
    return subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, str(grace_s), str(output_fd), fds, "--", *command],
        env=dict(env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=output_fd,
        pass_fds=(output_fd, *pass_fds),
        start_new_session=True,
    )


def _tell(line: str) -> None:
    try:
        os.write(1, line.encode() + b"\n")
    except BrokenPipeError:
        return  # nobody is left who could read it; the end of standard input, which comes with it, does the rest


def _signal_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return  # all of them are gone already


def _children() -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN: the group was killed, that has to do
        return []


def _bury_descendants(limit_s: float) -> None:
    """Kill and reap what the command left behind, until nothing is left."""
    deadline = time.monotonic() + limit_s
    while (left := _children()) and time.monotonic() < deadline:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _start(command: Sequence[str], output_fd: int, pass_fds: Sequence[int]) -> subprocess.Popen[bytes]:
    supervisor = os.getpid()
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
    if prctl is not None:
        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def in_child() -> None:
        if prctl is not None:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != supervisor:  # it died before the line above
                os._exit(1)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])

    process = subprocess.Popen(
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=output_fd,
        stderr=output_fd,
        pass_fds=pass_fds,
        start_new_session=True,
        preexec_fn=in_child,
    )
    for fd in (output_fd, *pass_fds):
        os.close(fd)
    return process


def _wait(process: subprocess.Popen[bytes], wake_fd: int) -> bool:
    """Wait until the process ends (True), or nobody wants it any more (False): end of standard input, SIGTERM, a dead parent."""
    parent = os.getppid()
    while process.poll() is None:
        # The pipe alone does not tell of the parent's death if the parent had forked: the fork holds the pipe open.
        if os.getppid() != parent:
            return False
        ready = select.select([wake_fd, 0], [], [], PARENT_CHECK_S)[0]
        if wake_fd in ready and signal.SIGTERM in os.read(wake_fd, 4096):
            return process.poll() is not None
        if 0 in ready and os.read(0, 4096) == b"":
            return process.poll() is not None
    return True


def _end(process: subprocess.Popen[bytes], grace_s: float) -> None:
    _signal_group(process.pid, signal.SIGTERM)
    _signal_group(process.pid, signal.SIGCONT)  # a stopped process gets its SIGTERM only now
    deadline = time.monotonic() + grace_s
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)


def main() -> int:
    grace_s, output_fd, pass_fds = float(sys.argv[1]), int(sys.argv[2]), [int(fd) for fd in sys.argv[3].split(",") if fd]
    wake_fd, wake_write_fd = os.pipe()
    for fd in (wake_fd, wake_write_fd):
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(wake_write_fd, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # Python writes the number to the wake-up pipe
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    process = _start(sys.argv[5:], output_fd, pass_fds)
    _tell(f"started {process.pid}")
    ended = not _wait(process, wake_fd)
    if ended:
        _end(process, grace_s)
    _signal_group(process.pid, signal.SIGKILL)
    status = process.wait()
    _bury_descendants(2.0)
    _tell(f"exited {status} {int(ended)} {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Workers by SSH: the commands, and a real sshd on loopback where there is one."""

from __future__ import annotations

import getpass
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.cluster import known_workers, num_slots, open_cluster
from infra.cluster_settings import SshSettings
from infra.clusters.ssh import Host, parse_hosts, places_of, ssh_command
from infra.errors import ServiceError
from infra.settings import Settings
from tests.processes import marked

ROOT = Path(__file__).parents[3]


def test_hosts_are_read_with_users_and_ports() -> None:
    assert parse_hosts("ssh://a,me@b.example.org:2222,[fe80::1]:22") == [
        Host("a"),
        Host("b.example.org", "me", 2222),
        Host("fe80::1", "", 22),
    ]


def test_the_command_carries_no_secret_and_quotes_what_the_shell_there_would_take_apart() -> None:
    settings = SshSettings(options=("-i", "my key"), folder="/a folder/it's", python="/py", environment={"TOKEN": "secret"})
    command = ssh_command(Host("b", "me", 2222), settings)
    assert command[:4] == ["ssh", "-T", "-i", "my key"]
    assert command[-3:-1] == ["--", "me@b"]
    assert command[command.index("-p") + 1] == "2222"
    assert "BatchMode=yes" in command
    assert shlex.split(command[-1]) == ["env", "PYTHONPATH=/a folder/it's", "/py", "-P", "-m", "infra._ssh_worker"]
    assert "secret" not in " ".join(command)


def test_each_host_gets_a_worker_before_any_gets_its_second() -> None:
    names = [place.name for place in places_of([Host("a"), Host("b")], SshSettings(slots=2))]
    assert names == ["ssh-0-a-0", "ssh-1-b-0", "ssh-0-a-1", "ssh-1-b-1"]


def test_a_host_that_cannot_be_reached_is_told_in_sshs_words(tmp_path: Path, free_port: int) -> None:
    program = tmp_path / "ssh"
    program.write_text("#!/bin/sh\necho 'ssh: connect to host b port 22: No route to host' >&2\nexit 255\n")
    program.chmod(0o755)
    settings = Settings(workspace=str(tmp_path / "w"), cluster="ssh://127.0.0.1", ssh=SshSettings(program=(str(program),)))
    with pytest.raises(ServiceError, match="No route to host"), open_cluster(settings):
        raise AssertionError("it must not start")


def test_a_name_that_nobody_knows_is_told(tmp_path: Path) -> None:
    settings = Settings(workspace=str(tmp_path / "w"), cluster="ssh://no-such-host.invalid")
    with pytest.raises(ServiceError, match=r"no-such-host\.invalid"), open_cluster(settings):
        raise AssertionError("it must not start")


@dataclass
class Sshd:
    """A server that lets this user in with a key made for the test."""

    port: int
    options: tuple[str, ...]


def _sshd_program() -> Path | None:
    """Of the system, or as the set-up for tests has unpacked it without installing it."""
    found = (
        shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin") or ROOT / ".venv" / "sshd" / "usr" / "sbin" / "sshd"
    )
    return Path(found) if Path(found).exists() else None


def _key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True, timeout=30)
    return path


@contextmanager
def _serving(program: Path, folder: Path, port: int) -> Iterator[Sshd]:
    host_key, user_key = _key(folder / "host"), _key(folder / "user")
    (folder / "authorized").write_text((folder / "user.pub").read_text())
    (folder / "authorized").chmod(0o600)
    (folder / "config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {host_key}\nAuthorizedKeysFile {folder / 'authorized'}\nStrictModes no\nUsePAM no\n"
        f"PasswordAuthentication no\nPermitRootLogin prohibit-password\nPidFile none\n"
    )
    words = f"exec {shlex.quote(str(program))} -D -e -f {shlex.quote(str(folder / 'config'))}"
    command = ["sh", "-c", words]
    if os.geteuid() == 0:
        # As root it wants an unprivileged user and an empty folder of its own: both exist for this process alone.
        passwd = folder / "passwd"
        passwd.write_text(Path("/etc/passwd").read_text() + "sshd:x:65532:65534::/run/sshd:/usr/sbin/nologin\n")
        command = [
            "unshare",
            "--mount",
            "sh",
            "-c",
            f"mount --bind {passwd} /etc/passwd && mount -t tmpfs none /run && mkdir -p /run/sshd && {words}",
        ]
    libraries = os.pathsep.join(map(str, (ROOT / ".venv" / "sshd" / "usr" / "lib").glob("*-linux-gnu")))  # beside the unpacked one
    with (folder / "log").open("wb") as log:
        env = {**os.environ, "LD_LIBRARY_PATH": libraries}
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env)
    try:
        deadline = time.monotonic() + 20
        while server.poll() is None and time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.02)
        else:
            pytest.skip(f"sshd does not run here: {(folder / 'log').read_text().strip()[-300:]}")
        hosts = folder / "known"
        hosts.write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
        options = ["-F", "none", "-i", str(user_key), "-o", "IdentitiesOnly=yes", "-o", f"UserKnownHostsFile={hosts}"]
        yield Sshd(port, tuple(options))
    finally:
        server.terminate()
        server.wait(timeout=10)


@pytest.fixture
def sshd(tmp_path: Path, free_port: int) -> Iterator[Sshd]:
    program = _sshd_program()
    if program is None or not shutil.which("ssh"):
        pytest.skip("no OpenSSH server or client on this machine")
    folder = tmp_path / "sshd"
    folder.mkdir()
    with _serving(program, folder, free_port) as server:
        yield server


def test_workers_behind_a_real_sshd_work_and_leave_nothing(sshd: Sshd, tmp_path: Path) -> None:
    own = SshSettings(options=sshd.options, slots=2, environment={"MARK_OF_TEST": str(tmp_path)})
    cluster = f"ssh://{getpass.getuser()}@127.0.0.1:{sshd.port}"
    with open_cluster(Settings(workspace=str(tmp_path / "w"), cluster=cluster, ssh=own)) as client:
        assert num_slots(client) == 2
        assert client.scheduler is not None
        assert str(client.scheduler.address).startswith("tls://127.0.0.1:")
        names = {variables.get("SSH_CONNECTION", "").split(" ")[-1] for variables in client.run(lambda: dict(os.environ)).values()}
        assert names == {str(sshd.port)}
        (killed, pid), *_ = client.run(os.getpid).items()
        os.kill(pid, signal.SIGKILL)  # the connection ends with its worker, and a new one begins
        wait_until(lambda: num_slots(client) == 2 and killed not in (known_workers(client) or {}))
        assert marked("MARK_OF_TEST", str(tmp_path))
    wait_until(lambda: not marked("MARK_OF_TEST", str(tmp_path)))


def test_workers_end_when_the_driver_is_killed(sshd: Sshd, tmp_path: Path) -> None:
    program = (
        "import sys, time\nfrom infra.cluster import open_cluster\nfrom infra.settings import load_settings\n"
        "with open_cluster(load_settings()) as client:\n    print('up', flush=True)\n    time.sleep(1000)\n"
    )
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "ATELIER_WORKSPACE": str(tmp_path / "w"),
        "ATELIER_CLUSTER": f"ssh://{getpass.getuser()}@127.0.0.1:{sshd.port}",
        "ATELIER_SSH__OPTIONS": json.dumps(sshd.options),
        "ATELIER_SSH__ENVIRONMENT": json.dumps({"MARK_OF_TEST": str(tmp_path)}),
    }
    with subprocess.Popen([sys.executable, "-c", program], env=env, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "up\n"
        assert marked("MARK_OF_TEST", str(tmp_path))
        driver.kill()
    wait_until(lambda: not marked("MARK_OF_TEST", str(tmp_path)))


def wait_until(condition: object, limit_s: float = 60.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)

"""The parts of an elastic job one by one: memory, rendezvous and who gets in, numbers of workers, words about an end."""

from __future__ import annotations

import base64
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra import wire
from infra.elastic.memory import CommitMemory, make_files, path_of
from infra.elastic.server import Board, serve
from infra.elastic.task import how_it_ended, oom_kills
from infra.relay import Relay
from infra.workers import Workers, parse_workers

ROOT = Path(__file__).parents[2]
Server = tuple[str, int]


# Memory


def commit(memory: CommitMemory, number: int, data: bytes) -> None:
    view, _ = memory.begin({"number": number}, len(data))
    view[: len(data)] = data
    memory.end()


def test_a_commit_outlives_its_process_and_a_half_one_does_not_count() -> None:
    files = make_files("test")
    path = path_of(files)
    code = (
        "import os, signal, sys\n"
        "from infra.elastic.memory import CommitMemory\n"
        "memory = CommitMemory(sys.argv[1])\n"
        "for number in range(5):\n"
        "    view, _ = memory.begin({'number': number}, 10000 + number)\n"
        "    view[:] = bytes([number]) * len(view)\n"
        "    if number < 4: memory.end()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    found = CommitMemory(path).latest()
    assert found is not None
    description, data = found
    assert description == {"number": 3}
    assert bytes(data) == bytes([3]) * 10003
    for fd in files:
        os.close(fd)


def test_commits_take_turns_and_may_grow() -> None:
    memory = CommitMemory()
    assert memory.latest() is None
    for number, size in enumerate((1, 5000, 100_000, 10, 2_000_000)):
        commit(memory, number, bytes([number]) * size)
        found = memory.latest()
        assert found is not None
        assert (found[0]["number"], bytes(found[1])) == (number, bytes([number]) * size)
    assert memory.number == 5


def test_what_keeps_its_place_is_still_there_two_commits_later() -> None:
    memory = CommitMemory()
    for number, text in enumerate((b"aaaa", b"bbbb", b"")):
        view, _ = memory.begin({"number": number, "history": ["x"] * 4000 * number}, 4)
        view[: len(text)] = text
        memory.end()
    found = memory.latest()
    assert found is not None
    assert bytes(found[1]) == b"aaaa"


def test_a_description_that_grows_does_not_move_the_commits() -> None:
    """A new mapping costs a page fault for every page of it: five times a commit of resnet18."""
    memory = CommitMemory()
    maps = set()
    for number in range(40):
        view, _ = memory.begin({"number": number, "history": ["x" * 200] * number}, 5_000_000)
        maps.add(id(view.obj))
        memory.end()
    assert len(maps) == 2  # one of each file


# Who gets in


@pytest.fixture
def words() -> list[tuple[str, str, dict[str, Any]]]:
    return []


@pytest.fixture
def server(words: list[tuple[str, str, dict[str, Any]]]) -> Iterator[tuple[Server, str, Board]]:
    secret, board = wire.new_secret(), Board()
    with serve("127.0.0.1", secret, board, lambda *word: words.append(word)) as found:
        yield ("127.0.0.1", int(found.server_address[1])), secret, board


class _Boom:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def test_the_attack_that_runs_code_in_stock_horovods_driver_runs_none_here(server: tuple[Server, str, Board], tmp_path: Path) -> None:
    """Stock Horovod unpickles what anyone PUTs to ``worker_addresses``. Without the secret nothing gets in; with it, nothing is unpickled."""
    address, secret, _ = server
    pickled = pickle.dumps(_Boom(tmp_path / "owned"))
    for payload in (pickled, base64.b64encode(pickled)):
        for path in ("/worker_addresses/host:0", "/kv/1/worker_addresses/host-0", "/member/m0/join"):
            for given in (wire.new_secret(), secret):
                for method in ("PUT", "POST"):
                    try:
                        wire.request(address, given, method, path, payload, timeout_s=5)
                    except OSError:
                        continue  # it is not even answered
    assert wire.request(address, secret, "GET", "/kv/1/x/y", timeout_s=5)[0] == 404, "the server is up and well"
    assert not (tmp_path / "owned").exists()


def test_only_requests_with_the_jobs_digest_are_answered(
    server: tuple[Server, str, Board], words: list[tuple[str, str, dict[str, Any]]]
) -> None:
    address, secret, _ = server
    other = wire.new_secret()
    assert wire.request(address, secret, "PUT", "/kv/1/global_/0", b"here", timeout_s=5)[0] == 200
    assert wire.request(address, other, "PUT", "/kv/1/global_/0", b"there", timeout_s=5)[0] == 403
    assert wire.request(address, other, "GET", "/kv/1/global_/0", timeout_s=5) == (403, b"")
    assert wire.request(address, secret, "GET", "/kv/1/global_/0", timeout_s=5) == (200, b"here")
    assert wire.request(address, other, "POST", "/member/m0/join", b"{}", timeout_s=5)[0] == 403
    assert words == []


def test_a_request_cannot_be_made_into_another() -> None:
    secret = wire.new_secret()
    good = wire.digest(secret, "PUT", "/kv/1/a/b", b"value")
    assert wire.is_genuine(secret, "PUT", "/kv/1/a/b", b"value", good)
    for method, path, body in (("GET", "/kv/1/a/b", b"value"), ("PUT", "/kv/2/a/b", b"value"), ("PUT", "/kv/1/a/b", b"other")):
        assert not wire.is_genuine(secret, method, path, body, good)
    assert not wire.is_genuine(secret, "PUT", "/kv/1/a/b", b"value", "")


def test_the_server_listens_on_one_address(server: tuple[Server, str, Board]) -> None:
    (_, port), _, _ = server
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.2", port)) != 0


def test_a_member_hears_of_its_place_as_soon_as_there_is_one(
    server: tuple[Server, str, Board], words: list[tuple[str, str, dict[str, Any]]]
) -> None:
    address, secret, board = server
    body = json.dumps({"generation": 0, "offer": None, "port": 1}).encode()
    assert wire.request(address, secret, "POST", "/member/m0/join", body, timeout_s=5) == (200, b"{}")
    timer = threading.Timer(0.05, lambda: _give_place(board))
    timer.start()
    status, answer = wire.request(address, secret, "POST", "/member/m0/join", body, timeout_s=5)
    timer.join()
    while json.loads(answer) == {}:  # a busy machine
        status, answer = wire.request(address, secret, "POST", "/member/m0/join", body, timeout_s=5)
    assert (status, json.loads(answer)["rank"]) == (200, 1)
    with board.change():
        board.gone.add("m0")
    assert wire.request(address, secret, "POST", "/member/m0/join", body, timeout_s=5)[0] == 410
    assert {word[:2] for word in words} == {("m0", "join")}


def _give_place(board: Board) -> None:
    with board.change():
        board.plans["m0"] = {"generation": 1, "rank": 1}


def test_the_relay_serves_its_own_process_alone(server: tuple[Server, str, Board]) -> None:
    address, secret, _ = server
    relay = Relay(address, secret)
    relay.prefix = "/kv/7"
    try:
        own = ("127.0.0.1", relay.port)
        assert wire.request(own, "00", "PUT", "/global_/0", b"mine", timeout_s=5)[0] == 200
        assert wire.request(address, secret, "GET", "/kv/7/global_/0", timeout_s=5) == (200, b"mine")
        code = (
            "import http.client, sys\n"
            "line = http.client.HTTPConnection('127.0.0.1', int(sys.argv[1]), timeout=5)\n"
            "line.request('GET', '/global_/0')\n"
            "print(line.getresponse().read())\n"
        )
        done = subprocess.run([sys.executable, "-c", code, str(relay.port)], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode != 0
        assert "mine" not in done.stdout
    finally:
        relay.shutdown()
        relay.server_close()


# Words and numbers


def test_workers_are_a_number_or_a_range() -> None:
    assert parse_workers(3) == Workers(3, 3)
    assert parse_workers("2:8") == Workers(2, 8)
    assert str(parse_workers(" 4 ")) == "4"
    assert str(parse_workers("1:4")) == "1:4"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("0", "at least 1"),
        ("4:2", "below the smallest"),
        ("two", "MIN:MAX, such as 2:8"),
        ("1:", "MIN:MAX"),
        (-1, "MIN:MAX"),
        ("9999", "4096"),
    ],
)
def test_other_numbers_of_workers_are_refused_in_words(value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_workers(value)


def test_an_end_is_told_as_what_it_was() -> None:
    assert "out of memory" in how_it_ended(-9, 3 * 2**20, 1)
    assert "3.00 GiB" in how_it_ended(-9, 3 * 2**20, 1)
    assert "not by the kernel's out-of-memory killer" in how_it_ended(-9, 0, 0)
    assert "SIGABRT" in how_it_ended(-6, 0, 0)
    assert "status 3" in how_it_ended(3, 0, 0)
    assert oom_kills() >= 0

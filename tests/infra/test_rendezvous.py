from __future__ import annotations

import http.client
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra import wire
from infra._keyed_server import MAX_BODY_BYTES
from infra._rendezvous import address_towards, assign_ranks, serve_rendezvous


@pytest.mark.parametrize(
    "hosts", [["a"], ["a", "b"], ["a", "a"], ["b", "a", "b", "a", "b"], ["a", "b", "b", "c", "c", "c"], [f"h{i % 7}" for i in range(40)]]
)
def test_ranks_are_assigned_as_horovod_does(hosts: list[str]) -> None:
    reference = pytest.importorskip("horovod.runner.common.util.hosts")
    slots = assign_ranks(hosts)
    infos = [reference.HostInfo(host, hosts.count(host)) for host in dict.fromkeys(hosts)]
    fields = ("rank", "size", "local_rank", "local_size", "cross_rank", "cross_size")
    theirs = [(s.hostname, *(getattr(s, name) for name in fields)) for s in reference.get_host_assignments(infos, len(hosts))]
    ours = [(s.host, *(getattr(s, name) for name in fields)) for s in sorted(slots, key=lambda slot: slot.rank)]
    assert ours == theirs
    assert [slot.host for slot in slots] == hosts


def test_the_way_to_this_machine_is_loopback() -> None:
    assert address_towards("127.0.0.1") == "127.0.0.1"
    assert address_towards("localhost") in ("127.0.0.1", "::1")


SECRET = wire.new_secret()


@pytest.fixture
def server() -> Iterator[tuple[str, int]]:
    with serve_rendezvous("127.0.0.1", assign_ranks(["127.0.0.1", "127.0.0.1"]), SECRET) as address:
        yield address


def request(
    server: tuple[str, int], method: str, path: str, body: bytes | None = None, source: str = "127.0.0.1", secret: str = SECRET
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(*server, timeout=5, source_address=(source, 0))
    try:
        connection.request(method, path, body, {wire.HEADER: wire.digest(secret, method, path, body or b"")})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_values_are_kept_as_they_came(server: tuple[str, int]) -> None:
    assert request(server, "GET", "/global/0") == (404, b"")
    assert request(server, "PUT", "/global/0", b"\x00\xff") == (200, b"")
    assert request(server, "GET", "/global/0") == (200, b"\x00\xff")
    assert request(server, "GET", "/local_127.0.0.1/0")[0] == 404
    assert request(server, "PUT", "/global_process_set_hash_1a2b/0", b"x")[0] == 200


def test_ranks_can_meet_a_second_time(server: tuple[str, int]) -> None:
    request(server, "PUT", "/global/0", b"old")
    request(server, "DELETE", "/global/0")
    assert request(server, "GET", "/global/0")[0] == 200
    request(server, "DELETE", "/global/1")
    assert request(server, "GET", "/global/0")[0] == 404


@pytest.mark.parametrize("path", ["/worker_addresses/h:0", "/runfunc/func", "/rank_and_size/h:0", "/local_other/0", "/globalx/0"])
def test_foreign_scopes_are_refused(server: tuple[str, int], path: str) -> None:
    assert request(server, "PUT", path, b"x")[0] == 403
    assert request(server, "GET", path)[0] == 403


@pytest.mark.parametrize("path", ["/", "/global", "/a/b/c", "/../../etc/passwd", "/global/"])
def test_paths_of_another_form_are_refused(server: tuple[str, int], path: str) -> None:
    assert request(server, "GET", path)[0] == 400


def test_who_does_not_know_the_secret_gets_and_changes_nothing(server: tuple[str, int]) -> None:
    assert request(server, "PUT", "/global/0", b"ours")[0] == 200
    for method, body in (("GET", None), ("PUT", b"theirs"), ("DELETE", None)):
        assert request(server, method, "/global/0", body, secret=wire.new_secret()) == (403, b"")
    connection = http.client.HTTPConnection(*server, timeout=5)
    connection.request("GET", "/global/0")  # as gloo asks
    assert connection.getresponse().status == 403
    connection.close()
    assert request(server, "GET", "/global/0") == (200, b"ours")


def test_large_values_are_refused(server: tuple[str, int]) -> None:
    connection = http.client.HTTPConnection(*server, timeout=5)
    connection.putrequest("PUT", "/global/0")
    connection.putheader("Content-Length", str(MAX_BODY_BYTES + 1))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def test_a_machine_that_is_not_of_the_job_gets_no_answer(server: tuple[str, int]) -> None:
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        request(server, "GET", "/global/0", source="127.0.0.2")


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_a_pickle_that_is_sent_is_never_run(server: tuple[str, int], tmp_path: Path) -> None:
    bomb = pickle.dumps(_Bomb(tmp_path / "ran"))
    for scope in ("worker_addresses", "global", "local_127.0.0.1"):
        request(server, "PUT", f"/{scope}/127.0.0.1:0", bomb)
        request(server, "GET", f"/{scope}/127.0.0.1:0")
    assert not (tmp_path / "ran").exists()


def test_a_rank_gets_its_own_part_of_what_all_others_have(server: tuple[str, int]) -> None:
    with serve_rendezvous("127.0.0.1", assign_ranks(["127.0.0.1"] * 3), SECRET) as address:
        for rank in range(3):
            others = [other for other in range(3) if other != rank]
            value = b"".join(f"{rank}->{other} ".encode() for other in others)
            assert request(address, "PUT", f"/global/{rank}", value)[0] == 200
        assert [request(address, "GET", f"/global/for_{rank}")[1] for rank in range(3)] == [b"1->0 2->0 ", b"0->1 2->1 ", b"0->2 1->2 "]
        assert request(address, "GET", "/global/for_3")[0] == 404
        assert request(address, "GET", "/elsewhere/for_0")[0] == 403


def test_a_rank_that_asks_too_early_is_answered_when_the_last_one_has_come(server: tuple[str, int]) -> None:
    request(server, "PUT", "/global/0", b"zero")
    with ThreadPoolExecutor(1) as pool:
        early = pool.submit(request, server, "GET", "/global/for_0")
        request(server, "PUT", "/global/1", b"one!")
        assert early.result(timeout=30) == (200, b"one!")


def test_a_rank_that_nobody_joins_is_told_so_after_a_while(server: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra._rendezvous.HOLD_S", 0.05)
    request(server, "PUT", "/global/0", b"zero")
    assert request(server, "GET", "/global/for_0") == (404, b"")

"""One contract for all implementations of ``Collectives``, passed by real ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from infra.collectives import IMPLEMENTATIONS, LocalCollectives, choose_backend, open_collectives
from infra.launch import launch

if TYPE_CHECKING:
    from distributed import Client

HERE = Path(__file__).parent
PATH = {"PYTHONPATH": f"{HERE}:{HERE.parent.parent}"}
TYPES = {"local": "LocalCollectives", "horovod": "HorovodCollectives", "torch": "TorchCollectives"}
FLOATING = ["float64", "float32", "float16", "bfloat16"]
FACTOR = {"sum": lambda size: sum(range(1, size + 1)), "max": lambda size: size, "mean": lambda size: sum(range(1, size + 1)) / size}


@pytest.fixture(scope="module", params=sorted(IMPLEMENTATIONS))
def ranks(request: pytest.FixtureRequest, cluster: Client, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank of one implementation saw, by rank."""
    seen: list[dict[str, Any]] = []
    launch(
        json.dumps({}),
        client=cluster,
        num_ranks=1 if request.param == "local" else 2,
        backend="auto" if request.param == "local" else request.param,
        threads_per_rank=1,
        deadline_s=120,
        on_event=seen.append,
        env=PATH,
        module="collectives_program",
        log_dir=tmp_path_factory.mktemp("logs"),
    )
    seen = sorted((event for event in seen if event["kind"] == "seen"), key=lambda event: event["rank"])
    assert {event["type"] for event in seen} == {TYPES[request.param]}
    return seen


def test_there_are_implementations() -> None:
    assert sorted(TYPES) == sorted(IMPLEMENTATIONS)


def test_each_rank_knows_its_place(ranks: list[dict[str, Any]]) -> None:
    size = len(ranks)
    assert [seen["place"] for seen in ranks] == [[rank, size, rank, size] for rank in range(size)]


def test_threads_are_limited(ranks: list[dict[str, Any]]) -> None:
    assert all(seen["threads"] == [1, "1"] for seen in ranks)


def test_reductions_give_the_same_result_on_every_rank(ranks: list[dict[str, Any]]) -> None:
    for seen in ranks:
        got = seen["reductions"]
        for dtype in [*FLOATING, "int32", "int64"]:
            for op in ("sum", "max", "mean") if dtype in FLOATING else ("sum", "max"):
                assert got[f"{dtype} {op}"] == [FACTOR[op](len(ranks)) * value for value in (1, 2, 3)], (dtype, op)
        assert got["same bits"] is True


def test_reductions_take_any_shape_and_parameters(ranks: list[dict[str, Any]]) -> None:
    shift = (len(ranks) - 1) / 2
    for seen in ranks:
        assert seen["reductions"]["two dimensions"] == [[4 * row + column + shift for column in range(4)] for row in range(3)]
        assert seen["reductions"]["needs gradient"] == [sum(range(len(ranks)))] * 2


def test_several_reductions_are_under_way_at_once_and_step_after_step(ranks: list[dict[str, Any]]) -> None:
    size = len(ranks)
    expected = [[size * (10.0 * step + number) + sum(range(size)) for number in range(4)] for step in range(3)]
    assert all(seen["asynchronous"] == expected for seen in ranks)


def test_a_reduction_goes_on_while_nobody_waits_for_it(ranks: list[dict[str, Any]]) -> None:
    assert all(seen["in the background"] for seen in ranks)


def test_what_cannot_be_sent_is_refused(ranks: list[dict[str, Any]]) -> None:
    for seen in ranks:
        strided, also_strided, mean, unknown, root = seen["refusals"]
        assert "contiguous" in strided
        assert "contiguous" in also_strided
        assert "mean needs a floating dtype" in mean
        assert "mean, sum, max" in unknown
        assert "99" in root


def test_a_broadcast_copies_the_bits_of_any_dtype(ranks: list[dict[str, Any]]) -> None:
    for seen in ranks:
        got = seen["broadcasts"]
        assert all(got[dtype] == [1, 0, 1] for dtype in ("float32", "bfloat16", "int64", "uint8", "bool"))
        assert got["scalar"] == 5.0


def test_objects_of_different_sizes_are_gathered_and_broadcast(ranks: list[dict[str, Any]]) -> None:
    size = len(ranks)
    for seen in ranks:
        assert seen["gathered"] == [{"rank": rank, "text": "x" * (rank * 1000)} for rank in range(size)]
        assert seen["object"] == ["from", size - 1]
        assert seen["values of types"] == [[1], *[None] * (size - 1)]


def test_the_environment_chooses() -> None:
    assert choose_backend({}) == "local"
    assert choose_backend({"HOROVOD_SIZE": "1", "WORLD_SIZE": "1"}) == "local"
    assert choose_backend({"HOROVOD_SIZE": "2"}) == "horovod"
    assert choose_backend({"WORLD_SIZE": "2"}) == "torch"
    assert choose_backend({"ATELIER_COLLECTIVES": "local", "WORLD_SIZE": "2"}) == "local"


def test_one_rank_alone_needs_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ATELIER_COLLECTIVES", "HOROVOD_SIZE", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # put back after the test
    with open_collectives(threads=1) as collectives:
        assert isinstance(collectives, LocalCollectives)

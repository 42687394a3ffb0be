"""What is told of errors that no code of ours raised."""

from __future__ import annotations

import errno
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from algorithms.run import attempt, known_error
from algorithms.user_code import load_dotted
from infra.errors import AtelierError, OutOfMemoryError, StoreAccessError, TrainingDivergedError, UserCodeError, from_wire

OURS = TrainingDivergedError(1, 0.1)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), OutOfMemoryError),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."), OutOfMemoryError),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."), OutOfMemoryError),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), OutOfMemoryError),
        (RuntimeError("std::bad_alloc"), OutOfMemoryError),
        (OSError(errno.ENOSPC, "No space left on device", "/workspace"), StoreAccessError),
        (OSError(errno.ENOENT, "No such file or directory", "x"), None),
        (ValueError("the user's code is wrong"), None),
        (OURS, TrainingDivergedError),
    ],
)
def test_errors_that_say_what_to_do(error: Exception, kind: type[AtelierError] | None) -> None:
    found = known_error(error)
    assert type(found) is (kind or type(None))


def test_a_process_reports_them_and_ends_with_their_status(capsys: pytest.CaptureFixture[str]) -> None:
    events: list[dict[str, object]] = []

    def work() -> None:
        raise MemoryError("Unable to allocate 7.45 GiB for an array")

    assert attempt(work, events.append) == 1
    assert events[0]["error"] == {"type": "OutOfMemoryError", "args": ["A process of this run", "Unable to allocate 7.45 GiB for an array"]}
    assert "MemoryError" in capsys.readouterr().err, "the traceback stays in the log"


NET = """
import torch

class Net(torch.nn.Module):
    def forward(self, inputs):
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ValueError("in my own forward") from error
"""


def test_what_a_users_network_raises_is_told_with_the_users_own_lines_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_failing_net.py").write_text(NET)
    monkeypatch.syspath_prepend(tmp_path)
    network = torch.nn.Sequential(load_dotted("my_failing_net:Net")())
    events: list[dict[str, Any]] = []
    assert attempt(partial(network, torch.zeros(1)), events.append) == UserCodeError.exit_status
    told = str(from_wire(events[0]["error"]))
    assert told.startswith("Cannot use 'my_failing_net:Net.forward': it raised an error.\nTraceback")
    assert told.endswith("ValueError: in my own forward")
    files = [line.split('"')[1] for line in told.splitlines() if line.startswith("  File ")]
    assert files == [str(tmp_path / "my_failing_net.py")] * 2, "one line of each error"
    assert "torch/nn/modules" in capsys.readouterr().err, "the whole traceback stays in the log"

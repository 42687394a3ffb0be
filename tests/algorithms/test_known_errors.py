"""What is told of errors that no code of ours raised."""

from __future__ import annotations

import errno

import pytest
import torch

from algorithms.run import attempt, known_error
from infra.errors import AtelierError, OutOfMemoryError, StoreAccessError, TrainingDivergedError

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

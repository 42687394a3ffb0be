"""Errors keep their class, their fields and their sentence on every way between processes."""

from __future__ import annotations

import json
import pickle
import pkgutil
from importlib import import_module

import pytest
from tblib.pickling_support import pickle_exception

import infra.errors
from infra.errors import AtelierError, InputError, from_wire, to_wire

EXAMPLES: list[AtelierError] = [
    infra.errors.AtelierError("something failed"),
    infra.errors.InputError("something is wrong"),
    infra.errors.StoreUnavailableError("s3://bucket/prefix", "connection refused"),
    infra.errors.RankFailedError(1, -9, "Killed"),
    infra.errors.CollectiveError(0, "all_reduce", "connection reset"),
    infra.errors.OutOfMemoryError("Rank 1", "std::bad_alloc"),
    infra.errors.WorkersLostError("for 300 s it had fewer than the 2 workers that it needs", "Killed"),
    infra.errors.TrainingDivergedError(3, 0.1),
    infra.errors.DeadlineExceededError("Training", 3.0),
    infra.errors.TuningFailedError(8, "The training diverged."),
    infra.errors.ParityError(0.5, 1e-3, 8),
    infra.errors.CompressionError("prune", "no layer is wide enough"),
    infra.errors.BudgetNotMetError("at most 0.1 ms", "fp32: no candidate is within the budget", "/workspace/runs/x/compression"),
    infra.errors.MissingExtraError("datasets", "hub"),
    infra.errors.ServiceError("The server", "port 1 is taken"),
    infra.errors.InvalidSettingError(["slots: must be at least 1"]),
    infra.errors.InvalidOptionError("small-cnn", ["epochs: must be at least 1"], "Try 1."),
    infra.errors.InvalidSourceError("table.csv", ["row 3 has 2 columns instead of 3"], "Mend the row."),
    infra.errors.UnsafeArchiveError("data.zip", "../../etc/passwd", "climbs out of the folder"),
    infra.errors.ValidationFailedError("digits", ["class '3' has 1 sample"], "report.html", "Add samples."),
    infra.errors.CorruptArtifactError("model.onnx", "a" * 64, "b" * 64),
    infra.errors.DamagedStudyError("tuning/abc/journal.log", 3),
    infra.errors.UserCodeError("my.module:loss", "no such module"),
    infra.errors.UnknownAlgorithmError("image-classification/resnet19", ["image-classification/resnet18"]),
    infra.errors.SourceNotFoundError("no/such/folder"),
    infra.errors.ArtifactNotFoundError("/workspace", "packages/abc"),
    infra.errors.DatasetNotFoundError("digits", ["letters"]),
    infra.errors.ModelNotFoundError("digits", []),
    infra.errors.NotEnoughSlotsError(8, 2, "local"),
    infra.errors.AlreadyRunningError("0123456789abcdef"),
    infra.errors.RequestRefusedError(400, "input 'image': 3 numbers came, its shape wants 4"),
    infra.errors.StoreAccessError("/workspace", "no space left on device", "Free some."),
]
BUILTINS = {ArithmeticError, ConnectionError, RuntimeError, TimeoutError, ImportError, ValueError, LookupError, OSError, MemoryError}


def _all_classes() -> set[type[AtelierError]]:
    """Every error class of the project, wherever it is defined."""
    for package in ("infra", "algorithms"):
        for module in pkgutil.iter_modules(import_module(package).__path__, f"{package}."):
            if "error" in module.name:
                import_module(module.name)
    found: set[type[AtelierError]] = set()
    todo: list[type[AtelierError]] = [AtelierError]
    while todo:
        cls = todo.pop()
        found.add(cls)
        todo.extend(cls.__subclasses__())
    return {cls for cls in found if cls.__module__.split(".")[0] in {"infra", "algorithms", "tasks", "flows", "deployments"}}


def _name(error: AtelierError) -> str:
    return type(error).__name__


def test_every_class_has_an_example() -> None:
    assert {cls.__name__ for cls in _all_classes()} == {_name(error) for error in EXAMPLES}


@pytest.mark.parametrize("error", EXAMPLES, ids=_name)
def test_an_error_survives_pickling(error: AtelierError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


@pytest.mark.parametrize("error", EXAMPLES, ids=_name)
def test_an_error_survives_pickling_by_a_dask_worker(error: AtelierError) -> None:
    how = pickle_exception(error)  # what Dask's tblib registers for every class that it saw
    rebuild, arguments, *state = pickle.loads(pickle.dumps(how))
    copy = rebuild(*arguments)
    vars(copy).update(*state)
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


@pytest.mark.parametrize("error", EXAMPLES, ids=_name)
def test_an_error_survives_the_wire(error: AtelierError) -> None:
    copy = from_wire(json.loads(json.dumps(to_wire(error))))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


@pytest.mark.parametrize("error", EXAMPLES, ids=_name)
def test_an_error_inherits_the_fitting_builtin(error: AtelierError) -> None:
    if type(error) not in {AtelierError, InputError}:
        assert BUILTINS & set(type(error).__mro__)


@pytest.mark.parametrize("error", EXAMPLES, ids=_name)
def test_a_users_mistake_has_status_2_and_everything_else_1(error: AtelierError) -> None:
    assert error.exit_status == (2 if isinstance(error, InputError) else 1)


def test_the_tree_in_the_docstring_names_every_class() -> None:
    drawn = infra.errors.__doc__ or ""
    missing = [cls.__name__ for cls in _all_classes() if cls.__name__ not in drawn]
    assert missing == []


def test_an_unknown_kind_from_the_wire_is_still_an_error_of_ours() -> None:
    error = from_wire({"type": "NoSuchError", "args": ["words"]})
    assert type(error) is AtelierError
    assert "NoSuchError" in str(error)


def test_a_list_of_faults_shows_all_of_a_few_and_counts_the_rest() -> None:
    text = str(infra.errors.InvalidOptionError("x", [f"fault {number}" for number in range(20)]))
    assert "fault 0" in text
    assert "and 8 more" in text

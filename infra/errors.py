"""Every error that Atelier raises on purpose.

    AtelierError                        exit status 1: the run failed
    ├── StoreUnavailableError           (ConnectionError)  the object store did not answer, after retries
    ├── RankFailedError                 (RuntimeError)     a training process ended with an error
    ├── CollectiveError                 (RuntimeError)     the ranks could not finish an operation together; mostly as another one ended
    ├── OutOfMemoryError                (MemoryError)      a training process got no more memory
    ├── WorkersLostError                (RuntimeError)     an elastic training lost more workers than it can do without
    ├── DeadlineExceededError           (TimeoutError)     something took longer than it may
    ├── TrainingDivergedError           (ArithmeticError)  the loss is no longer a number
    ├── TuningFailedError               (RuntimeError)     no trial of a tuning completed
    ├── ParityError                     (RuntimeError)     the exported model differs from the trained one
    ├── CompressionError                (RuntimeError)     a model could not be made smaller in this way
    ├── BudgetNotMetError               (RuntimeError)     no compressed model is within the budget
    ├── MissingExtraError               (ImportError)      an optional dependency is not installed
    ├── ServiceError                    (RuntimeError)     a service that we need did not come up, or has gone
    └── InputError                      exit status 2: what was asked for cannot be done as it is
        ├── InvalidSettingError         (ValueError)
        ├── InvalidOptionError          (ValueError)
        ├── InvalidSourceError          (ValueError)       data that cannot be imported
        ├── UnsafeArchiveError          (ValueError)
        ├── ValidationFailedError       (ValueError)       data that does not pass the gate
        ├── CorruptArtifactError        (ValueError)       a digest does not match
        ├── DamagedStudyError           (ValueError)       the journal of a tuning is damaged in its middle
        ├── UserCodeError               (ValueError)       a dotted name that does not load or run
        ├── UnknownAlgorithmError       (LookupError)
        ├── SourceNotFoundError         (LookupError)
        ├── ArtifactNotFoundError       (LookupError)
        ├── DatasetNotFoundError        (LookupError)
        ├── ModelNotFoundError          (LookupError)
        ├── NotEnoughSlotsError         (ValueError)
        ├── AlreadyRunningError         (RuntimeError)
        ├── RequestRefusedError         (ValueError)       a request to the inference server that cannot be answered as it is
        └── StoreAccessError            (OSError)          wrong credentials, read-only, no space

The arguments of every constructor are JSON values and go to ``super().__init__`` positionally, so an error survives pickling between Dask workers and
``to_wire``/``from_wire`` between processes. The sentence is made in ``__str__``: what was wrong, what came, what is allowed, what to do.
"""

from __future__ import annotations

from typing import Any, ClassVar


class AtelierError(Exception):
    """Base of all errors that a user may meet; ``exit_status`` is that of the command line."""

    exit_status: ClassVar[int] = 1

    def __reduce__(self) -> tuple[Any, ...]:  # by its arguments, also where Dask's tblib pickles: ``new`` alone makes no MemoryError
        return type(self), self.args, self.__dict__


class InputError(AtelierError):
    """What was asked for cannot be done as it is: the caller has to change something."""

    exit_status: ClassVar[int] = 2


def _bullets(lines: list[str], most: int = 12) -> str:
    shown = "".join(f"\n  - {line}" for line in lines[:most])
    return shown + (f"\n  - and {len(lines) - most} more" if len(lines) > most else "")


class StoreUnavailableError(AtelierError, ConnectionError):
    def __init__(self, store: str, why: str) -> None:
        super().__init__(store, why)
        self.store, self.why = store, why

    def __str__(self) -> str:
        return f"The store {self.store} did not answer, after several tries: {self.why}. Check that it is up and run the command again."


class RankFailedError(AtelierError, RuntimeError):
    def __init__(self, rank: int, exit_code: int, last_words: str) -> None:
        super().__init__(rank, exit_code, last_words)
        self.rank, self.exit_code, self.last_words = rank, exit_code, last_words

    def __str__(self) -> str:
        how = f"was killed by signal {-self.exit_code}" if self.exit_code < 0 else f"ended with status {self.exit_code}"
        how += " (often: out of memory)" if self.exit_code == -9 else ""
        return f"Rank {self.rank} {how}. Its last words:\n{self.last_words.rstrip() or '(none)'}"


class CollectiveError(AtelierError, RuntimeError):
    def __init__(self, rank: int, operation: str, why: str) -> None:
        super().__init__(rank, operation, why)
        self.rank, self.operation, self.why = rank, operation, why

    def __str__(self) -> str:
        return f"Rank {self.rank} could not finish {self.operation} with the other ranks (often: another rank ended): {self.why}"


class OutOfMemoryError(AtelierError, MemoryError):
    def __init__(self, who: str, why: str) -> None:
        super().__init__(who, why)
        self.who, self.why = who, why

    def __str__(self) -> str:
        hint = "Take a smaller batch_size (accumulation=2 halves what is in memory at once), smaller pictures, or fewer workers."
        return f"{self.who} ran out of memory: {self.why}. {hint}"


class WorkersLostError(AtelierError, RuntimeError):
    def __init__(self, why: str, last_words: str) -> None:
        super().__init__(why, last_words)
        self.why, self.last_words = why, last_words

    def __str__(self) -> str:
        words = f" The last one's last words:\n{self.last_words.rstrip()}" if self.last_words else ""
        return f"The training cannot go on: {self.why}. Run the same command again: it goes on from its last checkpoint.{words}"


class DeadlineExceededError(AtelierError, TimeoutError):
    def __init__(self, what: str, seconds: float) -> None:
        super().__init__(what, seconds)
        self.what, self.seconds = what, seconds

    def __str__(self) -> str:
        return f"{self.what} did not end within {self.seconds:g} s and was stopped. Raise the limit, or look at its log."


class TrainingDivergedError(AtelierError, ArithmeticError):
    def __init__(self, epoch: int, learning_rate: float) -> None:
        super().__init__(epoch, learning_rate)
        self.epoch, self.learning_rate = epoch, learning_rate

    def __str__(self) -> str:
        return (
            f"The training diverged: in epoch {self.epoch} the loss is not a finite number any more. Lower learning_rate (it is "
            f"{self.learning_rate:g}), give clip_norm=1, or look for infinite values in the data."
        )


class TuningFailedError(AtelierError, RuntimeError):
    def __init__(self, num_trials: int, why: str) -> None:
        super().__init__(num_trials, why)
        self.num_trials, self.why = num_trials, why

    def __str__(self) -> str:
        return f"None of {self.num_trials} trials completed; the first failed because: {self.why.strip() or '(unknown)'}"


class ParityError(AtelierError, RuntimeError):
    def __init__(self, largest_difference: float, tolerance: float, batch_size: int) -> None:
        super().__init__(largest_difference, tolerance, batch_size)
        self.largest_difference, self.tolerance, self.batch_size = largest_difference, tolerance, batch_size

    def __str__(self) -> str:
        return (
            f"The exported ONNX model does not give what the trained model gives: at batch size {self.batch_size} the largest difference is "
            f"{self.largest_difference:.3g}, allowed is {self.tolerance:.3g}. Nothing was registered."
        )


class CompressionError(AtelierError, RuntimeError):
    """One candidate of a search could not be made; the search goes on without it."""

    def __init__(self, step: str, why: str) -> None:
        super().__init__(step, why)
        self.step, self.why = step, why

    def __str__(self) -> str:
        return f"Cannot {self.step}: {self.why}"


class BudgetNotMetError(AtelierError, RuntimeError):
    def __init__(self, budget: str, reason: str, table: str) -> None:
        super().__init__(budget, reason, table)
        self.budget, self.reason, self.table = budget, reason, table

    def __str__(self) -> str:
        return (
            f"No compressed model is within the budget ({self.budget}). {self.reason}. All that was measured: {self.table}. Allow more, or leave "
            "out --strict-budget (strict_budget from Python) to ship fp32 in this case."
        )


class MissingExtraError(AtelierError, ImportError):
    def __init__(self, package: str, extra: str = "") -> None:
        super().__init__(package, extra)
        self.package, self.extra = package, extra  # no extra: the set-up installs it

    def __str__(self) -> str:
        how = f"pip install 'atelier[{self.extra}]'" if self.extra else "make setup"
        return f"This needs the package {self.package!r}, which is not installed. Install it with: {how}"


class ServiceError(AtelierError, RuntimeError):
    def __init__(self, service: str, why: str, what: str = "did not come up") -> None:
        super().__init__(service, why, what)
        self.service, self.why, self.what = service, why, what

    def __str__(self) -> str:
        return f"{self.service} {self.what}: {self.why}"


class InvalidSettingError(InputError, ValueError):
    def __init__(self, problems: list[str]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        return f"Wrong settings (ATELIER_* variables or atelier.toml):{_bullets(self.problems)}"


class InvalidOptionError(InputError, ValueError):
    """One or more options are unknown or out of range; all faults at once.

    ``problems`` begin with the parameter ("trials: ..."), and name others in backquotes, so that the command line can put its options there.
    """

    def __init__(self, what: str, problems: list[str], hint: str = "") -> None:
        super().__init__(what, problems, hint)
        self.what, self.problems, self.hint = what, problems, hint

    def __str__(self) -> str:
        return f"Wrong options for {self.what}:{_bullets(self.problems)}" + (f"\n{self.hint}" if self.hint else "")


class InvalidSourceError(InputError, ValueError):
    """The source exists but is not a data set that can be imported."""

    def __init__(self, source: str, problems: list[str], hint: str = "") -> None:
        super().__init__(source, problems, hint)
        self.source, self.problems, self.hint = source, problems, hint

    def __str__(self) -> str:
        return f"Cannot import {self.source}:{_bullets(self.problems)}" + (f"\n{self.hint}" if self.hint else "")


class UnsafeArchiveError(InputError, ValueError):
    def __init__(self, archive: str, member: str, why: str) -> None:
        super().__init__(archive, member, why)
        self.archive, self.member, self.why = archive, member, why

    def __str__(self) -> str:
        return f"The archive {self.archive} is not safe to unpack: {self.member!r} {self.why}. Nothing was unpacked."


class ValidationFailedError(InputError, ValueError):
    """The data does not pass the gate; ``report`` is where the Data Docs are."""

    def __init__(self, dataset: str, failures: list[str], report: str, hint: str = "") -> None:
        super().__init__(dataset, failures, report, hint)
        self.dataset, self.failures, self.report, self.hint = dataset, failures, report, hint

    def __str__(self) -> str:
        return (
            f"The data {self.dataset} did not pass validation:{_bullets(self.failures)}"
            + (f"\n{self.hint}" if self.hint else "")
            + (f"\nFull report: {self.report}" if self.report else "")
        )


class CorruptArtifactError(InputError, ValueError):
    def __init__(self, file: str, expected: str, found: str) -> None:
        super().__init__(file, expected, found)
        self.file, self.expected, self.found = file, expected, found

    def __str__(self) -> str:
        return (
            f"{self.file} is damaged: its SHA-256 is {self.found[:16]}…, recorded was {self.expected[:16]}…. "
            "Restore the file from a backup, or delete what it belongs to and run the same command again."
        )


class DamagedStudyError(InputError, ValueError):
    def __init__(self, file: str, line: int) -> None:
        super().__init__(file, line)
        self.file, self.line = file, line

    def __str__(self) -> str:
        return (
            f"The study's journal {self.file} is damaged: line {self.line} is no record. A torn end would have been mended, this is before the "
            "end. Restore the file from a backup, or delete it to tune from the beginning."
        )


class UserCodeError(InputError, ValueError):
    def __init__(self, dotted_name: str, why: str) -> None:
        super().__init__(dotted_name, why)
        self.dotted_name, self.why = dotted_name, why

    def __str__(self) -> str:
        return f"Cannot use {self.dotted_name!r}: {self.why}"


class UnknownAlgorithmError(InputError, LookupError):
    def __init__(self, name: str, nearest: list[str]) -> None:
        super().__init__(name, nearest)
        self.name, self.nearest = name, nearest

    def __str__(self) -> str:
        near = f" Nearest: {', '.join(self.nearest)}." if self.nearest else ""
        return f"There is no algorithm {self.name!r}.{near} `atelier algorithms` lists all."


class SourceNotFoundError(InputError, LookupError):
    def __init__(self, source: str, hint: str = "") -> None:
        super().__init__(source, hint)
        self.source, self.hint = source, hint

    def __str__(self) -> str:
        return f"There is no data at {self.source!r}: it is neither a path, nor a URI that exists, nor a data set's name." + (
            f" {self.hint}" if self.hint else " `atelier data list` shows the names."
        )


class ArtifactNotFoundError(InputError, LookupError):
    def __init__(self, store: str, key: str) -> None:
        super().__init__(store, key)
        self.store, self.key = store, key

    def __str__(self) -> str:
        return f"No artifact {self.key!r} in {self.store}."


class DatasetNotFoundError(InputError, LookupError):
    def __init__(self, name: str, known: list[str]) -> None:
        super().__init__(name, known)
        self.name, self.known = name, known

    def __str__(self) -> str:
        return f"No data set {self.name!r}. Known: {', '.join(self.known[:20]) or 'none yet'}. `atelier data import` makes one."


class ModelNotFoundError(InputError, LookupError):
    def __init__(self, name: str, known: list[str]) -> None:
        super().__init__(name, known)
        self.name, self.known = name, known

    def __str__(self) -> str:
        return f"No model {self.name!r} in the registry. Known: {', '.join(self.known[:20]) or 'none yet'}. `atelier run` makes one."


class NotEnoughSlotsError(InputError, ValueError):
    def __init__(self, wanted: int, available: int, cluster: str) -> None:
        super().__init__(wanted, available, cluster)
        self.wanted, self.available, self.cluster = wanted, available, cluster

    def __str__(self) -> str:
        return (
            f"{self.wanted} workers were asked for, but the cluster ({self.cluster}) has {self.available} slots. "
            f"Use --workers {self.available} or fewer, or give the cluster more (ATELIER_SLOTS, ATELIER_CLUSTER)."
        )


class AlreadyRunningError(InputError, RuntimeError):
    def __init__(self, run_key: str) -> None:
        super().__init__(run_key)
        self.run_key = run_key

    def __str__(self) -> str:
        return f"Another process is at this very training just now ({self.run_key[:12]}). Wait for it, or end it, and run the same command again."


class RequestRefusedError(InputError, ValueError):
    """What the inference server answers to a request that is wrong: the HTTP status (4xx) and why, in words."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status, self.reason = status, reason

    def __str__(self) -> str:
        return self.reason


class StoreAccessError(InputError, OSError):
    """The store refuses: wrong credentials, no such bucket, a read-only folder, a full disk."""

    def __init__(self, store: str, why: str, hint: str) -> None:
        super().__init__(store, why, hint)
        self.store, self.why, self.hint = store, why, hint

    def __reduce__(self) -> tuple[Any, ...]:  # an OSError keeps two of three arguments
        return type(self), (self.store, self.why, self.hint), self.__dict__

    def __str__(self) -> str:
        return f"Cannot use the store {self.store}: {self.why}. {self.hint}".rstrip()


def _classes() -> dict[str, type[AtelierError]]:
    found: dict[str, type[AtelierError]] = {}
    todo: list[type[AtelierError]] = [AtelierError]
    for cls in todo:  # it grows meanwhile
        found[cls.__name__] = cls
        todo.extend(cls.__subclasses__())
    return found


def to_wire(error: AtelierError) -> dict[str, Any]:
    """The error as a JSON value, for another process; see ``from_wire``."""
    return {"type": type(error).__name__, "args": list(error.__reduce__()[1])}


def from_wire(value: dict[str, Any]) -> AtelierError:
    """The error that ``to_wire`` described; an unknown type becomes a plain ``AtelierError``."""
    cls = _classes().get(value["type"])
    return cls(*value["args"]) if cls is not None else AtelierError(f"{value['type']}: {value['args']}")

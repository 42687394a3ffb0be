"""What can be known to be wrong with a run before it costs anything: before it starts, and when its data is known."""

from __future__ import annotations

import json
from pathlib import Path

from algorithms.catalog import find_algorithm
from algorithms.compression.recipes import CALIBRATION_BATCH
from algorithms.spec import Algorithm, Config
from algorithms.user_code import digests
from flows.request import RunRequest, check_options
from infra._registry_version import check_name
from infra.cluster import check_cluster
from infra.context import StageContext
from infra.datasets.card import Card, DatasetRef
from infra.errors import InvalidOptionError, NotEnoughSlotsError, StoreAccessError
from infra.settings import Settings
from infra.store import Store
from infra.workers import parse_workers
from tasks.augment import PolicyOption, check_augmentation, num_wanted, row_policy
from tasks.compress import check_compression
from tasks.import_data import check_source
from tasks.tune import check_tuning, check_valid_split


def check_request(request: RunRequest, settings: Settings, store: Store) -> tuple[Algorithm, Config]:
    """The algorithm and its config, once everything that can be known beforehand is known to be right.

    Raises:
        UnknownAlgorithmError, InvalidOptionError, UserCodeError, InvalidSettingError, NotEnoughSlotsError, SourceNotFoundError, StoreAccessError,
        StoreUnavailableError.
    """
    algorithm = find_algorithm(request.algorithm)
    config = check_options(algorithm, request.split_options(algorithm)[0])
    if abs(sum(request.ratios) - 1) > 1e-6 or min(request.ratios) < 0 or request.ratios[0] == 0 or request.ratios[2] == 0:
        problem = f"ratios: must be shares of train, valid and test that add up to 1, train and test above 0 (got {request.ratios})"
        raise InvalidOptionError("the run", [problem])
    _check_search(request, algorithm, config)
    policy = version_policy(request, algorithm, config)
    if policy is not None:
        classes = not algorithm.task.endswith("regression")
        check_augmentation(algorithm.modality, classes, policy, balance=request.balance, expand=request.expand)
    # What is wrong with a compression whatever the data is.
    check_compression(algorithm, config, request.compress_settings, {"train": CALIBRATION_BATCH, "valid": 1})
    digests(config.model_dump(mode="json"))  # the user's own code is there
    _check_timeline(request, settings)
    check_cluster(settings)
    least = parse_workers(request.workers).least
    if settings.cluster == "local" and least > settings.slots:
        raise NotEnoughSlotsError(least, settings.slots, "local")
    if request.name:
        check_name(request.name)
    check_source(store, request.data)
    store.write_bytes("atelier.json", json.dumps({"format": 1}).encode())  # proves that the workspace can be written
    try:
        settings.state_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreAccessError(str(settings.state_dir), f"its folder cannot be made ({error.strerror})", "Set ATELIER_WORKSPACE.") from None
    return algorithm, config


def version_policy(request: RunRequest, algorithm: Algorithm, config: Config) -> PolicyOption | None:
    """By which policy a version with more training samples is written; None if none was asked for.

    Raises:
        InvalidOptionError: the option ``augment`` is a policy that cannot write one.
    """
    if not request.balance and request.expand == 1:
        return None
    policy: PolicyOption = config.model_dump(mode="json").get("augment", "none")
    return policy if algorithm.modality == "image" else row_policy(str(policy), regression=algorithm.task.endswith("regression"))


def check_data(request: RunRequest, algorithm: Algorithm, config: Config, card: Card) -> list[str]:
    """Refuse what this data cannot be used for, before anything is learned from it; what will be left out, a sentence each.

    Args:
        card: of the data as it was imported, or as it is without what was set aside.

    Raises:
        InvalidOptionError: a search or a compression without anything to measure it on, or to calibrate with.
    """
    if request.trials is not None:
        check_valid_split(card.num_rows.get("valid", 0))
    wanted = num_wanted(card.counts.get("train", {}), balance=request.balance, expand=request.expand)
    num_rows = {**card.num_rows, "train": card.num_rows.get("train", 0) + sum(wanted.values())}
    left_out = check_compression(algorithm, config, request.compress_settings, num_rows)
    return [left_out] if left_out else []


def check_slots(request: RunRequest, algorithm: Algorithm, context: StageContext) -> None:
    """Refuse more ranks than a cluster that somebody else runs has slots; for our own that was known before it was started.

    Raises:
        NotEnoughSlotsError: with the number that there is.
    """
    address = context.settings.cluster
    if not algorithm.engine.distributed or "://" not in address or address.startswith("ssh://"):
        return
    from infra.cluster import num_slots

    least, there = parse_workers(request.workers).least, num_slots(context.client())
    if least > there > 0:
        raise NotEnoughSlotsError(least, there, address)


def _check_timeline(request: RunRequest, settings: Settings) -> None:
    """Refuse a timeline that nobody would write."""
    if not request.timeline:
        return
    problems = []
    if parse_workers(request.workers).most < 2 or (request.backend or settings.backend) == "torch":
        problems.append("timeline: Horovod writes it, which takes 2 workers or more and the back end horovod or auto")
    if Path(request.timeline).expanduser().is_dir():
        problems.append(f"timeline: {request.timeline} is a folder; it has to be a file")
    elif not Path(request.timeline).expanduser().absolute().parent.is_dir():
        problems.append(f"timeline: there is no folder {Path(request.timeline).parent}")
    if problems:
        raise InvalidOptionError("the run", problems)


def _check_search(request: RunRequest, algorithm: Algorithm, config: Config) -> None:
    """Refuse what only a search or a compression would use where none was asked for, and a search that cannot be made."""
    plain = type(request).model_fields
    unused = []
    if request.trials is None:
        unused += [(name, "trials") for name in ("time_limit", "sampler", "pruner", "objectives", "space")]
    if request.compress == "none":
        unused += [(name, "compress") for name in ("max_accuracy_loss", "max_latency_ms", "max_size_mb", "strict_budget")]
    problems = [f"{name}: is of use only with `{needs}`" for name, needs in unused if getattr(request, name) != plain[name].default]
    if problems:
        raise InvalidOptionError("the run", problems)
    search = request.tune_settings(algorithm)
    if search is not None:
        check_tuning(algorithm.name, config.model_dump(mode="json"), DatasetRef(digest="0" * 64, kind=algorithm.modality), search)

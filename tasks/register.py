"""Register: a new version of a model, and whether it becomes champion: only if it is better on the same test split.

Wrong labels make every honest model look bad on the data that has them. So a version that learned from other data than the champion's must also
stand on the champion's own test split before it takes over.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from infra.artifacts import Artifact
from infra.context import StageContext
from infra.datasets import names
from infra.datasets.card import DatasetRef
from infra.errors import ArtifactNotFoundError, CorruptArtifactError, DatasetNotFoundError
from infra.promotion import CHALLENGER, CHAMPION, LogEvent, choose
from infra.registry import ModelVersion, Registry

if TYPE_CHECKING:
    from algorithms.package import Package

_BY, _COMPRESS = "register", "compress"
MOST_LOST = 0.05  # on the champion's own test split: accuracy, or growth of the RMSE as a share of it


class Registered(BaseModel):
    """The version, and what was decided about it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: int
    aliases: list[str]
    decision: str = Field(description="champion or challenger.")
    reason: str


def register(
    package: Artifact,
    *,
    name: str,
    algorithm: str,
    data: DatasetRef,
    run_id: str,
    min_gain: float,
    run_card_key: str,
    context: StageContext,
) -> Registered:
    """Register a package and decide what it becomes; a second time with the same package, nothing changes.

    The first version becomes champion. A champion that was measured on other data is measured again on this data's test split; and the new
    version on the champion's test split, on which it may lose 0.05 of accuracy or 5 % of RMSE at most.

    Args:
        min_gain: how much better than the champion it must be, in the unit of the task's metric (accuracy; RMSE, where lower is better).

    Raises:
        InvalidOptionError: a name that no model can have.
    """
    from algorithms.package import Package

    registry = Registry(context.settings, context.store)
    package_folder = _fetch(context, package)
    challenger = Package.load(package_folder, providers=["CPUExecutionProvider"])
    version = registry.register(
        name,
        sealed(package, package_folder, context),
        algorithm=algorithm,
        dataset=data.digest,
        metrics=challenger.metrics,
        run_id=run_id,
        run_card_key=run_card_key,
    )
    decided = _decided(registry.history(name), version)
    if decided is not None:
        return Registered(name=name, version=version.version, aliases=version.aliases, decision=decided.alias or "", reason=decided.reason)
    champion = next((other for other in registry.versions(name) if CHAMPION in other.aliases and other.version != version.version), None)
    decision, reason, compared = _decide(registry, champion, version, challenger, data, min_gain, context)
    promoted = registry.promote(name, version.version, decision, reason=reason, compared={"by": _BY, **compared})
    return Registered(name=name, version=version.version, aliases=promoted.aliases, decision=decision, reason=reason)


def enlist_compressed(
    package: Artifact,
    *,
    source: ModelVersion,
    chosen: str,
    reason: str,
    promotion: Literal["champion", "challenger", "none"],
    context: StageContext,
) -> Registered:
    """Register a compressed package as the next version of its model; a second time nothing changes.

    Args:
        source: the version that it was made from.
        chosen: name of the recipe.
        promotion: what it becomes; ``challenger`` leaves the last word to a canary.
    """
    from algorithms.package import Package

    registry = Registry(context.settings, context.store)
    folder = _fetch(context, package)
    made = registry.register(
        source.name,
        sealed(package, folder, context),
        algorithm=source.algorithm,
        dataset=source.dataset,
        metrics=Package.load(folder, providers=["CPUExecutionProvider"]).metrics,
        run_id=source.run_id,
        run_card_key=source.run_card,
        tags={"compressed_from": source.ref, "compression": chosen},
    )
    if not any(event.version == made.version and event.compared.get("by") in (_COMPRESS, _BY) for event in registry.history(source.name)):
        words, compared = f"{chosen} of {source.ref}: {reason}", {"by": _COMPRESS, "from": source.version, "recipe": chosen}
        if promotion == "none":
            registry.note(source.name, made.version, reason=words, compared=compared, operation="judge")
        else:
            alias = CHAMPION if promotion == "champion" else CHALLENGER
            registry.promote(source.name, made.version, alias, reason=words, compared=compared)
    now = registry.get(made.ref)
    return Registered(name=now.name, version=now.version, aliases=now.aliases, decision=promotion, reason=reason)


def current_state(registered: Registered, package: Artifact, context: StageContext) -> Registered | None:
    """What an earlier registration is now: people move aliases and delete versions. None: it is no longer there.

    A kept package that was lost or damaged since is made whole from ``package``, the run's own copy.
    """
    registry = Registry(context.settings, context.store)
    for version in registry.versions(registered.name):
        if version.version == registered.version:
            if version.package.digest == package.digest:
                registry.mend(version, package)
            return registered.model_copy(update={"aliases": list(version.aliases)})
    return None


def sealed(package: Artifact, folder: Path, context: StageContext) -> Artifact:
    """The package as the registry keeps it: with its model sealed, if the settings have a key for that (runs seal what they export)."""
    from algorithms._package_sealing import find_key, seal_package
    from infra.artifacts import MANIFEST, describe, publish
    from tasks.sealing import is_exposed

    key = find_key()
    if key is None or not is_exposed(package, context):
        return package
    with tempfile.TemporaryDirectory(prefix="atelier-") as scratch:
        target = Path(scratch) / "package"
        seal_package(folder, target, key)
        digest = hashlib.sha256(describe(target, package.kind).to_bytes()).hexdigest()
        assert not (target / MANIFEST).exists(), "publishing writes it"
        return publish(context.store, target, f"packages/{digest}", package.kind)


def _fetch(context: StageContext, package: Artifact) -> Any:
    from infra.artifacts import fetch

    return fetch(context.store, package, context.settings.cache_path)


def _decided(events: list[LogEvent], version: ModelVersion) -> LogEvent | None:
    """What this stage decided about the version earlier: a person may have moved aliases since, and that stands."""
    mine = [event for event in events if event.version == version.version and event.compared.get("by") == _BY]
    return mine[-1] if mine else None


def _decide(
    registry: Registry,
    champion: ModelVersion | None,
    version: ModelVersion,
    challenger: Package,
    data: DatasetRef,
    min_gain: float,
    context: StageContext,
) -> tuple[str, str, dict[str, Any]]:
    """Champion or challenger, the reason in words, and the figures compared."""
    from algorithms.metrics import primary_metric

    metric, higher_is_better = primary_metric(challenger.task)
    value = challenger.metrics.get(metric)
    compared: dict[str, Any] = {"metric": metric, "challenger": value, "margin": min_gain}
    if champion is None:
        return CHAMPION, f"the first version ({metric} {_show(value)})" if value is not None else "the first version", compared
    compared["champion_version"] = champion.version
    if value is None:
        return CHALLENGER, f"its package has no {metric} to compare with champion {champion.ref}", compared
    old, where, misfit = _champion_metric(registry, champion, challenger, metric, data, context)
    if misfit:
        return CHALLENGER, f"it cannot be compared with champion {champion.ref}: {misfit}", compared
    compared |= {"champion": old, "measured": where}
    decision = choose(old, value, higher_is_better=higher_is_better, margin=min_gain)
    versus = f"{metric} {_show(value)} against {_show(old)} of champion {champion.ref} on the same test split"
    if decision == CHALLENGER:
        return decision, f"{versus}; {'better' if not min_gain else f'better by at least {min_gain:g}'} was needed", compared
    if champion.dataset == data.digest:
        return decision, versus, compared
    on_old = _on_old_data(champion, challenger, metric, higher_is_better, context)
    compared |= {"champion_on_old": champion.metrics.get(metric), "challenger_on_old": on_old.value}
    if on_old.lost:
        hint = f"wrong labels, or other data altogether? If it is right, `atelier models promote {version.ref}` makes it champion"
        return CHALLENGER, f"{versus}, but {on_old.words}: {hint}", compared
    return decision, f"{versus}; {on_old.words}", compared


class _OnOldData(NamedTuple):
    """How a new version does on the test split that the champion was measured on; None: it could not be measured."""

    value: float | None
    lost: bool
    words: str


def _on_old_data(champion: ModelVersion, challenger: Package, metric: str, higher_is_better: bool, context: StageContext) -> _OnOldData:
    from algorithms._package_judge import judge, misfit
    from infra.datasets.dataset import open_dataset

    old = champion.metrics.get(metric)
    if old is None:
        return _OnOldData(None, False, f"{champion.ref} has no {metric} of its own data on record")
    try:
        dataset = open_dataset(context.store, names.resolve(context.store, champion.dataset), context.settings.cache_path)
        why = misfit(challenger, dataset)
    except (DatasetNotFoundError, ArtifactNotFoundError):
        why = "it is not in this workspace"
    except CorruptArtifactError as error:
        why = f"it is damaged ({error})"
    if why:
        return _OnOldData(None, False, f"it was not measured on the data of {champion.ref}: {why}")
    context.report(
        {"kind": "log", "message": f"It learned from other data than champion {champion.ref}: measuring it on that test split, too."}
    )
    value = judge(challenger, dataset).get(metric)
    allowed = old - MOST_LOST if higher_is_better else old * (1 + MOST_LOST)
    lost = value is None or not (value >= allowed - 1e-12 if higher_is_better else value <= allowed + 1e-12)
    return _OnOldData(value, lost, f"on the test split of {champion.ref} it has {_show(value)} against {_show(old)}")


def _champion_metric(
    registry: Registry, champion: ModelVersion, challenger: Package, metric: str, data: DatasetRef, context: StageContext
) -> tuple[float | None, str, str]:
    """The champion's figure on this data's test split, whether it was on record or measured now, and why there is none."""
    from algorithms._package_judge import judge, misfit
    from algorithms.package import Package
    from infra.datasets.dataset import open_dataset

    if champion.algorithm.split("/")[0] != challenger.task:
        return None, "", f"it does another task ({champion.algorithm})"
    try:
        package = Package.load(registry.package_folder(champion))
    except (ArtifactNotFoundError, CorruptArtifactError) as error:
        return None, "", f"its package is lost or damaged ({error})"
    if differ := sorted(set(package.labels) ^ set(challenger.labels)):
        return None, "", f"the classes differ ({', '.join(differ[:5])}{', ...' if len(differ) > 5 else ''})"
    targets = [loaded.description["config"].get("target") for loaded in (package, challenger)]
    if targets[0] != targets[1]:
        return None, "", f"it predicts {targets[0]!r} and not {targets[1]!r}"
    if champion.dataset == data.digest and metric in champion.metrics:
        return champion.metrics[metric], "on record", ""
    dataset = open_dataset(context.store, data, context.settings.cache_path)
    if why := misfit(package, dataset):
        return None, "", why
    context.report({"kind": "log", "message": f"Champion {champion.ref} was measured on other data: measuring it on this test split."})
    return judge(package, dataset).get(metric), "now", ""


def _show(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"

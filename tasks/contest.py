"""Contest: champion and challenger on the same test rows, old and new; and what the registry makes of the outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from infra.artifacts import Artifact, fetch
from infra.context import StageContext
from infra.datasets.card import DatasetRef
from infra.datasets.dataset import open_dataset
from infra.errors import InvalidOptionError
from infra.promotion import CHALLENGER, CHAMPION
from infra.registry import Registry
from tasks._contest import Outcome, Terms
from tasks._contest import contest as decide
from tasks.register import Registered, sealed

if TYPE_CHECKING:
    from algorithms._package_judge import Judged
    from tasks._compare_stats import Answers

BY = "retrain"


def contest(challenger: Artifact, *, champion: Artifact, data: DatasetRef, old: DatasetRef, terms: Terms, context: StageContext) -> Outcome:
    """Judge both packages on the test split of ``data``.

    Args:
        data: the merged version.
        old: what the champion was trained on; test rows that it does not have count as new.

    Raises:
        InvalidOptionError: they cannot be compared.
    """
    from algorithms._package_judge import answers, misfit
    from algorithms.package import Package

    merged = open_dataset(context.store, data, context.settings.cache_path)
    before = open_dataset(context.store, old, context.settings.cache_path)
    judged = []
    for package in (champion, challenger):
        loaded = Package.load(fetch(context.store, package, context.settings.cache_path), providers=["CPUExecutionProvider"])
        if why := misfit(loaded, merged):
            raise InvalidOptionError("a contest", [why])
        judged.append(answers(loaded, merged))
    if judged[0].ids != judged[1].ids or judged[0].classes != judged[1].classes:
        raise InvalidOptionError("a contest", ["the two models tell other classes, or about other rows"])
    column = "path" if data.kind == "image" else "_row"
    known = {str(one) for rows in before.iter_tables("test", [column]) for one in rows[column].to_pylist()}
    is_new = np.asarray([one not in known for one in judged[0].ids])
    return decide(_said(judged[0]), _said(judged[1]), is_new, judged[0].classes, terms)


def _said(judged: Judged) -> Answers:
    from tasks._compare_stats import Answers

    if not judged.classes:
        return Answers(judged.labels, np.asarray(judged.outputs, np.float64), None, 0)
    scores = np.asarray(judged.outputs, np.float64)
    return Answers(judged.labels, scores.argmax(axis=1), scores[np.arange(len(scores)), judged.labels], len(judged.classes))


def enlist(
    package: Artifact,
    *,
    name: str,
    algorithm: str,
    data: DatasetRef,
    run_id: str,
    run_card_key: str,
    outcome: Outcome,
    promotion: Literal["champion", "challenger", "none"],
    context: StageContext,
) -> Registered:
    """Register the challenger, and write the decision and its numbers into the registry's log; a second time nothing changes.

    Args:
        promotion: what it becomes if it has won; ``challenger`` leaves the last word to a canary.
    """
    from algorithms.package import Package

    registry = Registry(context.settings, context.store)
    folder = fetch(context.store, package, context.settings.cache_path)
    version = registry.register(
        name,
        sealed(package, folder, context),
        algorithm=algorithm,
        dataset=data.digest,
        metrics=Package.load(folder, providers=["CPUExecutionProvider"]).metrics,
        run_id=run_id,
        run_card_key=run_card_key,
    )
    if not any(event.version == version.version and event.compared.get("by") == BY for event in registry.history(name)):
        compared: dict[str, Any] = {"by": BY, **outcome.model_dump(mode="json")}
        if outcome.winner == "challenger" and promotion != "none":
            alias = CHAMPION if promotion == "champion" else CHALLENGER
            registry.promote(name, version.version, alias, reason=outcome.reason, compared=compared)
        else:
            registry.note(name, version.version, reason=outcome.reason, compared=compared, operation="judge")
    aliases = next(list(one.aliases) for one in registry.versions(name) if one.version == version.version)
    decision = promotion if outcome.winner == "challenger" and promotion != "none" else "registered"
    return Registered(name=name, version=version.version, aliases=aliases, decision=decision, reason=outcome.reason)

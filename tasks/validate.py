"""The gate: data is looked at once, in parallel, judged by Great Expectations, and let through, cleaned or refused.

``docs/validation.md`` tells what is checked, and how a user adds a suite.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from algorithms.catalog import find_algorithm
from algorithms.spec import Algorithm, Config, Expectation
from infra.artifacts import Artifact, find, publish, read_file
from infra.context import StageContext
from infra.datasets.card import SPLITS, DatasetRef
from infra.datasets.dataset import Dataset, open_dataset
from infra.datasets.derived import derive
from infra.errors import InvalidOptionError, ValidationFailedError
from infra.keys import content_key
from tasks import _gx
from tasks._docs import write_docs
from tasks._gate import Decision, decide, messages
from tasks._look import Look, look_at_pictures, look_at_table
from tasks._near_duplicates import duplicate_warnings
from tasks._pictures import PICTURE_COLUMNS
from tasks._suite import parse_suite
from tasks.repair import REPORT as REPAIRS
from tasks.repair import Repaired, repair

VERSION = 2  # of what is checked; raise it when the same data may get another verdict
REPORT, QUARANTINED, DOCS = "report.json", "quarantined.json", "data_docs/index.html"
DUPLICATES = "duplicates.json"


class Validated(BaseModel):
    """Data that passed the gate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: DatasetRef = Field(description="What to train on: the version itself, or one without the broken samples.")
    report: Artifact = Field(description="report.json, quarantined.json and data_docs/index.html.")
    num_samples: int = Field(description="Samples that were looked at.")
    num_invalid: int = Field(description="Samples that were set aside.")
    num_repaired: int = Field(default=0, description="Pictures, or columns of a table, that were mended.")
    warnings: list[str] = Field(default_factory=list)


def validate(
    data: DatasetRef,
    algorithm: str,
    options: dict[str, Any],
    *,
    on_invalid: Literal["quarantine", "repair", "fail"] = "quarantine",
    max_invalid_share: float = 0.05,
    suite: dict[str, Any] | None = None,
    context: StageContext,
) -> Validated:
    """Look at every sample once and decide whether an algorithm may learn from this data.

    Args:
        data: the version to look at.
        algorithm, options: state what the data must look like.
        on_invalid: what happens to broken samples: ``quarantine`` makes a version without them, ``repair`` mends what can be mended first
            (``tasks.repair``), ``fail`` refuses the data.
        max_invalid_share: share of broken samples, 0 to 1, above which the data is refused all the same.
        suite: a user's own Great Expectations suite.

    Raises:
        InvalidOptionError: the algorithm cannot use such data, or the suite is wrong.
        ValidationFailedError: the data does not pass; its report is published all the same.
    """
    _check_policy(on_invalid, max_invalid_share)
    chosen = find_algorithm(algorithm)
    config = chosen.config(options)
    dataset = open_dataset(context.store, data, context.settings.cache_path)
    target, regression = _target(chosen, config, dataset)
    mended: Repaired | None = None
    if on_invalid == "repair":
        mended = repair(data, target=None if regression else target, context=context)
        dataset = open_dataset(context.store, mended.data, context.settings.cache_path)
    expectations = chosen.engine.expectations(config, dataset.card)
    used = _used(config, dataset)
    policy = {"on_invalid": on_invalid, "max_invalid_share": max_invalid_share, "suite": suite, "target": target, "used": sorted(used)}
    rules = [[rule.type, dict(rule.kwargs), rule.severity, rule.per_sample, rule.reason, rule.table] for rule in expectations]
    policy |= {"source": data.digest} if mended else {}
    key = f"validations/{content_key({'version': VERSION, 'dataset': dataset.ref.digest, 'expectations': rules, **policy})}"
    report = None if context.fresh else find(context.store, key)
    answer = None if report is None else json.loads(read_file(context.store, report, REPORT))
    if report is None or answer is None or not _is_judged(answer) or not _is_there(context, answer):
        gate = _Gate(dataset, expectations, suite, target, regression, used, on_invalid, max_invalid_share, mended)
        answer, report = _examine(gate, key, context)
    if answer["decision"]["action"] == "fail":
        location = _location(context, report.key)
        raise ValidationFailedError(data.name or data.digest[:16], answer["decision"]["failures"], location, _hint(answer, on_invalid))
    return Validated(
        data=DatasetRef(digest=answer["data"]["digest"], name=data.name, kind=data.kind),
        report=report,
        num_samples=answer["num_samples"],
        num_invalid=answer["num_invalid"],
        num_repaired=mended.num_repaired if mended else 0,
        warnings=answer["warnings"],
    )


def _check_policy(on_invalid: str, max_invalid_share: float) -> None:
    problems = []
    if on_invalid not in ("quarantine", "repair", "fail"):
        problems.append(f"on_invalid: {on_invalid!r} is not 'quarantine', 'repair' or 'fail'")
    if not 0 <= max_invalid_share <= 1:
        problems.append(f"max_invalid_share: {max_invalid_share} is not between 0 and 1")
    if problems:
        raise InvalidOptionError("validation", problems)


def _target(algorithm: Algorithm, config: Config, dataset: Dataset) -> tuple[str | None, bool]:
    """The column to predict, and whether it is a number to estimate; None for pictures, whose labels are their folders."""
    card = dataset.card
    if algorithm.modality != card.kind:
        raise InvalidOptionError(
            algorithm.name, [f"it learns from {algorithm.modality} data, and {card.name or card.digest[:16]} is {card.kind} data"]
        )
    if card.kind == "image":
        return None, False
    columns = [feature.name for feature in card.features if feature.name != "_row"]
    target = getattr(config, "target", None) or card.target
    if not target:
        raise InvalidOptionError(
            algorithm.name, [f"target: which column is to be predicted? Columns: {', '.join(columns)}"], "Use --set target=COLUMN."
        )
    if target not in columns:
        raise InvalidOptionError(algorithm.name, [f"target: there is no column {target!r}. Columns: {', '.join(columns)}"])
    return target, "regression" in algorithm.task


def _is_judged(answer: Mapping[str, Any]) -> bool:
    """Whether every expectation got a verdict on the data; what Great Expectations itself stumbled over may pass."""
    return not any(entry["error"] for entry in answer["expectations"])


def _is_there(context: StageContext, answer: Mapping[str, Any]) -> bool:
    clean = answer.get("data")
    return clean is None or find(context.store, DatasetRef(**clean).key) is not None


def _used(config: Config, dataset: Dataset) -> set[str]:
    """The columns that the algorithm learns from: an option may name them, another may drop some."""
    features = {feature.name for feature in dataset.card.features if feature.name != "_row"}
    return features & set(getattr(config, "features", ()) or features) - set(getattr(config, "drop", ()))


@dataclass(frozen=True)
class _Gate:
    """What is judged, by what rules, and what follows from it."""

    dataset: Dataset
    expectations: list[Expectation]
    suite: dict[str, Any] | None
    target: str | None
    regression: bool
    used: set[str]
    on_invalid: str
    max_invalid_share: float
    mended: Repaired | None


def _examine(gate: _Gate, key: str, context: StageContext) -> tuple[dict[str, Any], Artifact]:
    """Look, judge, decide, write the report; returns it, and where it is: under ``key`` if it may be used again, else beside it."""
    started = time.monotonic()
    loading = _gx.load_in_background()  # beside the workers' pass: it takes seconds
    dataset = gate.dataset
    pictures = dataset.card.kind == "image"
    features = list(PICTURE_COLUMNS) if pictures else [feature.name for feature in dataset.card.features if feature.name != "_row"]
    own = [] if gate.suite is None else parse_suite(gate.suite, features)
    about_samples = [rule for rule in [*gate.expectations, *own] if rule.table == "samples"]
    if pictures:
        look = look_at_pictures(dataset, about_samples, context, loading)
    else:
        most = math.ceil(gate.max_invalid_share * sum(dataset.card.num_rows.values()))
        look = look_at_table(dataset, about_samples, gate.target, gate.regression, gate.used, most, context, loading)
    outcomes = [*look.outcomes]
    for table, frame, name in (("classes", look.classes, "class"), ("columns", look.columns, "column")):
        if frame is not None:
            outcomes += _gx.judge_frame(frame, [rule for rule in gate.expectations if rule.table == table], name)
    if any(outcome.error for outcome in outcomes):
        key = f"{key}-unjudged"
    decision = _decide(dataset, look, outcomes, gate.on_invalid, gate.max_invalid_share)
    clean = dataset.ref
    if decision.action == "quarantine":
        reasons = Counter(rule for rules in look.rules.values() for rule in rules)
        details = {"num_samples": len(look.invalid), "reasons": dict(sorted(reasons.items())), "report": key}
        clean = derive(context.store, dataset.ref, set(look.invalid), "quarantine", details)
    answer = _report(dataset, look, outcomes, decision, clean)
    repairs = b""
    if gate.mended is not None:
        repairs = read_file(context.store, gate.mended.report, REPAIRS)
        told = json.loads(repairs)
        answer["repair"] = {"source": told["source"], "num_repaired": gate.mended.num_repaired, "summary": told["summary"]}
    report = _publish(answer, look, outcomes, key, repairs, context)
    context.report({"kind": "log", "message": f"validation: {_verdict(answer)} ({time.monotonic() - started:.1f} s)"})
    return answer, report


def _decide(dataset: Dataset, look: Look, outcomes: list[_gx.Outcome], on_invalid: str, max_invalid_share: float) -> Decision:
    wrong = [outcome for outcome in outcomes if not outcome.success]
    fatal = [
        outcome for outcome in wrong if outcome.error or (outcome.expectation.severity == "error" and not outcome.expectation.per_sample)
    ]
    num_rows = {split: dataset.card.num_rows.get(split, 0) for split in SPLITS}
    return decide(
        num_rows=num_rows,
        remaining={split: rows - look.dropped[split] for split, rows in num_rows.items()},
        num_invalid=look.num_invalid,
        examples=[(sample, "; ".join(reasons)) for sample, reasons in list(look.invalid.items())[:5]],
        failures=[message for outcome in fatal for message in messages(outcome)],
        on_invalid=on_invalid,
        max_invalid_share=max_invalid_share,
    )


def _report(dataset: Dataset, look: Look, outcomes: list[_gx.Outcome], decision: Decision, clean: DatasetRef) -> dict[str, Any]:
    soft = [outcome for outcome in outcomes if not outcome.success and not outcome.error and outcome.expectation.severity == "warning"]
    return {
        "dataset": {"digest": dataset.ref.digest, "name": dataset.ref.name, "kind": dataset.ref.kind},
        "decision": {"action": decision.action, "failures": list(decision.failures)},
        "data": None if decision.action == "fail" else clean.model_dump(mode="json"),
        "num_samples": sum(dataset.card.num_rows.values()),
        "num_invalid": look.num_invalid,
        "warnings": [message for outcome in soft for message in messages(outcome)] + duplicate_warnings(look.duplicates or {"groups": []}),
        "expectations": [_entry(outcome) for outcome in outcomes],
        "summary": {
            "num_rows": dict(dataset.card.num_rows),
            "dropped": dict(look.dropped),
            "classes": [] if look.classes is None else look.classes.to_dict("records"),
            "columns": [] if look.columns is None else look.columns.to_dict("records"),
            **look.summary,
        },
        "great_expectations": _gx.load().__version__,
    }


def _entry(outcome: _gx.Outcome) -> dict[str, Any]:
    expectation = outcome.expectation
    told = [] if outcome.success else messages(outcome)
    soft = outcome.success or (expectation.severity == "warning" and not outcome.error)
    return {
        "status": "passed" if outcome.success else "warned" if soft else "failed",
        "type": expectation.type,
        "column": str(expectation.kwargs.get("column", "")),
        "table": expectation.table,
        "kwargs": dict(expectation.kwargs),
        "severity": expectation.severity,
        "per_sample": expectation.per_sample,
        "success": outcome.success,
        "observed": outcome.observed,
        "num_elements": outcome.num_elements,
        "num_unexpected": outcome.num_unexpected,
        "reason": "; ".join(told[:3]),
        "error": outcome.error,
    }


def _publish(answer: dict[str, Any], look: Look, outcomes: list[_gx.Outcome], key: str, repairs: bytes, context: StageContext) -> Artifact:
    broken = [{"id": str(sample), "reasons": reasons} for sample, reasons in look.invalid.items()]
    with tempfile.TemporaryDirectory(prefix="atelier-validate-") as scratch:
        folder = Path(scratch)
        (folder / REPORT).write_text(json.dumps(_plain(answer), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        if repairs:
            (folder / REPAIRS).write_bytes(repairs)
        if look.duplicates is not None:
            (folder / DUPLICATES).write_text(json.dumps(_plain(look.duplicates), indent=1) + "\n", encoding="utf-8")
        (folder / QUARANTINED).write_text(json.dumps(broken, indent=1) + "\n", encoding="utf-8")
        name = answer["dataset"]["name"] or answer["dataset"]["digest"][:16]
        write_docs((folder / DOCS).parent, outcomes, dataset=name, verdict=_verdict(answer))
        return publish(context.store, folder, key, kind="validation")


def _plain(value: Any) -> Any:
    """The value as JSON: numpy's numbers as Python's, what is not a number as null."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)


def _verdict(answer: Mapping[str, Any]) -> str:
    broken, warned = answer["num_invalid"], len(answer["warnings"])
    mended = answer.get("repair", {}).get("num_repaired", 0)
    action = {"pass": "passed", "quarantine": "passed without the broken samples", "fail": "failed"}[answer["decision"]["action"]]
    return f"{answer['num_samples']} samples, {f'{mended} repaired, ' if mended else ''}{broken} broken, {warned} warnings: {action}"


def _location(context: StageContext, key: str) -> str:
    path = context.store.local_path(f"{key}/{DOCS}")
    return str(path) if path is not None else f"{context.store.uri}/{key}/{DOCS}"


def _hint(answer: Mapping[str, Any], on_invalid: str) -> str:
    if not answer["num_invalid"]:
        return ""
    if on_invalid == "fail":
        return "Mend or remove the broken samples (quarantined.json beside the report lists all), or set them aside with --on-invalid quarantine."
    return "Mend or remove the broken samples (quarantined.json beside the report lists all), or allow more with --max-invalid-share."

"""The sections of a card that only some runs have, from the files of their stages."""

from __future__ import annotations

from typing import Any

from infra.artifacts import Artifact
from infra.store import Store
from tasks._card import compression, duplicates, ensemble, explain, gallery, repairs, step, tuning
from tasks._card.gather import ArtifactFiles
from tasks._card.model import Section


def extra_sections(store: Store, extras: Any, validation: Artifact | None, trained: Artifact | None) -> list[Section]:
    """Sections of what there is; ``extras`` is ``tasks.report.CardExtras``."""
    found: list[Section] = []
    if validation is not None:
        found += _of_validation(ArtifactFiles(store, validation))
    if extras.gallery is not None:
        shown = ArtifactFiles(store, extras.gallery).json("gallery.json")
        finding, body = gallery.gallery_finding(shown), gallery.gallery_section(shown)
        found.append(Section(after="validation", id="augmentation", title="Augmentation", finding=finding, body=body))
    if extras.study is not None:
        study = ArtifactFiles(store, extras.study).json("study.json")
        found.append(Section(after="validation", id="tuning", title="Tuning", finding=tuning.finding(study), body=tuning.body(study)))
    if trained is not None and (profile := ArtifactFiles(store, trained).json_if_there("history.json", {}).get("profile")):
        finding, body = step.step_finding(profile), step.step_section(profile)
        found.append(Section(after="training", id="step", title="A training step", finding=finding, body=body))
    if trained is not None and "ensemble.json" in (files := ArtifactFiles(store, trained)):
        content = files.json("ensemble.json")
        finding, body = ensemble.finding(content), ensemble.ensemble_section(content)
        found.append(Section(after="training", id="ensemble", title="Ensemble", finding=finding, body=body))
    if extras.compression is not None:
        table = ArtifactFiles(store, extras.compression).json("compression.json")
        finding, body = compression.finding(table), compression.compression_section(table)
        found.append(Section(after="evaluation", id="compression", title="Compression", finding=finding, body=body))
    if extras.explained is not None:
        found += _of_explanation(ArtifactFiles(store, extras.explained))
    return found


def _of_explanation(files: ArtifactFiles) -> list[Section]:
    """What to do next, at the top of the page; and the figures that it comes from."""
    figures = files.json("explain.json")
    advice = figures["advice"]
    finding, body = explain.explain_finding(figures), explain.explain_section(figures, files.read)
    return [
        Section(after="header", id="advice", title="Advice", finding=explain.advice_finding(advice), body=explain.advice_list(advice)),
        Section(after="evaluation", id="explain", title="A closer look", finding=finding, body=body),
    ]


def _of_validation(files: ArtifactFiles) -> list[Section]:
    found: list[Section] = []
    if "repairs.json" in files:
        told = files.json("repairs.json")
        kind = files.json("report.json")["dataset"]["kind"]
        finding, body = repairs.repairs_finding(told, kind), repairs.repairs_section(told)
        found.append(Section(after="validation", id="repairs", title="Repairs", finding=finding, body=body))
    if "duplicates.json" in files:
        same = files.json("duplicates.json")
        if same["groups"]:
            finding, body = duplicates.duplicates_finding(same), duplicates.duplicates_section(same)
            found.append(Section(after="validation", id="duplicates", title="Duplicates", finding=finding, body=body))
    return found

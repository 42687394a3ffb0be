"""Augmentation as a stage: a version with more training samples, to balance classes or to expand the whole; and the gallery of a policy.

Only the training split grows. Valid and test stay what they are: on them a model is judged.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from algorithms.augmentation.policies import parse_policy
from algorithms.augmentation.steps import CutMix, MixUp
from algorithms.catalog import find_algorithm
from algorithms.user_code import digests, is_dotted
from infra.artifacts import Artifact, find, publish
from infra.context import StageContext
from infra.datasets.card import SPLITS, DatasetRef
from infra.datasets.dataset import Dataset, open_dataset
from infra.datasets.derived import find_rewritten, rewrite
from infra.errors import InvalidOptionError
from infra.keys import content_key
from tasks._augment_pictures import copies_task, gallery_task
from tasks._augment_rows import ROW_POLICIES, rows_task
from tasks._look import BUNDLE_ROWS, bundles, each_bundle

VERSION = 1  # of what a policy makes of a sample; raise it when the same seed may give another
MOST_EXPANDED = 100
GALLERY = "gallery.json"
PolicyOption = str | Sequence[Mapping[str, Any]]


class Augmented(BaseModel):
    """A data set version with more training samples."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: DatasetRef = Field(description="The new version; the one that was given if nothing had to be added.")
    gallery: Artifact | None = Field(default=None, description="gallery.json: pictures before and after; None for tables.")
    added: dict[str, int] = Field(description="New training samples of each class (of '' where there are none).")


def augment(
    data: DatasetRef,
    policy: PolicyOption,
    *,
    balance: bool = False,
    expand: int = 1,
    seed: int = 0,
    no_flip: Sequence[str] = (),
    context: StageContext,
) -> Augmented:
    """Write a new version with more samples in the training split.

    Args:
        data: the version to start from.
        policy: pictures: as the option ``augment`` of the presets, but nothing that mixes labels. Tables: ``noise`` or ``smote``.
        balance: fill every class up to the size of the largest.
        expand: how many times as many samples there are to be, 1 to 100; with ``balance``, of the largest class.
        seed: of everything random; the same seed gives the same version.
        no_flip: pictures: classes that must not be flipped.

    Raises:
        InvalidOptionError: the policy or the numbers.
        UserCodeError: the user's own policy failed; with its traceback.
    """
    dataset = open_dataset(context.store, data, context.settings.cache_path)
    check_augmentation(dataset.card.kind, bool(dataset.card.classes), policy, balance=balance, expand=expand)
    wanted = num_wanted(dataset.card.counts["train"], balance=balance, expand=expand)
    shown = show_gallery(data, policy, no_flip=no_flip, seed=seed, context=context) if data.kind == "image" else None
    if not any(wanted.values()):
        return Augmented(data=data, gallery=shown, added=wanted)
    plain = policy if isinstance(policy, str) else [dict(step) for step in policy]
    recipe = {
        "version": VERSION,
        "policy": plain,
        "balance": balance,
        "expand": expand,
        "seed": seed,
        "no_flip": sorted(no_flip),
        "code": digests({"augment": plain}),
    }
    ref = find_rewritten(context.store, data, "augment", recipe)
    if ref is None:
        rows = (
            _more_pictures(dataset, plain, wanted, seed, no_flip, context)
            if data.kind == "image"
            else _more_rows(dataset, str(plain), wanted, seed, context)
        )
        ref = rewrite(context.store, data, "augment", recipe, rows, {**recipe, "added": wanted})
    return Augmented(data=ref, gallery=shown, added=wanted)


def num_wanted(counts: Mapping[str, int], *, balance: bool, expand: int) -> dict[str, int]:
    """How many samples to add to each class; classes without any get none, as there is nothing to start from."""
    largest = max(counts.values(), default=0)
    return {name: ((largest if balance else count) * expand - count) if count else 0 for name, count in counts.items()}


def share_out(paths: Sequence[str], wanted: int, seed: int) -> dict[str, int]:
    """How many copies of each picture make up ``wanted``: as even as can be, the odd ones by chance."""
    if not paths or not wanted:
        return {}
    each, more = divmod(wanted, len(paths))
    drawn = sorted(paths, key=lambda path: hashlib.sha256(f"{seed} {path}".encode()).digest())[:more]
    found = dict.fromkeys(paths, each) if each else {}
    return {**found, **dict.fromkeys(drawn, each + 1)}


def name_copies(copies: Mapping[str, int], taken: set[str]) -> dict[str, list[str]]:
    """A path for each copy: ``cats/7~1.png`` is the first of ``cats/7.png``."""
    taken = set(taken)
    names: dict[str, list[str]] = {}
    for path, count in sorted(copies.items()):
        pure, number = PurePosixPath(path), 0
        names[path] = []
        while len(names[path]) < count:
            number += 1
            name = pure.with_name(f"{pure.stem}~{number}{pure.suffix}").as_posix()
            if name not in taken:
                taken.add(name)
                names[path].append(name)
    return names


def row_policy(option: str, *, regression: bool) -> str:
    """The policy of a table's new version, from the option ``augment`` of the preset.

    Raises:
        InvalidOptionError: a function of the user's own, which changes encoded rows and cannot write rows of a table.
    """
    if is_dotted(option):
        problem = f"augment: {option} works on encoded rows while a model learns; it cannot write the rows of a table"
        hint = (
            "Leave out `balance` and `expand` and let it add what you want; or write the version first, with augment=smote or noise, "
            "and train on that."
        )
        raise InvalidOptionError("augmentation", [problem], hint)
    if option in ROW_POLICIES:
        return option
    return "noise" if regression else "smote"


def check_augmentation(kind: str, has_classes: bool, policy: PolicyOption, *, balance: bool, expand: int) -> None:
    """Refuse a version that cannot be made.

    Raises:
        InvalidOptionError: all faults at once.
    """
    problems = []
    if not 1 <= expand <= MOST_EXPANDED:
        problems.append(f"expand: {expand} is not from 1 to {MOST_EXPANDED}")
    if balance and not has_classes:
        problems.append("balance: this data has no classes to balance")
    if kind == "image":
        try:
            steps = parse_policy(policy)
        except ValueError as error:
            problems.append(f"augment: {error}")
        else:
            mixing = [step.name for step in steps if isinstance(step, MixUp | CutMix)]
            if mixing:
                problems.append(f"augment: {', '.join(mixing)} mixes labels, which a data set cannot hold; it works in training only")
            if not steps:
                problems.append("augment: none changes nothing; exact copies teach nothing new")
    elif policy not in ROW_POLICIES:
        problems.append(f"augment: {policy!r} is not for tables. Allowed: {', '.join(ROW_POLICIES)}")
    elif policy == "smote" and not has_classes:
        problems.append("augment: smote fills classes, and this data has none; use noise")
    if problems:
        raise InvalidOptionError("augmentation", problems)


def _more_pictures(
    dataset: Dataset, policy: PolicyOption, wanted: Mapping[str, int], seed: int, no_flip: Sequence[str], context: StageContext
) -> Iterator[tuple[str, pa.Table]]:
    """All rows; after each bundle of training pictures, their changed copies."""
    classes = dataset.card.classes
    by_class: dict[str, list[str]] = {name: [] for name in classes}
    taken: set[str] = set()
    for split in SPLITS:
        for table in dataset.iter_tables(split, ["path", "label"]):
            paths, labels = table.column("path").to_pylist(), table.column("label").to_pylist()
            taken.update(paths)
            for path, label in zip(paths, labels, strict=True) if split == "train" else ():
                by_class[classes[label]].append(path)
    copies = {path: count for name, paths in by_class.items() for path, count in share_out(paths, wanted.get(name, 0), seed).items()}
    made = each_bundle(
        context, dataset, BUNDLE_ROWS, copies_task, policy, name_copies(copies, taken), seed, tuple(no_flip), phase="augment"
    )
    for groups, table in zip(bundles(dataset, BUNDLE_ROWS), made, strict=True):
        for group in groups:
            yield group.split, dataset.read(group)
        if table is not None:
            yield "train", table


def _more_rows(
    dataset: Dataset, policy: str, wanted: Mapping[str, int], seed: int, context: StageContext
) -> Iterator[tuple[str, pa.Table]]:
    """All rows, then those that were made; one worker holds the training split for that."""
    for split in SPLITS:
        for table in dataset.iter_tables(split):
            yield split, table
        if split == "train":
            context.report({"kind": "progress", "phase": "augment"})
            arguments = (context.store.uri, dataset.ref, dataset.cache_dir, policy, dict(wanted), seed)
            yield split, context.client().submit(rows_task, *arguments, resources={"slot": 1}, pure=False).result()


def show_gallery(
    data: DatasetRef,
    policy: PolicyOption,
    *,
    image_size: int = 0,
    channels: int = 3,
    no_flip: Sequence[str] = (),
    seed: int = 0,
    context: StageContext,
) -> Artifact | None:
    """A few training pictures before and after a policy, as the network sees them; None if the policy changes nothing.

    Args:
        image_size: to which pictures are resized first, as in training; 0: as they are.

    Raises:
        UserCodeError: the user's own policy failed.
    """
    if not parse_policy(policy):
        return None
    plain = policy if isinstance(policy, str) else [dict(step) for step in policy]
    what = {"version": VERSION, "dataset": data.digest, "policy": plain, "size": image_size, "channels": channels}
    key = f"galleries/{content_key({**what, 'no_flip': sorted(no_flip), 'seed': seed, 'code': digests({'augment': plain})})}"
    there = None if context.fresh else find(context.store, key)
    if there is not None:
        return there
    dataset = open_dataset(context.store, data, context.settings.cache_path)
    arguments = (context.store.uri, data, dataset.cache_dir, plain, image_size, channels, tuple(no_flip), seed)
    gallery = context.client().submit(gallery_task, *arguments, resources={"slot": 1}, pure=False).result()
    with tempfile.TemporaryDirectory(prefix="atelier-gallery-") as scratch:
        (Path(scratch) / GALLERY).write_text(json.dumps(gallery, indent=1) + "\n", encoding="utf-8")
        return publish(context.store, Path(scratch), key, kind="gallery")


def training_gallery(algorithm: str, config: Mapping[str, Any], data: DatasetRef, *, context: StageContext) -> Artifact | None:
    """The gallery of the policy that a training uses; None for tables, and where nothing is augmented."""
    if find_algorithm(algorithm).modality != "image" or not config.get("augment"):
        return None
    size, channels = int(config["image_size"]), int(config["channels"])
    return show_gallery(
        data, config["augment"], image_size=size, channels=channels, no_flip=config["no_flip"], seed=int(config["seed"]), context=context
    )

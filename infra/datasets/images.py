"""Image folders: a folder for each class, or ``train/ valid/ test/`` above those."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra.datasets.card import SPLITS, Feature, Shard
from infra.datasets.shards import shard_writers
from infra.datasets.splits import Ratios, assign_splits, complete_splits
from infra.errors import InvalidSourceError

PICTURES = frozenset([".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"])
SPLIT_FOLDERS = {
    "train": "train", "training": "train",
    "valid": "valid", "val": "valid", "validation": "valid", "dev": "valid",
    "test": "test", "testing": "test",
}  # fmt: skip
GROUP_ROWS, GROUP_BYTES = 512, 16 << 20
SCHEMA = pa.schema([("path", pa.string()), ("sha256", pa.string()), ("label", pa.int32()), ("image", pa.binary())])
FEATURES = [
    Feature(name="path", type="string"),
    Feature(name="sha256", type="string"),
    Feature(name="label", type="label"),
    Feature(name="image", type="image"),
]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Listing:
    """The pictures below a folder, sorted: path relative to it, class, and given split (or None)."""

    root: Path
    samples: list[tuple[str, str, str | None]]
    ignored: list[str]


@dataclass(frozen=True)
class Images:
    """Everything about a set of pictures but their bytes, in the order of ``listing.samples``."""

    listing: Listing
    classes: list[str]
    labels: NDArray[np.int32]
    sha256s: list[str]
    states: list[tuple[int, int, int]]
    splits: NDArray[np.int8]
    split_rule: dict[str, Any]
    digest: str
    counts: dict[str, dict[str, int]] = field(default_factory=dict)


def walk(root: Path) -> Iterator[tuple[str, bool]]:
    """Everything below a folder, relative to it: files, and folders that hold nothing. Links are followed, but never in a circle."""
    seen = set()
    for parent, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        relative = Path(parent).relative_to(root).as_posix()
        start = "" if relative == "." else relative + "/"
        if not folders and not files and start:
            yield start, False
        for name in files:
            yield start + name, True


def is_picture(path: str) -> bool:
    name = path.rpartition("/")[2]
    return PurePosixPath(name).suffix.lower() in PICTURES and not name.startswith(".")


def is_hidden(path: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))


def list_images(root: Path, source: str) -> Listing:
    """Find classes, given splits and pictures.

    Raises:
        InvalidSourceError: no pictures, no class folders, or one class only.
    """
    pictures: list[str] = []
    ignored: list[str] = []
    for path, is_file in walk(root):
        (pictures if is_file and is_picture(path) and not is_hidden(path) else ignored).append(path)
    if not pictures:
        raise InvalidSourceError(source, ["there are no pictures in it"], _LAYOUT)
    top = {path.split("/", 1)[0] for path in pictures if "/" in path}
    given = bool(top) and all(name.lower() in SPLIT_FOLDERS for name in top) and any(SPLIT_FOLDERS[name.lower()] == "train" for name in top)
    samples: list[tuple[str, str, str | None]] = []
    for path in pictures:
        parts = path.split("/")
        if len(parts) < (3 if given else 2):
            ignored.append(path)  # beside the class folders, so without a class
        else:
            samples.append((path, parts[1], SPLIT_FOLDERS[parts[0].lower()]) if given else (path, parts[0], None))
    if not samples:
        where = "train/, valid/ and test/" if given else "it"
        raise InvalidSourceError(source, [f"the {len(pictures)} pictures lie directly in {where}, not in a folder for each class"], _LAYOUT)
    _check_classes(Counter(label for _, label, _ in samples), source)
    return Listing(root, sorted(samples), sorted(ignored))


_LAYOUT = (
    "An image data set is a folder with a folder for each class (cats/1.jpg, dogs/7.jpg), or train/, valid/ and test/ with those in each. "
    f"Pictures end in {', '.join(sorted(PICTURES))}."
)


def _check_classes(counts: Counter[str], source: str) -> None:
    if len(counts) == 1:
        name, count = next(iter(counts.items()))
        raise InvalidSourceError(source, [f"it has one class only: {name} ({count} pictures)"], "Two or more are needed. " + _LAYOUT)
    alone = sorted(name for name, count in counts.items() if count < 2)
    if alone:
        raise InvalidSourceError(
            source,
            [f"class {name!r} has 1 picture" for name in alone],
            "A class needs at least 2, better 3 or more, so that training and testing each get one. Add pictures to it, or remove its folder. "
            f"The classes are: {', '.join(f'{name} {counts[name]}' for name in sorted(counts)[:20])}{' ...' if len(counts) > 20 else ''}.",
        )


def prepare_images(listing: Listing, ratios: Ratios, seed: int, progress: Progress) -> Images:
    """Hash every picture, assign splits, and name the whole by its content."""
    classes = sorted({label for _, label, _ in listing.samples})
    index = {label: i for i, label in enumerate(classes)}
    labels = np.array([index[label] for _, label, _ in listing.samples], np.int32)
    sha256s, states = [], []
    for done, (path, _, _) in enumerate(listing.samples):
        states.append(_state(listing.root / path))
        sha256s.append(hashlib.sha256((listing.root / path).read_bytes()).hexdigest())
        progress("reading", done + 1, len(listing.samples))
    hashes = np.array([int(sha[:16], 16) for sha in sha256s], np.uint64)
    rule: dict[str, Any]
    if listing.samples[0][2] is None:
        splits = assign_splits(hashes, labels, ratios, seed)
        rule = {"seed": seed, "ratios": list(ratios), "stratified_by": "label"}
    else:
        given = np.array([SPLITS.index(split or "") for _, _, split in listing.samples], np.int8)
        splits, made = complete_splits(given, hashes, labels, ratios, seed)
        rule = {"given": True} | ({"made": made, "seed": seed, "ratios": list(ratios), "stratified_by": "label"} if made else {})
    digest = hashlib.sha256(b"atelier image data set 1\n")
    for (path, label, _), sha, split in zip(listing.samples, sha256s, splits, strict=True):
        digest.update(json.dumps([path, sha, label, SPLITS[split]]).encode() + b"\n")
    counts = {
        name: {label: int(n) for label, n in zip(classes, np.bincount(labels[splits == i], minlength=len(classes)), strict=True)}
        for i, name in enumerate(SPLITS)
    }
    return Images(listing, classes, labels, sha256s, states, splits, rule, digest.hexdigest(), counts)


def _state(path: Path) -> tuple[int, int, int]:
    """What changes when a file is written to: cheaper to compare than another digest of its bytes."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def write_images(images: Images, folder: Path, source: str, progress: Progress) -> list[Shard]:
    """Write the shards. Rows lie in an order that is random but fixed, so that each row group has its share of the classes.

    Raises:
        InvalidSourceError: a picture changed since it was hashed.
    """
    num_rows = {split: int((images.splits == i).sum()) for i, split in enumerate(SPLITS)}
    writers = shard_writers(folder, SCHEMA, num_rows, most=GROUP_ROWS, fewest=32, group_bytes=GROUP_BYTES)
    order = sorted(
        range(len(images.sha256s)), key=lambda i: hashlib.sha256(f"{images.sha256s[i]} {images.listing.samples[i][0]}".encode()).digest()
    )
    for done, i in enumerate(order):
        path, split = images.listing.samples[i][0], SPLITS[images.splits[i]]
        data = (images.listing.root / path).read_bytes()
        if _state(images.listing.root / path) != images.states[i]:
            raise InvalidSourceError(source, [f"{path} changed while it was imported"], "Run it again when nobody writes there.")
        row = {"path": [path], "sha256": [images.sha256s[i]], "label": [int(images.labels[i])], "image": [data]}
        writers[split].add(pa.table(row, schema=SCHEMA))
        progress("writing", done + 1, len(order))
    return [shard for writer in writers.values() for shard in writer.close()]

"""Pictures made of pictures, on the workers: changed copies for a new version, and the gallery of a policy."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from PIL import Image

from infra.datasets.images import SCHEMA
from tasks._look import open_here

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from infra.datasets.card import DatasetRef
    from infra.datasets.dataset import Dataset, RowGroup

QUALITY = 95
NUM_SHOWN, NUM_AFTER, SHOWN_EDGE = 6, 5, 128
_LOSSY = ("JPEG", "MPO", "WEBP")


def copies_task(
    uri: str,
    ref: DatasetRef,
    cache: Path,
    groups: Sequence[RowGroup],
    policy: Any,
    names: Mapping[str, Sequence[str]],
    seed: int,
    no_flip: Sequence[str],
) -> pa.Table | None:
    """The copies of the training pictures of some row groups; None if there are none to make."""
    dataset = open_here(uri, ref, cache)
    rows: list[dict[str, Any]] = []
    for group in groups:
        if group.split == "train" and any(path in names for path in dataset.read(group, ["path"]).column("path").to_pylist()):
            table = dataset.read(group, ["path", "label", "image"])
            for path, label, image in zip(*(table.column(name) for name in table.column_names), strict=True):
                if path.as_py() in names:
                    made = _copies(image.as_py(), label.as_py(), names[path.as_py()], policy, dataset.card.classes, seed, no_flip)
                    rows += made
    return pa.Table.from_pylist(rows, schema=SCHEMA) if rows else None


def _copies(
    encoded: bytes, label: int, names: Sequence[str], policy: Any, classes: Sequence[str], seed: int, no_flip: Sequence[str]
) -> Iterator[dict[str, Any]]:
    from algorithms.augmentation.pictures import PictureAugment
    from algorithms.augmentation.policies import parse_policy

    pixels, form = _decode(encoded)
    augment = PictureAugment(parse_policy(policy), classes, pixels.shape[:2], pixels.shape[2], no_flip)
    for name in names:
        with seeded(seed, name):
            changed = _change(augment, pixels[None], [label])[0]
        data = _encode(changed, form)
        yield {"path": name, "sha256": hashlib.sha256(data).hexdigest(), "label": label, "image": data}


@contextmanager
def seeded(seed: int, name: str) -> Iterator[None]:
    """Chance that depends on a seed and a name alone, whoever does what in which order."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:7], "big"))
        yield


def _change(augment: Any, pictures: NDArray[np.uint8], labels: Sequence[int]) -> NDArray[np.uint8]:
    import torch

    found: NDArray[np.uint8] = augment.change(torch.from_numpy(pictures.copy()), torch.tensor(labels)).numpy()
    return found


def _decode(encoded: bytes) -> tuple[NDArray[np.uint8], str]:
    """Pixels uint8 [H, W, 1 or 3], and the file's format."""
    with Image.open(io.BytesIO(encoded)) as picture:
        grey = picture.mode in ("1", "L")
        pixels = np.asarray(picture.convert("L" if grey else "RGB"), dtype=np.uint8)
        return (pixels[:, :, None] if grey else pixels), str(picture.format)


def _encode(pixels: NDArray[np.uint8], form: str) -> bytes:
    target = io.BytesIO()
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    if form in _LOSSY:
        picture.save(target, "WEBP" if form == "WEBP" else "JPEG", quality=QUALITY)
    else:
        picture.save(target, form if form in ("BMP", "GIF", "TIFF", "PPM") else "PNG")
    return target.getvalue()


def gallery_task(
    uri: str, ref: DatasetRef, cache: Path, policy: Any, image_size: int, channels: int, no_flip: Sequence[str], seed: int
) -> dict[str, Any]:
    """A few training pictures, each before and several times after: ``{"steps": [...], "rows": [{"path", "label", "before", "after"}]}``."""
    from algorithms.augmentation.policies import parse_policy

    dataset = open_here(uri, ref, cache)
    steps = parse_policy(policy)
    chosen = _choose(dataset)
    if image_size:
        pictures = [_resized(pixels, image_size, channels) for _, _, pixels in chosen]
    else:
        pictures = [pixels for _, _, pixels in chosen]
    rows = []
    labels = [label for _, label, _ in chosen]
    afters = _afters(steps, pictures, labels, dataset.card.classes, no_flip, seed, alike=bool(image_size))
    for (path, label, _), before, after in zip(chosen, pictures, afters, strict=True):
        rows.append({"path": path, "label": dataset.card.classes[label], "before": _uri(before), "after": [_uri(one) for one in after]})
    told = [step.model_dump(mode="json") for step in steps]
    return {"policy": policy, "steps": told, "no_flip": list(no_flip), "image_size": image_size, "rows": rows}


def _choose(dataset: Dataset) -> list[tuple[str, int, NDArray[np.uint8]]]:
    """One training picture of each of several classes, or several of few; from the first row groups, as chance gives them."""
    found: list[tuple[str, int, NDArray[np.uint8]]] = []
    left = dict.fromkeys(range(len(dataset.card.classes)), -(-NUM_SHOWN // len(dataset.card.classes)))
    for group in dataset.row_groups("train"):
        table = dataset.read(group, ["path", "label", "image"])
        for row, label in enumerate(table.column("label").to_pylist()):
            if left[label] and len(found) < NUM_SHOWN:
                left[label] -= 1
                found.append((table.column("path")[row].as_py(), label, _decode(table.column("image")[row].as_py())[0]))
        if len(found) == NUM_SHOWN or not any(left.values()):
            break
    return sorted(found, key=lambda one: (one[1], one[0]))


def _resized(pixels: NDArray[np.uint8], size: int, channels: int) -> NDArray[np.uint8]:
    import torch

    from algorithms.images.preprocess import resize

    colour = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
    found: NDArray[np.uint8] = resize(torch.from_numpy(colour.copy())[None], size, channels)[0].numpy()
    return found


def _afters(
    steps: Any,
    pictures: Sequence[NDArray[np.uint8]],
    labels: Sequence[int],
    classes: Sequence[str],
    no_flip: Sequence[str],
    seed: int,
    *,
    alike: bool,
) -> list[list[NDArray[np.uint8]]]:
    """Several changed versions of each picture; pictures of one size are one batch, as in training, so that mixing is shown too."""
    import torch

    from algorithms.augmentation.pictures import PictureAugment

    found: list[list[NDArray[np.uint8]]] = [[] for _ in pictures]
    batches = [list(range(len(pictures)))] if alike else [[number] for number in range(len(pictures))]
    for time in range(NUM_AFTER):
        for batch in batches:
            stack = np.stack([pictures[number] for number in batch])
            augment = PictureAugment(steps, classes, stack.shape[1:3], stack.shape[3], no_flip)
            with seeded(seed, f"gallery {time} {batch}"):
                changed = _change(augment, stack, [labels[number] for number in batch])
                mixed, _ = augment.mix(torch.from_numpy(changed).permute(0, 3, 1, 2).float())
            shown = mixed.permute(0, 2, 3, 1).round().clamp(0, 255).to(torch.uint8).numpy()
            for number, pixels in zip(batch, shown, strict=True):
                found[number].append(pixels)
    return found


def _uri(pixels: NDArray[np.uint8]) -> str:
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    small = max(picture.size) <= 64
    picture.thumbnail((SHOWN_EDGE, SHOWN_EDGE))
    target = io.BytesIO()
    picture.save(target, "PNG" if small else "JPEG")
    return f"data:image/{'png' if small else 'jpeg'};base64,{base64.b64encode(target.getvalue()).decode()}"

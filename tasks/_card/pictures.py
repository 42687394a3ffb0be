"""Small pictures of test samples for the card: which ones, and how they are embedded."""

from __future__ import annotations

import base64
import hashlib
import io
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks._card.model import Picture

if TYPE_CHECKING:
    from infra.datasets.dataset import Dataset

MOST_CLASSES = 20
MOST_MISTAKES = 16
_STRIP_EDGE, _MISTAKE_EDGE = 80, 192  # pixels; about twice the size at which they are shown
_SMALL = 64  # pictures up to this edge are kept exactly, as PNG


@dataclass(frozen=True)
class Prediction:
    """A row of ``predictions.parquet``; ``score`` is that of the predicted class."""

    id: str
    label: str
    prediction: str
    score: float


def choose_strip(predictions: Collection[Prediction]) -> list[Prediction]:
    """A few samples of each class, as chance gives them (by the digest of their names, so always the same); up to 20 classes."""
    by_class: dict[str, list[Prediction]] = defaultdict(list)
    for one in predictions:
        by_class[one.label].append(one)
    each = 6 if len(by_class) <= 12 else 4
    shown = sorted(by_class)[:MOST_CLASSES]
    return [one for label in shown for one in sorted(by_class[label], key=lambda p: hashlib.sha256(p.id.encode()).digest())[:each]]


def choose_mistakes(predictions: Collection[Prediction]) -> list[Prediction]:
    """Those about which the model was most sure and wrong, the surest first."""
    wrong = [one for one in predictions if one.label != one.prediction]
    return sorted(wrong, key=lambda p: (-p.score, p.id))[:MOST_MISTAKES]


def embed_pictures(data: Dataset, strip: list[Prediction], mistakes: list[Prediction]) -> tuple[list[Picture], list[Picture]]:
    """Both lists with their pictures, read from the test split: only the row groups that hold one of them, one at a time."""
    encoded = _read(data, {one.id for one in [*strip, *mistakes]})

    def pictures(chosen: list[Prediction], edge: int) -> list[Picture]:
        return [_picture(one, encoded[one.id], edge) for one in chosen if one.id in encoded]

    return pictures(strip, _STRIP_EDGE), pictures(mistakes, _MISTAKE_EDGE)


def _read(data: Dataset, wanted: set[str]) -> Mapping[str, bytes]:
    found: dict[str, bytes] = {}
    for row_group in data.row_groups("test"):
        if len(found) == len(wanted):
            break
        paths = data.read(row_group, ["path"])["path"].to_pylist()
        rows = [i for i, path in enumerate(paths) if path in wanted]
        if rows:
            images = data.read(row_group, ["image"])["image"].take(rows).to_pylist()
            found.update(zip((paths[i] for i in rows), images, strict=True))
    return found


def _picture(prediction: Prediction, encoded: bytes, edge: int) -> Picture:
    from PIL import Image

    with Image.open(io.BytesIO(encoded)) as opened:
        image = opened.convert("L" if opened.mode in ("1", "L") else "RGB")
    exact = max(image.size) <= _SMALL
    if not exact:
        image.thumbnail((edge, edge))
    target = io.BytesIO()
    if exact:
        image.save(target, "PNG", optimize=True)
    else:
        image.save(target, "JPEG", quality=80)
    kind = "png" if exact else "jpeg"
    uri = f"data:image/{kind};base64,{base64.b64encode(target.getvalue()).decode()}"
    score = min(max(prediction.score, 0.0), 1.0)
    return Picture(
        id=prediction.id,
        uri=uri,
        width=image.width,
        height=image.height,
        label=prediction.label,
        prediction=prediction.prediction,
        score=score,
    )

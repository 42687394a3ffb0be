"""Pictures that look the same: found by a perceptual hash in much less than all pairs, grouped, and told by what makes them a problem.

The hash is dHash (Krawetz, "Kind of Like That", 2013): 64 bits that say of a thumbnail of 9 x 8 pixels which of two neighbours is brighter. Two
hashes that differ in d bits agree wholly in one of d + 1 bands, so that only pictures that share a band are compared (multi-index hashing, Norouzi
et al., arXiv 1307.2982). What the hashes propose, the thumbnails have to confirm.
"""

from __future__ import annotations

import base64
import io
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    import pandas as pd

THUMB_WIDTH, THUMB_HEIGHT = 9, 8
MANY = 200_000  # pictures from which on fewer bits may differ, so that the search stays short
MOST_BITS, MOST_BITS_OF_MANY = 5, 3
MOST_NEIGHBOURS = 400  # pictures with one band in common that each is compared with, at most
FLATTEST = 4.0  # standard deviation of a thumbnail below which there is nothing to recognise
MOST_APART = 4.0  # mean difference of two thumbnails, 0 to 255, after their brightness is made equal
MOST_BRIGHTER = 24.0
MOST_GROUPS, MOST_SHOWN, MOST_IN_GROUP, EDGE = 200, 12, 4, 96


def make_thumb(grey: Image.Image) -> bytes:
    """The 72 grey pixels of a picture of mode L, row by row."""
    return grey.resize((THUMB_WIDTH, THUMB_HEIGHT), Image.Resampling.BOX).tobytes()


def hash_thumbs(thumbs: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """dHash of thumbnails [N, 8, 9]: [N]."""
    bits = thumbs[:, :, 1:] > thumbs[:, :, :-1]
    return np.packbits(bits.reshape(len(thumbs), 64), axis=1).view(">u8").ravel().astype(np.uint64)


def find_pairs(thumbs: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Pairs of thumbnails [N, 8, 9] that show the same: int64 [P, 2], the smaller number first, sorted."""
    if len(thumbs) < 2:
        return np.zeros((0, 2), np.int64)
    most = MOST_BITS if len(thumbs) <= MANY else MOST_BITS_OF_MANY
    hashes = hash_thumbs(thumbs)
    usable = np.flatnonzero(thumbs.reshape(len(thumbs), -1).std(axis=1) >= FLATTEST)
    found = [pair for band in _bands(most) for pair in _in_band(hashes, usable, band, most)]
    pairs = np.unique(np.concatenate([np.zeros((0, 2), np.int64), *found]), axis=0)
    return pairs[_look_alike(thumbs, pairs)]


def _bands(most: int) -> list[np.uint64]:
    """Masks that part 64 bits into ``most + 1`` bands."""
    edges = np.linspace(0, 64, most + 2).round().astype(int)
    return [np.uint64(((1 << int(last - first)) - 1) << int(first)) for first, last in itertools.pairwise(edges)]


def _in_band(hashes: NDArray[np.uint64], usable: NDArray[np.int64], band: np.uint64, most: int) -> Iterable[NDArray[np.int64]]:
    """Pairs whose hashes agree in a band and differ in ``most`` bits elsewhere: neighbours in the order of the band, 1, 2, 3, ... places apart."""
    order = usable[np.lexsort((hashes[usable], hashes[usable] & band))]
    keys = hashes[order] & band
    places = np.arange(len(order))
    for apart in range(1, MOST_NEIGHBOURS + 1):
        places = places[places + apart < len(order)]
        places = places[keys[places] == keys[places + apart]]
        if not len(places):
            return
        one, other = order[places], order[places + apart]
        near = np.bitwise_count(hashes[one] ^ hashes[other]) <= most
        yield np.sort(np.stack([one[near], other[near]], axis=1), axis=1)


def _look_alike(thumbs: NDArray[np.uint8], pairs: NDArray[np.int64]) -> NDArray[np.bool_]:
    apart = thumbs[pairs[:, 0]].astype(np.float32) - thumbs[pairs[:, 1]].astype(np.float32)
    brighter = apart.mean(axis=(1, 2))
    found: NDArray[np.bool_] = (np.abs(apart - brighter[:, None, None]).mean(axis=(1, 2)) <= MOST_APART) & (
        np.abs(brighter) <= MOST_BRIGHTER
    )
    return found


def group_pairs(pairs: NDArray[np.int64]) -> list[list[int]]:
    """Numbers that are connected by pairs, each group sorted, in the order of their first members."""
    leader: dict[int, int] = {}

    def find(number: int) -> int:
        while leader.setdefault(number, number) != number:
            leader[number] = leader[leader[number]]
            number = leader[number]
        return number

    for one, other in pairs.tolist():
        first, second = sorted((find(one), find(other)))
        leader[second] = first
    groups: dict[int, list[int]] = defaultdict(list)
    for number in sorted(leader):
        groups[find(number)].append(number)
    return sorted(groups.values())


def describe_duplicates(frame: pd.DataFrame, thumbs: Sequence[bytes | None]) -> dict[str, Any]:
    """What pictures look the same, the most harmful first.

    Args:
        frame: the picture profile, a row each.
        thumbs: of each picture, None if it cannot be decoded.

    Returns:
        ``num_groups``, ``num_pictures``, ``num_conflicts`` (groups with several labels), ``num_across_splits``, and ``groups``: each with its ``kind``
        (``labels``, ``splits`` or ``copies``), whether it is ``exact``, and its ``pictures`` (path, split, label); the first ``MOST_GROUPS``.
    """
    places = np.array([place for place, thumb in enumerate(thumbs) if thumb is not None], np.int64)
    pixels = np.frombuffer(b"".join(thumb for thumb in thumbs if thumb is not None), np.uint8).reshape(-1, THUMB_HEIGHT, THUMB_WIDTH)
    groups = [[int(places[number]) for number in group] for group in group_pairs(find_pairs(pixels))]
    rows = {name: frame[name].tolist() for name in ("path", "split", "label", "sha256")}
    told = [_group(group, rows) for group in groups]
    order = {"labels": 0, "splits": 1, "copies": 2}
    told.sort(key=lambda group: (order[group["kind"]], group["pictures"][0]["path"]))
    return {
        "num_groups": len(told),
        "num_pictures": sum(group["num_pictures"] for group in told),
        "num_conflicts": sum(group["kind"] == "labels" for group in told),
        "num_across_splits": sum(len({one["split"] for one in group["pictures"]}) > 1 for group in told),
        "groups": told[:MOST_GROUPS],
    }


def _group(group: Sequence[int], rows: Mapping[str, list[Any]]) -> dict[str, Any]:
    labels, splits = {rows["label"][i] for i in group}, {rows["split"][i] for i in group}
    # One of each label and split first: they are what is to be seen.
    seen: set[Any] = set()
    first = [i for i in group if not ((rows["label"][i], rows["split"][i]) in seen or seen.add((rows["label"][i], rows["split"][i])))]  # type: ignore[func-returns-value]
    ordered = [*first, *(i for i in group if i not in set(first))][: max(20, len(first))]
    return {
        "kind": "labels" if len(labels) > 1 else "splits" if len(splits) > 1 else "copies",
        "exact": len({rows["sha256"][i] for i in group}) == 1,
        "num_pictures": len(group),
        "pictures": [{"path": rows["path"][i], "split": rows["split"][i], "label": rows["label"][i]} for i in ordered],
    }


def duplicate_warnings(found: Mapping[str, Any]) -> list[str]:
    """What a person should know about them, in sentences."""
    told = []
    for kind, sentence in (
        ("labels", "{} of pictures look the same under different labels: {}"),
        ("splits", "{} of pictures look the same in different splits, which makes the test look better than it is: {}"),
    ):
        groups = [group for group in found["groups"] if group["kind"] == kind and not group["exact"]]
        if groups:
            shown = "; ".join(" and ".join(one["path"] for one in group["pictures"][:2]) for group in groups[:3])
            told.append(sentence.format(f"{len(groups)} group{'s' if len(groups) > 1 else ''}", shown))
    return told


def show_pictures(found: dict[str, Any], read: Callable[[set[str]], Mapping[str, bytes]]) -> None:
    """Add small pictures (``uri``) to the first groups."""
    shown = [one for group in found["groups"][:MOST_SHOWN] for one in group["pictures"][:MOST_IN_GROUP]]
    encoded = read({one["path"] for one in shown})
    for one in shown:
        one["uri"] = embed(encoded[one["path"]], EDGE)


def embed(encoded: bytes, edge: int) -> str:
    """A picture that can be decoded as a small data URI: PNG if it is small anyway, else JPEG."""
    with Image.open(io.BytesIO(encoded)) as opened:
        image = opened.convert("L" if opened.mode in ("1", "L") else "RGB")
    kind = "PNG" if max(image.size) <= edge else "JPEG"
    image.thumbnail((edge, edge))
    target = io.BytesIO()
    image.save(target, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(target.getvalue()).decode()}"

"""Pictures that look the same: found, and not found where there are none."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from tasks._card.duplicates import duplicates_section
from tasks._near_duplicates import (
    MANY,
    describe_duplicates,
    duplicate_warnings,
    find_pairs,
    group_pairs,
    hash_thumbs,
    make_thumb,
    show_pictures,
)  # fmt: skip
from tasks._pictures import measure_pictures


def scene(seed: int, size: int = 160) -> Image.Image:
    """A picture with large shapes, as photographs have."""
    random = np.random.default_rng(seed)
    return Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((size, size), Image.Resampling.BICUBIC)


def encode(picture: Image.Image, form: str = "PNG", **more: Any) -> bytes:
    target = io.BytesIO()
    picture.save(target, form, **more)
    return target.getvalue()


def thumbs(encoded: list[bytes]) -> list[bytes]:
    return measure_pictures(encoded)["thumb"]


def frame(names: list[tuple[str, str, str]]) -> pd.DataFrame:
    return pd.DataFrame([{"path": path, "split": split, "label": label, "sha256": f"{i}"} for i, (path, split, label) in enumerate(names)])


def stack(found: list[bytes]) -> np.ndarray[Any, Any]:
    return np.frombuffer(b"".join(found), np.uint8).reshape(-1, 8, 9)


def test_the_hash_says_which_of_two_neighbours_is_brighter() -> None:
    ramp = np.tile(np.arange(0, 90, 10, dtype=np.uint8), (8, 1))
    assert hash_thumbs(ramp[None]).tolist() == [2**64 - 1]
    assert hash_thumbs(ramp[None, :, ::-1]).tolist() == [0]


def test_a_picture_is_known_again_encoded_resized_brightened_and_a_little_cropped() -> None:
    original = scene(1, 320)
    others = [scene(seed) for seed in range(2, 60)]
    variants = [
        encode(original, "JPEG", quality=60),
        encode(original.resize((200, 200))),
        encode(original.point(lambda value: min(value + 12, 255))),
        encode(original.crop((2, 2, 318, 318)), "JPEG"),
        encode(original.convert("L")),
    ]
    pairs = find_pairs(stack(thumbs([encode(original), *variants, *map(encode, others)])))
    assert {tuple(pair) for pair in pairs.tolist() if pair[0] == 0} == {(0, 1), (0, 2), (0, 3), (0, 4), (0, 5)}
    assert pairs.max() <= 5, "different pictures are not the same"


def test_all_pairs_that_a_comparison_of_each_with_each_finds_are_found() -> None:
    random = np.random.default_rng(5)
    base = random.integers(40, 200, (60, 8, 9)).astype(np.int64)
    noisy = base[random.integers(0, 60, 400)] + random.integers(-2, 3, (400, 8, 9))
    given = noisy.astype(np.uint8)
    found = {tuple(pair) for pair in find_pairs(given).tolist()}
    hashes = hash_thumbs(given)
    wanted = set()
    for one in range(400):
        for other in range(one + 1, 400):
            apart = given[one].astype(float) - given[other]
            alike = abs(apart - apart.mean()).mean() <= 4 and abs(apart.mean()) <= 24
            if alike and int(hashes[one] ^ hashes[other]).bit_count() <= 5:
                wanted.add((one, other))
    assert len(wanted) > 500
    assert found == wanted


def test_many_pictures_are_searched_quickly_and_flat_ones_left_out() -> None:
    random = np.random.default_rng(1)
    given = random.integers(0, 256, (MANY // 4, 8, 9), dtype=np.uint8)
    given[:20_000] = 128
    given[-1] = given[-2]
    assert find_pairs(given).tolist() == [[MANY // 4 - 2, MANY // 4 - 1]]


def test_the_digits_are_small_and_alike_but_not_the_same(digits_folder: Path) -> None:
    encoded = [path.read_bytes() for path in sorted(digits_folder.glob("*/*.png"))]
    assert len(find_pairs(stack(thumbs(encoded)))) == 0


def test_groups_are_what_is_connected() -> None:
    assert group_pairs(np.array([[4, 9], [0, 2], [2, 7], [9, 11]])) == [[0, 2, 7], [4, 9, 11]]
    assert group_pairs(np.zeros((0, 2), np.int64)) == []


def test_conflicts_come_first_and_are_told_and_shown() -> None:
    one, other, third = scene(1), scene(2), scene(3)
    encoded = {
        "cat/a.png": encode(one), "cat/b.jpg": encode(one, "JPEG"), "cat/c.png": encode(other), "dog/d.jpg": encode(other, "JPEG"),
        "dog/e.png": encode(third), "dog/f.jpg": encode(third, "JPEG"), "dog/g.png": encode(scene(4)),
    }  # fmt: skip
    names = [(path, "test" if path == "dog/f.jpg" else "train", path.split("/")[0]) for path in encoded]
    found = describe_duplicates(frame(names), [*thumbs(list(encoded.values()))])
    assert [group["kind"] for group in found["groups"]] == ["labels", "splits", "copies"]
    assert (found["num_groups"], found["num_pictures"], found["num_conflicts"], found["num_across_splits"]) == (3, 6, 1, 1)
    warned = duplicate_warnings(found)
    assert warned[0] == "1 group of pictures look the same under different labels: cat/c.png and dog/d.jpg"
    assert "dog/e.png and dog/f.jpg" in warned[1]
    show_pictures(found, lambda paths: {path: encoded[path] for path in paths})
    html = str(duplicates_section(found))
    assert html.count("<img") == 6
    assert "cat/c.png" in html
    assert "http" not in html
    assert html.index("dog/d.jpg") < html.index("dog/f.jpg") < html.index("cat/b.jpg")


def test_what_cannot_be_decoded_is_nobodys_copy() -> None:
    found = describe_duplicates(frame([("a/1", "train", "a"), ("b/2", "train", "b")]), [None, None])
    assert found["groups"] == []
    assert str(duplicates_section(found)) == ""


def test_a_thumbnail_has_72_pixels() -> None:
    assert len(make_thumb(Image.new("L", (64, 30)))) == 72

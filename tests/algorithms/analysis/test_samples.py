"""What is found out about samples: wrong labels, weak slices, properties of pictures, disturbed input."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy.stats import fisher_exact

from algorithms.analysis.label_errors import find_label_errors
from algorithms.analysis.properties import measure
from algorithms.analysis.robustness import PICTURE_LEVELS, disturb_picture, disturb_rows
from algorithms.analysis.scored import choose
from algorithms.analysis.slices import cut, judge_slices, judge_slices_of_numbers, p_lower


def test_planted_wrong_labels_are_found_first() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 400)
    scores = 0.85 * np.eye(4)[truth] + 0.15 * rng.dirichlet(np.ones(4), 400)
    labels = truth.copy()
    wrong = rng.permutation(400)[:20]
    labels[wrong] = (truth[wrong] + 1) % 4
    found = find_label_errors(labels, scores)
    assert {index for index, _, _ in found} <= set(wrong.tolist())
    assert len(found) >= 18
    assert all(likely == truth[index] for index, likely, _ in found)
    margins = [margin for _, _, margin in found]
    assert margins == sorted(margins, reverse=True)
    assert find_label_errors(truth, scores) == []


def test_a_class_without_labels_is_not_suggested() -> None:
    assert find_label_errors(np.zeros(10, np.int64), np.tile([0.2, 0.8], (10, 1))) == []


def test_the_slice_that_was_made_worse_is_the_one_that_is_told() -> None:
    rng = np.random.default_rng(0)
    age, site = rng.uniform(20, 80, 800), rng.choice(["north", "south", ""], 800).astype(object)
    hits = rng.random(800) < np.where(site == "south", 0.6, 0.95)
    columns = {"age": age, "site": site, "constant": np.ones(800), "name": np.array([f"n{i}" for i in range(800)], dtype=object)}
    found = judge_slices(list(cut(columns)), hits)
    assert {entry["column"] for entry in found} == {"age", "site"}
    assert sum(entry["column"] == "age" for entry in found) == 4
    assert {entry["value"] for entry in found if entry["column"] == "site"} == {"north", "south", "missing"}
    worse = [(entry["column"], entry["value"]) for entry in found if entry["worse"]]
    assert worse == [("site", "south")]
    assert found[0]["figure"] == pytest.approx(hits[site == "south"].mean())
    assert found[0]["rest"] == pytest.approx(hits[site != "south"].mean())


@pytest.mark.parametrize(
    ("right", "count", "other_right", "other_count"), [(3, 10, 9, 10), (0, 5, 90, 100), (10, 10, 20, 20), (300, 400, 900, 1000)]
)
def test_the_probability_is_that_of_fishers_test(right: int, count: int, other_right: int, other_count: int) -> None:
    table = [[right, count - right], [other_right, other_count - other_right]]
    expected = fisher_exact(table, alternative="less").pvalue
    assert p_lower(right, count, other_right, other_count) == pytest.approx(expected, rel=1e-6)


def test_chance_alone_makes_no_slice_worse() -> None:
    rng = np.random.default_rng(1)
    told = 0
    for _ in range(20):
        columns = {f"c{i}": rng.normal(size=300) for i in range(5)}
        told += any(entry["worse"] for entry in judge_slices(list(cut(columns)), rng.random(300) < 0.8))
    assert told <= 3


def test_slices_of_numbers_have_errors() -> None:
    rng = np.random.default_rng(0)
    kind = np.array(["a", "b"] * 200, dtype=object)
    errors = rng.normal(0, np.where(kind == "b", 5.0, 1.0))
    numbers = np.where(np.arange(400) % 8 == 0, np.nan, np.arange(400) % 3).astype(np.float64)
    found = judge_slices_of_numbers(list(cut({"kind": kind, "size": numbers})), errors)
    assert (found[0]["column"], found[0]["value"], found[0]["worse"]) == ("kind", "b", True)
    assert found[0]["low"] < 5 < found[0]["high"]
    assert {entry["value"] for entry in found if entry["column"] == "size"} == {"missing", "0", "1", "2"}


def test_properties_tell_a_sharp_bright_picture_from_a_dark_blurred_one() -> None:
    rng = np.random.default_rng(0)
    sharp = rng.integers(100, 255, (80, 120, 3)).astype(np.uint8)
    blurred = np.asarray(Image.fromarray(sharp // 4).filter(ImageFilter.GaussianBlur(3)))
    one, other = measure(sharp), measure(blurred)
    assert one["brightness"] > 3 * other["brightness"]
    assert one["sharpness"] > 20 * other["sharpness"]
    assert one["aspect"] == 1.5
    assert one["size"] == pytest.approx(np.sqrt(9600))
    large = measure(np.kron(sharp, np.ones((8, 8, 1), np.uint8)))
    assert large["brightness"] == pytest.approx(one["brightness"], rel=0.01)


@pytest.mark.parametrize("kind", list(PICTURE_LEVELS))
def test_a_stronger_disturbance_changes_a_picture_more_and_the_seed_decides(kind: str) -> None:
    pixels = np.zeros((32, 40, 3), np.uint8)
    pixels[8:20, 10:25] = 200
    changes = []
    for level in PICTURE_LEVELS[kind]:
        found = disturb_picture(kind, level, pixels, [1, 2])
        assert found.shape == pixels.shape
        assert found.dtype == np.uint8
        assert (found == disturb_picture(kind, level, pixels, [1, 2])).all()
        changes.append(np.abs(found.astype(float) - pixels).mean())
    assert 0 < changes[0] < changes[1] < changes[2]


def test_rows_get_noise_and_gaps() -> None:
    rows = {"x": np.arange(1000, dtype=np.float32), "flag": np.ones(1000, np.float32), "kind": np.array(["a"] * 1000, dtype=object)}
    noisy = disturb_rows("noise", 0.1, rows, ["x"], seed=0)
    assert (noisy["x"] - rows["x"]).std() == pytest.approx(0.1 * rows["x"].std(), rel=0.1)
    assert (noisy["flag"] == 1).all()
    gaps = disturb_rows("missing", 0.2, rows, ["x"], seed=0)
    assert np.isnan(gaps["x"]).mean() == pytest.approx(0.2, abs=0.05)
    assert (gaps["kind"] == "").mean() == pytest.approx(0.2, abs=0.05)
    assert gaps["x"].dtype == np.float32
    assert gaps["kind"].dtype == object


def test_samples_are_chosen_by_the_seed() -> None:
    assert choose(5, 10, 0).tolist() == [0, 1, 2, 3, 4]
    some = choose(1000, 10, 0)
    assert len(set(some.tolist())) == 10
    assert (np.diff(some) > 0).all()
    assert (some == choose(1000, 10, 0)).all()
    assert (some != choose(1000, 10, 1)).any()

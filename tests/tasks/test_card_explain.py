"""The card's section about a model in depth: complete, escaped, and quiet about what is not there."""

from __future__ import annotations

import copy
import io
import re
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest
from PIL import Image

from algorithms.analysis.calibration import expected_calibration_error, reliability
from algorithms.analysis.curves import choose_thresholds, class_curves
from tasks._card.explain import advice_finding, advice_list, explain_finding, explain_section
from tasks._card.explain_charts import Row, interval_rows

NASTY = '<b>"cat" & co</b>'


def picture(name: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (96, 96), (90, 90, 90)).save(file, "PNG" if name.endswith(".png") else "JPEG")
    return file.getvalue()


def figures(classes: int = 2, **more: Any) -> dict[str, Any]:
    """As the verb leaves them, of made-up scores."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, classes, 300)
    scores = rng.dirichlet(np.ones(classes), 300) * 0.4 + 0.6 * np.eye(classes)[np.where(rng.random(300) < 0.8, truth, 0)]
    bins = reliability(truth, scores)
    names = [NASTY, *[f"class {index}" for index in range(1, classes)]]
    one = {"id": f"{NASTY}/1.png", "split": "test", "index": 1, "picture": "pictures/test-1.png"}
    shot = {**one, "saliency": "pictures/test-1-saliency.png"}
    told = {"label": NASTY, "prediction": "class 1", "score": 0.9, "label_score": 0.1}
    fitted = {"kept": True, "temperature": 1.5, "num_samples": 100}
    calibration = {"bins": bins, "ece": expected_calibration_error(bins), "bins_without": bins, "ece_without": 0.3, "fitted": fitted}
    return {
        "metric": {"name": "accuracy", "higher_is_better": True},
        "classes": names,
        "samples": {"test": {"used": 300, "total": 9000, "seed": 4}, "valid": {"used": 200, "total": 200, "seed": 4}},
        "intervals": {"accuracy": {"value": 0.8, "low": 0.75, "high": 0.85}},
        "calibration": calibration,
        "curves": class_curves(truth, scores, names),
        "thresholds": choose_thresholds((truth, scores), (truth, scores)) if classes == 2 else [],
        "slices": [{"column": NASTY, "value": "north", "count": 30, "figure": 0.6, "low": 0.4, "high": 0.7, "rest": 0.9, "worse": True}],
        "robustness": [{"kind": "blur", "level": 0.1, "unit": "of the side", "figure": 0.7, "low": 0.6, "high": 0.8, "undisturbed": 0.8}],
        "importance": {
            "permutation": [{"column": "age", "mean": 0.3, "std": 0.1}, {"column": NASTY, "mean": -0.1, "std": 0.1}],
            "shap": [],
        },
        "saliency": {"method": "Grad-CAM", "layer": "7.2", "right": [{**shot, **told, "prediction": NASTY}]},
        "worst": [{**shot, **told}],
        "label_errors": {"count": 1, "looked_at": 500, "samples": [{**one, "label": NASTY, "suggestion": "class 1", "margin": 0.5}]},
        "advice": [{"rule": "weak-slice", "severity": "warning", "text": f"Weaker: {NASTY}."}],
        **more,
    }


@pytest.mark.parametrize("classes", [2, 5, 15])
def test_the_section_is_well_formed_and_escaped(classes: int) -> None:
    html = explain_section(figures(classes), picture)
    ET.fromstring("<div>" + re.sub(r"<(br|img [^>]*)>", r"<\1/>", html) + "</div>")
    assert "<b>" not in html
    assert html.count("<svg") == html.count("</svg>") >= 6
    for name in ("Scores", "Slices", "Where the network looks", "Hardest samples", "Labels that look wrong", "columns matter"):
        assert name in html
    assert ("Choice of a threshold" in html) == (classes == 2)
    assert "300 of 9,000 samples of the test split, chosen by seed 4" in html
    assert "200 of 200" not in html
    assert "temperature of 1.5 inside the package" in html
    assert html.count("data:image/png;base64,") == 5
    assert 'src="http' not in html


def test_what_is_not_there_is_left_out() -> None:
    empty: dict[str, Any] = {
        "slices": [],
        "robustness": [],
        "importance": {},
        "saliency": {},
        "worst": [],
        "label_errors": {},
        "advice": [],
        "thresholds": [],
    }
    html = explain_section(figures(**empty), picture)
    assert advice_list([]) == '<p class="note">No rule had anything to say.</p>'
    for name in (
        "Slices",
        "disturbed",
        "columns matter",
        "Where the network looks",
        "Hardest samples",
        "Labels that look wrong",
        "threshold for",
    ):
        assert name not in html


def test_a_table_of_numbers_has_rows_instead_of_pictures() -> None:
    found = figures(classes=3)
    for name in ("calibration", "curves", "saliency", "label_errors", "thresholds"):
        del found[name]
    found |= {
        "classes": [],
        "metric": {"name": "rmse", "higher_is_better": False},
        "intervals": {"rmse": {"value": 2.0, "low": 1.8, "high": 2.3}},
    }
    found["worst"] = [{"id": "17", "label": 4.0, "prediction": 9.25, "values": {"age": "3", NASTY: ""}}]
    html = explain_section(found, picture)
    assert "largest errors" in html
    assert "9.2500" in html
    assert "root mean squared error grows" in html
    assert "<b>" not in html


@pytest.mark.parametrize(
    ("fitted", "words"),
    [
        ({}, "no temperature was fitted"),
        ({"kept": False, "num_samples": 90}, "did not help"),
        ({"kept": True, "temperature": 2.0, "num_samples": 9}, "2 inside"),
    ],
)
def test_the_calibration_is_told_in_words(fitted: dict[str, Any], words: str) -> None:
    found = copy.deepcopy(figures())
    found["calibration"]["fitted"] = fitted
    assert words in explain_section(found, picture)


def test_advice_and_finding_in_words() -> None:
    html = advice_list([{"rule": "a", "severity": "warning", "text": "One."}, {"rule": "b", "severity": "info", "text": "Two."}])
    assert html.index("One.") < html.index("Two.")
    assert html.count("<li>") == 2
    assert explain_finding(figures()) == "Accuracy between 0.7500 and 0.8500 (95 %)."
    assert explain_finding(figures(intervals={})) == ""
    assert advice_finding([{"severity": "warning"}, {"severity": "info"}, {"severity": "info"}]) == "1 warning, 2 hints."
    assert advice_finding([]) == "No warning."


def test_rows_with_intervals_are_drawn_where_they_belong() -> None:
    rows = [Row("a", "10 samples", 0.5, 0.4, 0.6), Row("b", "", 0.9, 0.8, 1.0, marked=True)]
    root = ET.fromstring(interval_rows("x", "Title", rows, mark=(0.7, "all")))
    dots = [(float(one.attrib["cx"]), one.attrib["class"]) for one in root.iter("circle")]
    assert dots[0][0] < dots[1][0]
    assert [css for _, css in dots] == ["point s1", "point s2"]
    (mark,) = [float(one.attrib["x1"]) for one in root.iter("line") if one.attrib["class"] == "ideal"]
    assert dots[0][0] < mark < dots[1][0]
    assert interval_rows("x", "Title", []) == ""

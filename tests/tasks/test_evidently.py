"""Evidently's page of what was served: the distances of the verdict, and nothing that a request wrote is run by it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tasks._evidently import MOST_COLUMNS, Sample, distance, report
from tests.browser import CHROMIUM, open_page

EVIL = "</script><script>document.title = 'owned'</script>"


def numbers(seed: int, mean: float) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 1.0, 600)


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return [
        Sample("weight", "number", numbers(1, 1.0), numbers(2, 0.0)),
        Sample(f"colour {EVIL}", "class", ["red", EVIL] * 50, ["red"] * 40),
    ]


@pytest.fixture(scope="module")
def page(samples: list[Sample]) -> str:
    return report(samples, [0.1, 0.1])


def test_the_page_loads_nothing(page: str) -> None:
    assert not re.findall(r"""<(?:script|link|img|iframe)[^>]{0,300}(?:src|href)=["']?http""", page)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_page_shows_the_distances_and_runs_no_script_of_a_request(page: str, samples: list[Sample], tmp_path: Path) -> None:
    path = tmp_path / "evidently.html"
    path.write_text(page, encoding="utf-8")
    shown = ["weight", *(str(distance(one))[:4] for one in samples)]
    with open_page(path.as_uri(), tmp_path) as opened:
        text = opened.wait_for(*shown)
    assert [one for one in shown if one not in text] == []
    title = re.findall("<title>([^<]*)</title>", text)
    assert "owned" not in title


def test_the_page_holds_the_first_columns_of_many() -> None:
    text = report(
        [Sample(f"column{index}end", "number", numbers(index, 0.0), numbers(99, 0.0)) for index in range(MOST_COLUMNS + 2)], [0.1]
    )
    assert f"column{MOST_COLUMNS - 1}end" in text
    assert f"column{MOST_COLUMNS}end" not in text

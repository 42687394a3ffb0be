"""The run card: pure rendering, escaping, size, charts; and that it looks like something in a real browser."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError

from algorithms.metrics import classification_metrics
from tasks._card import bars, curves, findings, matrix, svg, words
from tasks._card.compression import compression_section
from tasks._card.model import (
    CardData,
    ClassScore,
    DataPart,
    EvaluationPart,
    ExpectationRow,
    FileRow,
    Option,
    PackagePart,
    Picture,
    Port,
    Quarantined,
    Section,
    StageRow,
    TrainingPart,
    ValidationPart,
)
from tasks._card.render import render_card, summary_markdown
from tests.browser import CHROMIUM, chromium
from tests.tasks.test_compression_card import TABLE, row

SECTIONS = ["data", "validation", "training", "evaluation", "package", "environment", "stages", "reproduce"]
OUTSIDE = re.compile(
    r"""(?:src|href|action|data)\s*=\s*["']?\s*(?:[a-z]+:)?//|url\(\s*["']?(?!data:)|@import|<script|<link|<iframe|\son\w+\s*=""",
    re.IGNORECASE,
)


def picture(label: str, prediction: str, name: str = "0/a.png") -> Picture:
    file = io.BytesIO()
    Image.new("L", (8, 8), 90).save(file, "PNG")
    uri = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return Picture(id=name, uri=uri, width=8, height=8, label=label, prediction=prediction, score=0.9)


def evaluation(classes: list[str], **more: Any) -> EvaluationPart:
    """Each class has three samples, of which one is taken for the next class."""
    n = len(classes)
    truth = [i for i in range(n) for _ in range(3)]
    said = [(i + (k == 2)) % n for i in range(n) for k in range(3)]
    scores = [[0.9 if c == s else 0.1 / max(n - 1, 1) for c in range(n)] for s in said]
    metrics = classification_metrics(truth, scores, classes)
    figures = {key: value for key, value in metrics.items() if isinstance(value, float)}
    per_class = [ClassScore(name=name, **{k: v for k, v in found.items() if k != "auc"}) for name, found in metrics["per_class"].items()]
    return EvaluationPart(
        package=figures,
        baseline=figures,
        num_samples=3 * n,
        classes=classes,
        confusion=metrics["confusion_matrix"],
        per_class=per_class,
        **more,
    )


def minimal(**more: Any) -> CardData:
    data = DataPart(name="digits", digest="ab" * 32, kind="image", source="data/digits", num_rows={"train": 7, "test": 3})
    return CardData(
        **{
            "run_key": "k",
            "model": "digits",
            "algorithm": "x/y",
            "metric": "accuracy",
            "data": data,
            "evaluation": EvaluationPart(),
            **more,
        }
    )


def full(classes: list[str] | None = None, **more: Any) -> CardData:
    classes = ["cat", "dog", "owl"] if classes is None else classes
    data = DataPart(
        name="pets",
        digest="ab" * 32,
        kind="image",
        source="data/pets",
        source_digest="cd" * 32,
        num_rows={"train": 70, "valid": 15, "test": 15},
        classes=classes,
        counts={split: {name: k + i for i, name in enumerate(classes)} for split, k in (("train", 40), ("valid", 8), ("test", 9))},
        num_quarantined=1,
        quarantined=[Quarantined(id="cat/broken.png", reasons=["cannot be decoded"])],
        lineage=["Import of data/pets: cdcdcdcdcdcd", "Quarantine of cdcdcdcdcdcd: abababababab"],
        pictures=[picture(name, classes[0], f"{name}/1.png") for name in classes[:20]],
    )
    epochs = [
        {"epoch": e, "train_loss": 2.0 / e**2, "valid_loss": 2.1 / e, "valid_accuracy": 1 - 0.5 / e, "learning_rate": 0.1 / e}
        for e in range(1, 9)
    ]
    options = [
        Option(name="epochs", value=8, default=20, description="Passes over the data."),
        Option(name="optimizer", value="sgd", default="sgd"),
    ]
    rows = [
        ExpectationRow(status="passed", expectation="to be true", subject="decodable"),
        ExpectationRow(status="warned", expectation="few duplicates"),
    ]
    return CardData(
        **{
            "run_key": "0123",
            "model": "pets",
            "version": 4,
            "decision": "champion",
            "reason": "the first version",
            "algorithm": "image-classification/small-cnn",
            "metric": "accuracy",
            "started": "2026-11-20T16:40:12+00:00",
            "data": data,
            "validation": ValidationPart(
                expectations=rows, num_samples=101, num_invalid=1, docs="../../validations/x/data_docs/index.html"
            ),
            "training": TrainingPart(epochs=epochs, best_epoch=8, metric="accuracy", world_size=2, precision="bf16", options=options),
            "evaluation": evaluation(classes, mistakes=[picture(classes[0], classes[1])], num_mistakes=3),
            "package": PackagePart(
                files=[FileRow(name="model.onnx", num_bytes=1_234_567, sha256="ef" * 32)],
                inputs=[Port(name="image", type="tensor(uint8)", shape="N × H × W × 3")],
                outputs=[Port(name="scores", type="tensor(float)", shape="N × 3")],
                parity=2e-7,
                opset=18,
            ),
            "environment": {"python": "3.11", "git commit": "0123abcd"},
            "stages": [StageRow(name="import", state="cached", seconds=0.1), StageRow(name="train", state="completed", seconds=31.0)],
            "command": "atelier run image-classification/small-cnn --data data/pets",
            **more,
        }
    )


def with_a_wide_table() -> CardData:
    rows = [
        row(name, "chosen" if name == "prune-50-int8" else "over budget", 1 - place / 100)
        for place, name in enumerate(("fp32", "int8", "prune-50", "prune-50-int8"))
    ]
    section = {"id": "compression", "title": "Compression", "body": compression_section({**TABLE, "rows": rows})}
    return full(sections=[Section(after="evaluation", **section)])


def regression() -> CardData:
    points = [(float(i), i + (-1) ** i * i / 9) for i in range(60)]
    part = EvaluationPart(package={"rmse": 3.2, "r2": 0.9}, num_samples=60, points=points, importance=[("age", 0.7), ("income", 0.3)])
    package = PackagePart(
        inputs=[Port(name="age", type="tensor(float)"), Port(name="job", type="tensor(string)")],
        outputs=[Port(name="value", type="tensor(float)")],
    )
    table = DataPart(
        name="t", digest="0" * 64, kind="table", source="t.csv", target="y", num_columns=3, num_rows={"train": 140, "valid": 30, "test": 60}
    )
    return full(metric="rmse", higher_is_better=False, data=table, evaluation=part, package=package)


class Page(HTMLParser):
    """Ids, sections, and what must be closed."""

    VOID = frozenset({"meta", "img", "br", "line", "rect", "circle", "path", "link"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.sections: list[str] = []
        self.references: list[str] = []
        self.open: list[str] = []
        self.num_charts = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if "id" in found:
            self.ids.append(found["id"] or "")
        self.references += (found.get("aria-labelledby") or "").split()
        if tag == "section":
            self.sections.append(found["id"] or "")
        self.num_charts += tag == "svg" and found.get("role") == "img"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_full_card_has_every_section_in_order_and_is_well_formed() -> None:
    page = Page(render_card(full()))
    assert page.sections == SECTIONS
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))


def test_every_chart_has_a_title_and_a_description() -> None:
    page = Page(render_card(full()))
    assert page.num_charts >= 6
    assert len(page.references) == 2 * page.num_charts
    assert set(page.references) <= set(page.ids)


def test_a_section_without_data_is_left_out() -> None:
    html = render_card(minimal())
    page = Page(html)
    assert page.sections == ["data", "evaluation"]
    assert "None" not in html.split("</style>")[1]


def test_the_same_data_gives_the_same_bytes_also_after_a_trip_through_json() -> None:
    data = full()
    assert render_card(CardData.model_validate_json(data.model_dump_json())) == render_card(data)


@pytest.mark.parametrize("make", [full, minimal, regression, lambda: full([f"class {i}" for i in range(100)])])
def test_the_page_reaches_nothing_outside_and_stays_small(make: Callable[[], CardData]) -> None:
    html = render_card(make())
    assert OUTSIDE.search(html) is None
    assert len(html.encode()) < 2_000_000


def test_hostile_names_stay_text() -> None:
    evil = """<script>alert("1")</script>"""
    names = [evil, "a'b\"><img src=x onerror=alert(1)>", "</title></svg>{{ 7*7 }}"]
    data = full(names, model=evil, reason=evil, command=evil, environment={evil: evil})
    data = data.model_copy(update={"stages": [StageRow(name=evil, state="completed", seconds=1)]})
    html = render_card(data)
    assert "<script" not in html
    assert "<img src=x" not in html
    assert "&lt;script&gt;" in html
    assert "{{ 7*7 }}" in html
    assert Page(html).open == []
    assert "<script" not in summary_markdown(data)


def test_two_classes_have_a_matrix_and_a_hundred_have_the_pairs_that_are_confused_most() -> None:
    two, many = render_card(full(["no", "yes"])), render_card(full([f"class {i:02d}" for i in range(100)]))
    assert 'id="confusion-t"' in two
    assert "Confused most" not in two
    assert 'id="confusion-t"' not in many
    assert "Confused most" in many
    assert "The weakest of 100 classes" in many
    assert "All 100 classes" in many


@pytest.mark.parametrize("num_classes", [2, 12, 30, 50])
def test_the_matrix_stays_inside_its_frame(num_classes: int) -> None:
    part = evaluation([f"a rather long name of class {i}" for i in range(num_classes)])
    drawn = str(matrix.confusion_matrix("m", part.classes, part.confusion))
    width, height = map(float, re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawn)[0])
    cells = re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)"', drawn)
    assert len(cells) == num_classes**2
    assert all(float(x) + float(w) <= width and float(y) + float(w) <= height for x, y, w in cells)
    assert f"taken for {part.classes[1]}" in drawn


def test_regression_shows_predicted_against_true_residuals_and_importance() -> None:
    html = render_card(regression())
    page = Page(html)
    assert {"fit-t", "residuals-t", "spread-t", "importance-t", "splits-t"} <= set(page.ids)
    assert "Half of the predictions are within" in html
    assert '"job": ""' in html.replace("&#34;", '"')


def test_a_single_epoch_has_no_curve_and_no_error() -> None:
    training = TrainingPart(epochs=[{"epoch": 1, "train_loss": 0.3}], best_epoch=1, metric="accuracy")
    assert "loss-t" not in Page(render_card(full(training=training))).ids


def test_epochs_that_lack_a_number_are_drawn_from_the_others() -> None:
    epochs = [{"epoch": 1, "train_loss": 1.0}, {"epoch": 2, "train_loss": None, "valid_loss": 0.5}, {"epoch": 3, "train_loss": 0.2}]
    html = render_card(full(training=TrainingPart.model_validate({"epochs": epochs})))
    assert "train goes from 1 to 0.2" in html
    assert "nan" not in html


@pytest.mark.parametrize(
    "wrong", [{"confusion": [[1, 2]], "classes": ["a"]}, {"package": {"accuracy": float("nan")}}, {"confusion": [[-1]], "classes": ["a"]}]
)
def test_wrong_figures_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        EvaluationPart(**wrong)


@pytest.mark.parametrize("docs", ["https://example.com/", "//example.com", "javascript:alert(1)", "/etc/passwd"])
def test_a_link_that_leaves_the_workspace_is_refused(docs: str) -> None:
    with pytest.raises(ValidationError):
        ValidationPart(expectations=[], num_samples=1, docs=docs)


def test_a_picture_that_is_no_picture_is_refused() -> None:
    with pytest.raises(ValidationError):
        Picture(id="a", uri="https://example.com/a.png", width=1, height=1, label="a")


def test_the_markdown_has_headline_metrics_and_stages() -> None:
    text = summary_markdown(full())
    assert text.startswith("# pets version 4\n")
    assert "| Accuracy | 0.6667 | 0.6667 |" in text
    assert "| import | cached | 0.1 s |" in text


def test_ticks_are_round_and_inside() -> None:
    assert svg.ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert svg.ticks(3, 3) == [3]
    for low, high in [(0, 1e-9), (-7.3, 1e6), (1e5, 1e5 + 1), (-0.01, 0.02)]:
        found = svg.ticks(low, high)
        assert 2 <= len(found) <= 7
        assert all(low - 1e-9 * (high - low) <= t <= high + 1e-9 * (high - low) for t in found)
    assert svg.log_ticks(0.02, 3) == pytest.approx([0.03, 0.1, 0.3, 1, 3])


@pytest.mark.parametrize(
    ("metric", "values", "ends"),
    [
        ("accuracy", [0.5, 1.0], (0.47, 1.0)),
        ("accuracy", [1.0, 1.0], (0.95, 1.0)),
        ("f1_macro", [0.0, 0.5], (0.0, 0.53)),
        ("r2", [-1.0, 1.0], (-1.12, 1.0)),
        ("rmse", [0.0, 5.0], (0.0, 5.3)),
        ("my_own_figure", [0.0, 1.0], (-0.06, 1.06)),
    ],
)
def test_an_axis_ends_where_its_metric_ends(metric: str, values: list[float], ends: tuple[float, float]) -> None:
    assert svg.padded(values, within=words.bounds(metric)) == pytest.approx(ends)


def test_labels_that_would_overlap_are_moved_apart_inside_the_chart() -> None:
    placed = svg.spread([95, 96, 40], 15, 0, 100)
    assert placed[2] == 40
    assert placed[1] - placed[0] >= 15
    assert max(placed) <= 100


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (0.42, "0.4 s"), (9.97, "10 s"), (59.7, "1 min"), (125, "2 min 5 s"), (3600, "1 h"), (3725, "1 h 2 min")],
)
def test_durations_are_told_in_words(seconds: float, said: str) -> None:
    assert words.duration(seconds) == said


@pytest.mark.parametrize(
    ("value", "said"), [(0, "0"), (1234567.0, "1,234,567"), (0.98764, "0.9876"), (0.00025, "2.5e-4"), (-12.5, "-12.5")]
)
def test_numbers_are_short(value: float, said: str) -> None:
    assert svg.number(value) == said


def test_the_interval_of_a_share_is_wilsons() -> None:
    low, high = words.wilson(0.9, 100)
    assert (low, high) == pytest.approx((0.8256, 0.9448), abs=1e-4)
    assert words.wilson(1.0, 50)[1] == pytest.approx(1.0)


def test_an_empty_chart_is_empty() -> None:
    assert curves.line_chart("a", "A", []) == ""
    assert bars.class_histogram("b", [], {}) == ""
    assert curves.residuals("c", []) == ""


def test_the_finding_names_the_weakest_class_and_the_commonest_mistake() -> None:
    part = EvaluationPart(
        classes=["a", "b"],
        confusion=[[8, 2], [0, 10]],
        per_class=[ClassScore(name=n, precision=1, recall=1, f1=f, support=10) for n, f in (("a", 0.8), ("b", 0.9))],
    )
    assert findings.evaluation_finding(part) == "2 of 20 wrong. Weakest class: a (F1 0.800). Most confused: a taken for b, 2 times."


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("make", [with_a_wide_table, regression])
def test_a_browser_shows_the_page_and_nothing_sticks_out_of_a_narrow_window(make: Callable[[], CardData], tmp_path: Path) -> None:
    # A script in a page around the card measures it: the card itself runs none. At 400 pixels tables scroll, at 1,100 they fit.
    card = tmp_path / "card.html"
    card.write_text(render_card(make()).replace("default-src 'none'", "default-src 'none'; frame-ancestors *"), encoding="utf-8")
    frame = tmp_path / "frame.html"
    frame.write_text(
        '<iframe src="card.html" style="width:400px;height:800px;border:0" onload="const d = this.contentDocument.documentElement;'
        " document.body.dataset.measured = [d.scrollWidth, d.scrollHeight, d.querySelectorAll('svg').length].join(' ')\"></iframe>"
        '<iframe src="card.html" style="width:1100px;height:800px;border:0" onload="const d = this.contentDocument.documentElement;'
        " document.body.dataset.cut = [...d.querySelectorAll('.scroll')].filter(one => one.scrollWidth > one.clientWidth).length\"></iframe>",
        encoding="utf-8",
    )
    arguments = ["--allow-file-access-from-files", "--virtual-time-budget=4000", "--dump-dom", frame.as_uri()]
    page = chromium(*arguments, folder=tmp_path).stdout
    measured = re.search(r'data-measured="(\d+) (\d+) (\d+)"', page)
    assert 'data-cut="0"' in page, "a table is wider than the page"
    assert measured is not None
    width, height, num_charts = map(int, measured.groups())
    assert width <= 400
    assert height > 2000
    assert num_charts >= 4
    shot = tmp_path / "shot.png"
    chromium(f"--screenshot={shot}", "--window-size=1200,2000", card.as_uri(), folder=tmp_path)
    with Image.open(shot) as image:
        colours = image.convert("RGB").getcolors(maxcolors=1 << 20)
    assert colours is not None
    assert len(colours) > 200, "the page is blank"

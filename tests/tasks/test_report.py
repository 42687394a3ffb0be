"""The report stage on a real store: a data set that was imported, a package that predicts, and what a run leaves beside them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper
from PIL import Image

from algorithms.metrics import classification_metrics
from algorithms.package import Package, record_metrics, write_package
from infra.artifacts import Artifact, publish, read_file
from infra.context import StageContext
from infra.datasets.card import DatasetRef
from infra.datasets.dataset import open_dataset
from infra.datasets.derived import derive
from infra.datasets.importer import import_source
from infra.errors import ArtifactNotFoundError, CorruptArtifactError
from infra.settings import Settings
from infra.store import FolderStore
from tasks._card.gather import training_seconds
from tasks._card.model import StageRow
from tasks.report import RunCardInputs, command_line, report

CLASSES = ["blue", "green", "red"]


@pytest.fixture
def context(tmp_path: Path, own_cache: Path) -> StageContext:
    return StageContext.open(Settings(workspace=str(tmp_path / "workspace"), cache_dir=own_cache))


def import_colours(context: StageContext, folder: Path) -> DatasetRef:
    """Pictures 90 pixels wide, one colour a class, with noise; some are nearly grey and easily confused."""
    random = np.random.default_rng(0)
    for place, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for i in range(20):
            pixels = random.integers(0, 120, (60, 90, 3))
            pixels[:, :, 2 - place] += 100 if i % 5 else 0
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i:02d}.png")
    return import_source(context.store, str(folder), "colours")


def mean_colour_model() -> bytes:
    """uint8 [N, H, W, 3] -> softmax of the mean colour [N, 3], in the order blue, green, red."""
    nodes = [
        helper.make_node("Cast", ["image"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["real", "axes"], ["mean"], keepdims=0),
        helper.make_node("Gather", ["mean", "order"], ["logits"], axis=1),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=1),
    ]
    constants = [helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2]), helper.make_tensor("order", TensorProto.INT64, [3], [2, 1, 0])]
    inputs = [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])]
    graph = helper.make_graph(nodes, "colours", inputs, outputs, constants)
    return onnx.helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


def put(context: StageContext, scratch: Path, name: str, write: Callable[[Path], None]) -> Artifact:
    folder = scratch / name
    folder.mkdir()
    write(folder)
    return publish(context.store, folder, f"runs/r1/{name}", kind=name)


def validation_files(folder: Path) -> None:
    entries = [
        {
            "status": "passed",
            "type": "expect_column_values_to_be_between",
            "column": "width",
            "kwargs": {"column": "width", "min_value": 8, "max_value": 4096},
        },
        {
            "status": "warned",
            "type": "expect_column_max_to_be_between",
            "column": "duplicates",
            "kwargs": {"max_value": 0.01},
            "observed": 0.02,
            "reason": "twins",
        },
    ]
    answer = {"expectations": entries, "num_samples": 60, "num_invalid": 1, "warnings": ["twins"]}
    (folder / "report.json").write_text(json.dumps(answer))
    (folder / "quarantined.json").write_text(json.dumps([{"id": "red/19.png", "reasons": ["nearly one colour"]}]))
    (folder / "data_docs").mkdir()
    (folder / "data_docs" / "index.html").write_text("<p>docs</p>")


def make_run(context: StageContext, scratch: Path) -> RunCardInputs:
    """Everything that a run leaves, made by the parts that make it in a run."""
    source = import_colours(context, scratch / "source")
    data = derive(context.store, source, {"red/19.png"}, "quarantine", {"num_samples": 1})
    table = pa.concat_tables(open_dataset(context.store, data, context.settings.cache_path).iter_tables("test"))

    def write_model(folder: Path) -> None:
        write_package(
            folder,
            onnx_model_bytes=mean_colour_model(),
            task="image-classification",
            algorithm="image-classification/small-cnn",
            inputs_schema={"type": "object", "properties": {"image": {"description": "A picture."}}},
            output_schema={},
            labels=CLASSES,
            preprocessing={"summary": "mean colour"},
            lineage={},
            config={},
            metrics={},
        )
        record_metrics(folder, judged)

    truth = table["label"].to_pylist()
    draft = scratch / "draft"
    judged: dict[str, object] = {}
    write_model(draft)
    scores = np.array([list(one["scores"].values()) for one in Package.load(draft).predict(table["image"].to_pylist())])
    judged |= classification_metrics(truth, scores, CLASSES)

    def write_evaluation(folder: Path) -> None:
        (folder / "metrics.json").write_text(json.dumps(judged))
        said = [CLASSES[i] for i in scores.argmax(axis=1)]
        columns = {"id": table["path"], "label": [CLASSES[i] for i in truth], "prediction": said, "scores": scores.tolist()}
        pq.write_table(pa.table(columns), folder / "predictions.parquet")

    history = {
        "epochs": [{"epoch": e, "train_loss": 1 / e, "valid_accuracy": 1 - 0.3 / e} for e in (1, 2, 3)],
        "best_epoch": 3,
        "metric": "accuracy",
    }

    def write_history(folder: Path) -> None:
        (folder / "history.json").write_text(json.dumps(history))

    return RunCardInputs(
        run_key="r1",
        model="colours",
        version=1,
        decision="champion",
        reason="the first version",
        algorithm="image-classification/small-cnn",
        config={"epochs": 3},
        data=data,
        source_data=source,
        validation=put(context, scratch, "validation", validation_files),
        trained=put(context, scratch, "trained", write_history),
        evaluation=put(context, scratch, "evaluation", write_evaluation),
        package=put(context, scratch, "package", write_model),
        stages=[StageRow(name="train", state="completed", seconds=12.5)],
        command="atelier run image-classification/small-cnn --data source",
    )


def test_a_run_gets_its_card_with_the_pictures_of_its_own_test_split(context: StageContext, tmp_path: Path) -> None:
    inputs = make_run(context, tmp_path)
    artifact = report(inputs, context=context)
    assert (artifact.kind, artifact.key) == ("run-card", "runs/r1/card")
    html = read_file(context.store, artifact, "index.html").decode()
    assert html.count("data:image/jpeg;base64,") >= 6  # 90 pixels wide, so made smaller
    assert 'href="../validation/data_docs/index.html"' in html
    assert "nearly one colour" in html
    assert "Quarantine of" in html
    assert "values to be between 8 and 4,096" in html
    summary = json.loads(read_file(context.store, artifact, "run.json"))
    assert summary["evaluation"]["package"]["accuracy"] == summary["evaluation"]["baseline"]["accuracy"] > 0.5
    assert summary["data"]["source_digest"] == inputs.source_data.digest
    assert {option["name"]: option["value"] for option in summary["training"]["options"]}["epochs"] == 3
    assert summary["training"]["seconds"] == 12.5


def test_the_same_inputs_give_the_same_card(context: StageContext, tmp_path: Path) -> None:
    inputs = make_run(context, tmp_path)
    assert report(inputs, context=context) == report(inputs, context=context)


def test_a_card_without_validation_leaves_that_section_out(context: StageContext, tmp_path: Path) -> None:
    inputs = make_run(context, tmp_path).model_copy(update={"validation": None, "key": "elsewhere/card"})
    artifact = report(inputs, context=context)
    assert artifact.key == "elsewhere/card"
    assert 'id="validation"' not in read_file(context.store, artifact, "index.html").decode()


def test_a_damaged_or_missing_file_is_named_and_nothing_is_published(context: StageContext, tmp_path: Path) -> None:
    inputs = make_run(context, tmp_path)
    with pytest.raises(ArtifactNotFoundError):
        report(inputs.model_copy(update={"trained": inputs.trained.model_copy(update={"key": "runs/none"})}), context=context)
    assert isinstance(context.store, FolderStore)
    place = context.store.local_path("runs/r1/evaluation/metrics.json")
    assert place is not None
    place.chmod(0o644)
    place.write_text("{}")
    with pytest.raises(CorruptArtifactError, match=r"metrics\.json"):
        report(inputs, context=context)
    assert not context.store.exists("runs/r1/card/index.html")


@pytest.mark.parametrize(
    ("epochs", "seconds", "stage", "told"),
    [
        ([1, 2, 3], [30.0, 30.0, 30.0], 13.0, 90.0),  # the stage only found the model of an earlier run
        ([1, 50, 100], [1.0, 1.0, 1.0], 140.0, 140.0),  # a history that keeps some rounds of many
        ([1, 2], [None, None], 12.5, 12.5),
        ([], [], None, None),
    ],
)
def test_the_training_time_is_that_of_its_epochs_also_when_the_stage_found_it_done(
    epochs: list[int], seconds: list[float | None], stage: float | None, told: float | None
) -> None:
    history: list[dict[str, float | None]] = [
        {"epoch": float(epoch), "seconds": spent} for epoch, spent in zip(epochs, seconds, strict=True)
    ]
    assert training_seconds(history, stage) == told


def test_the_command_asks_for_the_same_run_and_leaves_defaults_out() -> None:
    request = {
        "algorithm": "tabular-regression/linear",
        "data": "my table.csv",
        "name": "",
        "options": {"target": "y", "l2": 0.5},
        "ratios": [0.8, 0.1, 0.1],
    }
    assert command_line(request, 2) == (
        "atelier run tabular-regression/linear --data 'my table.csv' --splits 80/10/10 --workers 2 --set target=y --set l2=0.5"
    )

"""What a run card shows, as frozen JSON values. Nothing here reads a store; ``tasks.report`` fills it, ``render`` draws it.

A part that is absent (None, or empty) is left out of the page. A part that is there must be right: NaN, a confusion matrix that does not
fit its classes or a picture that is no data URI is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


DataUri = Annotated[str, Field(pattern=r"^data:image/(png|jpeg);base64,[A-Za-z0-9+/]+={0,2}$")]
Link = Annotated[str, Field(pattern=r"^([^:/\s][^:\s]*)?$", description="A relative link: the page reaches nothing outside.")]


class Picture(_Part):
    """One sample of the test split, small, with what the model said about it."""

    id: str
    uri: DataUri
    width: int = Field(gt=0, description="Pixels of the embedded picture.")
    height: int = Field(gt=0)
    label: str
    prediction: str = ""
    score: float | None = Field(default=None, description="Score of the predicted class, 0 to 1.")

    @property
    def right(self) -> bool | None:
        """Whether the model was right; None if it was not asked."""
        return self.prediction == self.label if self.prediction else None


class Quarantined(_Part):
    """A sample that was set aside by validation."""

    id: str
    reasons: list[str]


class DataPart(_Part):
    """The data that was trained on. ``counts[split][class]``, empty for regression."""

    name: str
    digest: str
    kind: Literal["image", "table"]
    source: str
    source_format: str = ""
    imported_at: str = ""
    source_digest: str = Field(default="", description="Digest of the version as imported, if validation made another one of it.")
    target: str = ""
    num_columns: int = 0
    num_rows: dict[str, int]
    num_bytes: int = 0
    classes: list[str] = []
    counts: dict[str, dict[str, int]] = {}
    split_rule: str = ""
    num_ignored: int = 0
    num_quarantined: int = 0
    quarantined: list[Quarantined] = Field(default=[], description="The first of them.")
    lineage: list[str] = Field(default=[], description="How it was made, oldest first, one sentence each.")
    pictures: list[Picture] = []

    @property
    def num_samples(self) -> int:
        return sum(self.num_rows.values())


class ExpectationRow(_Part):
    """One expectation and how the data stood up to it."""

    status: Literal["passed", "warned", "failed"]
    expectation: str
    subject: str = Field(default="", description="Its column, or empty: the whole table.")
    observed: str = ""
    reason: str = ""


class ValidationPart(_Part):
    expectations: list[ExpectationRow]
    num_samples: int
    num_invalid: int = 0
    warnings: list[str] = []
    docs: Link = ""


class Option(_Part):
    name: str
    value: Any
    default: Any
    description: str = ""

    @property
    def changed(self) -> bool:
        return bool(self.value != self.default)


class TrainingPart(_Part):
    """``epochs`` as in ``history.json``: every entry has ``epoch``, any other number may be absent."""

    epochs: Sequence[Mapping[str, float | None]] = []
    best_epoch: int | None = None
    metric: str = ""
    num_parameters: int | None = None
    world_size: int | None = None
    precision: str = ""
    seconds: float | None = None
    options: list[Option] = []

    @model_validator(mode="after")
    def _epochs_are_numbered(self) -> TrainingPart:
        if any(entry.get("epoch") is None for entry in self.epochs):
            raise ValueError("every entry of `epochs` needs a number `epoch`")
        return self


class ClassScore(_Part):
    name: str
    precision: float
    recall: float
    f1: float
    support: int


class EvaluationPart(_Part):
    """On the test split. ``package`` was measured with onnxruntime, ``baseline`` with the trained fp32 model."""

    package: dict[str, float] = {}
    baseline: dict[str, float] = {}
    num_samples: int = 0
    classes: list[str] = []
    confusion: list[list[int]] = Field(default=[], description="Rows are the true classes.")
    per_class: list[ClassScore] = []
    mistakes: list[Picture] = []
    num_mistakes: int | None = None
    points: list[tuple[float, float]] = Field(default=[], description="Regression: (true, predicted); a sample if there are many.")
    importance: list[tuple[str, float]] = []

    @model_validator(mode="after")
    def _confusion_fits_the_classes(self) -> EvaluationPart:
        n = len(self.classes)
        if self.confusion and (len(self.confusion) != n or any(len(row) != n for row in self.confusion)):
            raise ValueError(f"the confusion matrix must have {n} rows of {n} counts, one for each class")
        if any(count < 0 for row in self.confusion for count in row):
            raise ValueError("the counts of the confusion matrix must not be negative")
        return self


class FileRow(_Part):
    name: str
    num_bytes: int
    sha256: str


class Port(_Part):
    """An input or output of the package."""

    name: str
    type: str
    shape: str = ""
    description: str = ""


class PackagePart(_Part):
    files: list[FileRow] = []
    inputs: list[Port] = []
    outputs: list[Port] = []
    parity: float | None = Field(default=None, description="Largest absolute difference from the trained model.")
    tolerance: float | None = None
    opset: int | None = None
    location: str = Field(default="", description="Where the package lies.")

    @property
    def num_bytes(self) -> int:
        return sum(file.num_bytes for file in self.files)


class StageRow(_Part):
    name: str
    state: str
    seconds: float = Field(ge=0)


class Section(_Part):
    """A part of the page that its own module draws."""

    after: Literal["header", "data", "validation", "training", "evaluation"] = Field(description="Which part of the page it follows.")
    id: str
    title: str
    finding: str = ""
    body: str = Field(description="HTML and SVG, escaped by whoever drew it; nothing from outside.")


class CardData(_Part):
    """One run, ready to be drawn."""

    run_key: str
    evaluation_key: str = Field(default="", description="Where the trained model's predictions lie in the store.")
    explanation_key: str = Field(default="", description="Where the shipped package's predictions lie in the store.")
    model: str
    version: int | None = None
    decision: str = Field(default="", description="champion, challenger, or what else was decided.")
    reason: str = ""
    algorithm: str
    summary: str = ""
    metric: str = Field(description="The main metric's name.")
    higher_is_better: bool = True
    started: str = ""
    data: DataPart
    validation: ValidationPart | None = None
    training: TrainingPart | None = None
    evaluation: EvaluationPart
    package: PackagePart | None = None
    environment: dict[str, str] = {}
    stages: list[StageRow] = []
    command: str = ""
    sections: list[Section] = []

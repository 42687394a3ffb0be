"""What an algorithm is: a name, a typed config, and an engine with four verbs.

The engine's verbs run inside ranks (processes started by ``infra.launch``); reading a preset, its options and its expectations
must stay cheap, so nothing here or in a preset's module imports torch, timm or scikit-learn at module level.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from algorithms.search_space import Range

if TYPE_CHECKING:
    from algorithms.compression.recipes import Compressible
    from algorithms.run import Run
    from infra.datasets.card import Card
    from infra.datasets.dataset import Dataset

Severity = Literal["error", "warning"]


def split_names(value: Any) -> Any:
    """``a,b`` as it comes from a command line, or a list."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(split_names)]


class Config(BaseModel):
    """Base of every algorithm's options: frozen, no unknown keys; each field has a default, a range and a description."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(default=0, ge=0, lt=2**31, description="Seed of everything random: initial weights, order of samples, dropout.")


@dataclass(frozen=True)
class Expectation:
    """One thing that data must satisfy before it is trained on: a Great Expectations expectation as data.

    Attributes:
        type: its name in Great Expectations, such as ``expect_column_values_to_not_be_null``.
        kwargs: its arguments, JSON values. For pictures the columns are those of the picture profile (``docs/validation.md``).
        severity: an ``error`` stops the run (or, for a rule about single samples, quarantines them); a ``warning`` is reported.
        per_sample: whether it speaks of single samples, so that those that break it can be set aside.
        reason: what is told about a sample or data set that breaks it; ``{column}`` stands for the value in the row that breaks it.
        table: what it speaks of: the ``samples`` (rows, or the pictures' profile), the ``classes`` or the ``columns`` (a row for each).
    """

    type: str
    kwargs: Mapping[str, Any]
    severity: Severity = "error"
    per_sample: bool = False
    reason: str = ""
    table: Literal["samples", "classes", "columns"] = "samples"


class Engine(Protocol):
    """How a family of algorithms is trained, judged and exported.

    ``distributed`` tells whether ``train`` can use several ranks; if not, one rank gets all the threads. The verbs leave files in
    ``run.output_dir`` (rank 0 only); ``algorithms.run`` publishes that folder as one artifact when the verb returns.

    train:    ``history.json`` (see ``algorithms.run.History``) and whatever ``evaluate`` and ``export`` need to rebuild the model. With a
              ``run.spec.variant`` (``algorithms.compression.recipes.Variant``) it goes on from ``run.model_dir``: pruned, distilled, shorter.
    evaluate: ``metrics.json`` (``algorithms.metrics``) and ``predictions.parquet``, of the trained model on the test split.
    export:   a package (``algorithms.package``): ONNX, schema, labels; compared with the trained model at two batch sizes, and judged on
              the test split by onnxruntime alone.
    """

    @property
    def distributed(self) -> bool: ...

    def expectations(self, config: Any, card: Card) -> list[Expectation]: ...

    def compressible(self, config: Any) -> Compressible:
        """What can be done to make its models smaller and faster; cheap, as ``expectations`` is."""
        ...

    def train(self, config: Any, data: Dataset, run: Run) -> None: ...

    def evaluate(self, config: Any, data: Dataset, run: Run) -> None: ...

    def export(self, config: Any, data: Dataset, run: Run) -> None: ...


@dataclass(frozen=True)
class Algorithm:
    """A preset: ``<task>/<architecture>``, its options and its engine.

    Attributes:
        name: such as ``image-classification/resnet18``.
        config_type: pydantic model of the options, a subclass of ``Config``.
        engine: does the work.
        summary: one sentence: what it is.
        suits: one sentence: when to choose it.
        size: what it weighs, in words: ``11.2 M parameters``.
        defaults: values that differ from the config type's own defaults.
        learns_from_valid: whether the model learns from the valid split too, so that what it says about it proves nothing.
        search_space: what tuning may choose, by option; empty: a user has to say what to tune.
    """

    name: str
    config_type: type[Config]
    engine: Engine
    summary: str
    suits: str
    size: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    learns_from_valid: bool = False
    search_space: Mapping[str, Range] = field(default_factory=dict)

    @property
    def task(self) -> str:
        """``image-classification``, ``tabular-classification``, ``tabular-regression``, ..."""
        return self.name.split("/", 1)[0]

    @property
    def modality(self) -> Literal["image", "table"]:
        """Which kind of data set it learns from."""
        return "image" if self.task.startswith("image-") else "table"

    def config(self, options: Mapping[str, Any] | None = None) -> Config:
        """The options over the defaults, checked.

        Raises:
            pydantic.ValidationError: unknown keys or values out of range, all at once.
        """
        return self.config_type(**{**self.defaults, **(options or {})})

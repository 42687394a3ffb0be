"""What a run is asked to do, checked as far as that is possible before anything starts."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from algorithms.compression.recipes import Mode
from algorithms.search_space import split_options
from algorithms.spec import Algorithm, Config
from infra.context import Backend
from infra.errors import InvalidOptionError
from infra.workers import parse_workers
from tasks._tuning.plan import Objective, Pruner, Sampler, TuneSettings
from tasks.compress import CompressSettings

OnInvalid = Literal["quarantine", "repair", "fail"]


class RunRequest(BaseModel):
    """Everything that decides a run's result, and how many ranks it may use."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    algorithm: str = Field(description="A preset's name, such as image-classification/resnet18.")
    data: str = Field(min_length=1, description="A path, a URI, or the name or digest of a data set version.")
    name: str = Field(default="", description="The model's name in the registry; empty: the data's name.")
    workers: int | str = Field(
        default=1, description="Ranks of a distributed training, one slot of the cluster each: N, or MIN:MAX for as many as there are."
    )
    backend: Backend | None = Field(default=None, description="How ranks talk: auto, horovod or torch; none: as ATELIER_BACKEND says.")
    options: dict[str, Any] = Field(
        default_factory=dict, description="Options of the algorithm; `atelier algorithms show NAME` lists them."
    )
    on_invalid: OnInvalid = Field(
        default="quarantine", description="Broken samples: set them aside, mend what can be mended first, or end the run."
    )
    max_invalid_share: float = Field(default=0.05, ge=0, lt=1, description="Largest share of samples that may be set aside.")
    suite: dict[str, Any] | None = Field(
        default=None, description="A Great Expectations suite of your own, checked beside the algorithm's."
    )
    ratios: tuple[float, float, float] = Field(
        default=(0.7, 0.15, 0.15), description="Shares of train, valid and test, where the data has no splits."
    )
    split_seed: int = Field(default=0, ge=0, description="Seed of the split.")
    min_gain: float = Field(
        default=0.001,
        ge=0,
        allow_inf_nan=False,
        description="How much better than the champion, in the main metric, a model must be to replace it.",
    )
    balance: bool = Field(
        default=False, description="Fill every class of the training split up to the size of the largest, by augmentation."
    )
    expand: int = Field(default=1, ge=1, le=100, description="Times as many training samples, by augmentation, as a data set of their own.")
    trials: int | None = Field(default=None, ge=1, le=100_000, description="Trials of a search for better options; none: no search.")
    time_limit: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Seconds after which no trial of the search is started; at least one completes.",
    )
    sampler: Sampler = Field(default="tpe", description="How trials are chosen: tpe, random, grid, gp, cmaes or nsga2.")
    pruner: Pruner = Field(default="auto", description="How hopeless trials are stopped: quartile, median, hyperband, none, or auto.")
    objectives: tuple[Objective, ...] = Field(
        default=("metric",), min_length=1, description="metric, and besides latency or size: the smallest model of nearly the best metric."
    )
    space: dict[str, Any] | None = Field(default=None, description="Ranges by option, in place of the preset's own search space.")
    compress: Mode = Field(default="none", description="none, prune, quantize, distill, or auto: the best of all that fits the budget.")
    max_accuracy_loss: float = Field(
        default=0.01, ge=0, le=1, description="Budget of compression: largest loss of accuracy, or growth of the RMSE as a share of it."
    )
    max_latency_ms: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="Budget of compression: largest latency of one sample, ms."
    )
    max_size_mb: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="Budget of compression: largest size of the model, MB."
    )
    strict_budget: bool = Field(default=False, description="Fail if no compressed model fits the budget, instead of shipping fp32.")
    profile: bool = Field(default=False, description="Tell where the time of a training step goes; it is measured anyway.")
    timeline: str = Field(default="", description="Local file for Horovod's timeline of the training, which chrome://tracing opens.")
    fresh: bool = Field(default=False, description="Do every stage again, also those done before.")

    @field_validator("workers")
    @classmethod
    def _workers_are_a_number_or_a_range(cls, value: int | str) -> int | str:
        found = parse_workers(value)
        return found.most if found.least == found.most else str(found)

    def split_options(self, algorithm: Algorithm) -> tuple[dict[str, Any], dict[str, Any]]:
        """The options with one value, and, where a search is asked for, those with a range."""
        return (dict(self.options), {}) if self.trials is None else split_options(algorithm, self.options)

    def tune_settings(self, algorithm: Algorithm) -> TuneSettings | None:
        """How the options are searched, if they are; those that were set by hand keep their value."""
        if self.trials is None:
            return None
        fixed, ranges = self.split_options(algorithm)
        return TuneSettings(
            trials=self.trials,
            time_limit_s=self.time_limit,
            sampler=self.sampler,
            pruner=self.pruner,
            objectives=self.objectives,
            space={**(self.space or {}), **ranges},
            fixed=tuple(sorted(fixed)),
            seed=int(fixed.get("seed", 0)),
        )

    @property
    def compress_settings(self) -> CompressSettings:
        return CompressSettings(
            mode=self.compress,
            max_accuracy_loss=self.max_accuracy_loss,
            max_latency_ms=self.max_latency_ms,
            max_size_mb=self.max_size_mb,
            strict=self.strict_budget,
        )


def _nearest(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def explain(error: ValidationError, known: list[str]) -> list[str]:
    """Pydantic's complaints in plain sentences: what was wrong, what came, what is allowed."""
    lines = []
    for fault in error.errors():
        key = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            lines.append(f"{key}: there is no such option{_nearest(key, known)}")
        elif fault["type"] == "missing":
            lines.append(f"{key}: is required; give it with --set {key}=...")
        else:
            lines.append(f"{key}: {fault['msg'][0].lower()}{fault['msg'][1:]} (got {fault['input']!r})")
    return lines


def check_options(algorithm: Algorithm, options: dict[str, Any]) -> Config:
    """The algorithm's config with these options.

    Raises:
        InvalidOptionError: unknown keys and values out of range, all at once.
    """
    try:
        return algorithm.config(options)
    except ValidationError as error:
        known = list(algorithm.config_type.model_fields)
        hint = f"`atelier algorithms show {algorithm.name}` lists every option with its range."
        raise InvalidOptionError(algorithm.name, explain(error, known), hint) from None


def parse_options(pairs: list[str]) -> dict[str, Any]:
    """``KEY=VALUE`` words as options; values are JSON where they are valid JSON, text otherwise.

    Raises:
        InvalidOptionError: a word without ``=``.
    """
    options: dict[str, Any] = {}
    problems = []
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            problems.append(f"{pair!r} is not KEY=VALUE")
            continue
        try:
            options[key.strip()] = json.loads(text)
        except ValueError:
            options[key.strip()] = text
    if problems:
        raise InvalidOptionError("--set", problems)
    return options


def make_request(**values: Any) -> RunRequest:
    """A request from outside values.

    Raises:
        InvalidOptionError: all faults at once.
    """
    try:
        return RunRequest(**values)
    except ValidationError as error:
        raise InvalidOptionError("the run", explain(error, list(RunRequest.model_fields))) from None


def read_suite(path: str) -> dict[str, Any]:
    """A suite file as JSON.

    Raises:
        InvalidOptionError: it cannot be read, or is not a JSON object.
    """
    try:
        suite = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise InvalidOptionError("--suite", [f"{path}: {reason}"], "It must be a Great Expectations suite as JSON.") from None
    if not isinstance(suite, dict):
        raise InvalidOptionError("--suite", [f"{path}: must hold a JSON object with 'expectations'"])
    return suite

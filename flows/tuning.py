"""``tune``: a search for good options of a preset on a data set, without the model that a run would make of them."""

from __future__ import annotations

import json
import time
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact
from pydantic import BaseModel, ConfigDict, Field

from algorithms.user_code import digests
from flows.artifacts import artifact_key
from flows.checks import check_request
from flows.embedded import embedded_flow, open_context
from flows.request import OnInvalid, make_request
from flows.result import trials_in_words
from flows.stages import StageTime, run_stage, stage_context
from flows.training import get_data, tune_stage, where
from infra.context import StageContext
from tasks._tuning.plan import Objective, Pruner, Sampler
from tasks.package import read_json
from tasks.tune import Tuned


class TuneResult(BaseModel):
    """What a search ends with."""

    model_config = ConfigDict(frozen=True)

    algorithm: str
    dataset: str = Field(description="Digest of the data that it was searched on, after quarantine.")
    study: str = Field(description="The study's name in its storage.")
    metric: str
    best_value: float = Field(description="Of the best trial, on the valid split.")
    best_parameters: dict[str, Any] = Field(description="The options that were searched.")
    options: dict[str, Any] = Field(description="All options with the best ones among them: what `pipeline(options=...)` takes.")
    trials: dict[str, Any] = Field(description="How many were complete, pruned and failed, which is the best, and why.")
    artifact: str = Field(description="Where study.json lies: the space, and every trial with its curve.")
    stages: list[StageTime]
    seconds: float


@embedded_flow(name="tune")
def tune(
    algorithm: str,
    data: str,
    name: str = "",
    trials: int = 20,
    time_limit: float | None = None,
    options: dict[str, Any] | None = None,
    space: dict[str, Any] | None = None,
    sampler: Sampler = "tpe",
    pruner: Pruner = "auto",
    objectives: tuple[Objective, ...] = ("metric",),
    on_invalid: OnInvalid = "quarantine",
    max_invalid_share: float = 0.05,
    ratios: tuple[float, float, float] = (0.7, 0.15, 0.15),
    split_seed: int = 0,
    fresh: bool = False,
) -> TuneResult:
    """Search good options of a preset on a data set; a run with them then trains nothing twice.

    Args:
        algorithm: A preset's name, such as tabular-classification/lightgbm; `atelier algorithms` lists them.
        data: A path, a URI, or the name or digest of a data set version.
        name: For Prefect's pages; empty: the data's name.
        trials: Trials of the study; one that was begun goes on to this number.
        time_limit: Seconds after which no trial is started; at least one completes.
        options: Options that keep their value, such as {"epochs": 20}; for tables {"target": "label"} is required.
        space: Ranges by option, in place of the preset's own search space.
        sampler: How trials are chosen: tpe, random, grid, gp, cmaes or nsga2.
        pruner: How hopeless trials are stopped: quartile, median, hyperband, none, or auto.
        objectives: metric, and besides latency or size: the smallest or fastest model of nearly the best metric.
        on_invalid: What to do with broken samples: quarantine (set them aside), repair (mend what can be mended first) or fail.
        max_invalid_share: Largest share of samples that may be set aside, 0 to 1.
        ratios: Shares of train, valid and test, where the data has no splits of its own.
        split_seed: Seed of the split.
        fresh: Begin the study anew, and do every stage before it again.

    Returns:
        The best options, and where the study lies.

    Raises:
        InputError: what was asked for cannot be done as it is.
        TuningFailedError: no trial completed.
    """
    begin = time.monotonic()
    request = make_request(
        algorithm=algorithm,
        data=data,
        name=name,
        trials=trials,
        time_limit=time_limit,
        options=options or {},
        space=space,
        sampler=sampler,
        pruner=pruner,
        objectives=objectives,
        on_invalid=on_invalid,
        max_invalid_share=max_invalid_share,
        ratios=ratios,
        split_seed=split_seed,
        fresh=fresh,
    )
    with open_context(fresh=fresh) as context, stage_context(context):
        preset, config = check_request(request, context.settings, context.store)
        times: list[StageTime] = []
        found = get_data(request, preset, config, times, context)
        values, search = config.model_dump(mode="json"), request.tune_settings(preset)
        assert search is not None, "trials are asked for"
        tuned: Tuned = run_stage(
            tune_stage, times, algorithm=preset.name, config=values, data=found.data, settings=search, code=digests(values)
        )
        result = TuneResult(
            algorithm=preset.name,
            dataset=found.data.digest,
            study=tuned.study,
            metric=tuned.metric,
            best_value=tuned.value,
            best_parameters=tuned.params,
            options=tuned.config,
            trials=trials_in_words(tuned),
            artifact=f"{where(context, tuned.artifact)}/study.json",
            stages=times,
            seconds=round(time.monotonic() - begin, 3),
        )
        _show(found.name, result, tuned, context)
    return result


def _show(name: str, result: TuneResult, tuned: Tuned, context: StageContext) -> None:
    """The best options and all trials in Prefect's UI."""
    lines = [f"# {result.algorithm} on {name}: {result.metric} {result.best_value:.4g}", "", result.trials["reason"], ""]
    lines += ["```json", json.dumps(result.best_parameters, indent=2), "```", "", f"Study: `{result.artifact}`"]
    create_markdown_artifact(markdown="\n".join(lines), key=artifact_key(name, "tune"))
    study = read_json(context, tuned.artifact, "study.json")
    names = [one["label"] for one in study["objectives"]]
    rows = [
        {
            "trial": one["number"],
            "state": one["state"],
            **dict(zip(names, one["values"], strict=False)),
            **{key: str(value) for key, value in one["params"].items()},
        }
        for one in study["trials"][:1000]
    ]
    create_table_artifact(table=rows, key=artifact_key(name, "trials"), description=f"{result.algorithm}, study {result.study}")

"""What a tuning is asked to do, and what that means for Optuna: distributions, samplers, pruners. Optuna is loaded when it is needed."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from algorithms.metrics import primary_metric
from algorithms.search_space import Choice, Float, Int, Range, SearchSpace, grid
from infra.errors import InvalidOptionError
from infra.keys import content_key

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

Sampler = Literal["tpe", "random", "grid", "gp", "cmaes", "nsga2"]
Pruner = Literal["auto", "quartile", "median", "hyperband", "none"]
Objective = Literal["metric", "latency", "size"]
SINGLE_ONLY = ("cmaes",)
POPULATION = 12  # of NSGA-II: its generations must fit into a few dozen trials
MOST_GRID_POINTS = 100_000


class TuneSettings(BaseModel):
    """How options are searched."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trials: int = Field(default=20, ge=1, le=100_000, description="Trials of the study; a study that has some goes on to this number.")
    time_limit_s: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Seconds after which no trial is started, and running ones are stopped soon; at least one completes.",
    )
    sampler: Sampler = Field(default="tpe", description="tpe, random, grid, gp, cmaes (numbers; choices at random) or nsga2.")
    pruner: Pruner = Field(
        default="auto", description="quartile, median, hyperband or none; auto is quartile for one objective, none for several."
    )
    objectives: tuple[Objective, ...] = Field(
        default=("metric",), min_length=1, description="metric (accuracy or RMSE on the valid split), and besides latency or size."
    )
    max_metric_loss: float = Field(
        default=0.01,
        ge=0,
        allow_inf_nan=False,
        description="Several objectives: the smallest or fastest model is chosen whose metric is worse than the best by at most this "
        "(accuracy: absolute; RMSE: as a share of it).",
    )
    space: dict[str, Any] = Field(default_factory=dict, description="Ranges by option, in place of the preset's own.")
    fixed: tuple[str, ...] = Field(default=(), description="Options that keep the value they have.")
    grid_points: int = Field(default=3, ge=2, le=100, description="Sampler grid: values of each range of numbers.")
    warm_start: bool = Field(default=True, description="Begin with the best options of earlier studies of the preset on other data.")
    seed: int = Field(default=0, ge=0, lt=2**31, description="Seed of the search.")
    parallel: int | None = Field(default=None, ge=1, le=1024, description="Trials at a time; unset: one for each slot of the cluster.")


def check_settings(settings: TuneSettings) -> None:
    """Raise what cannot go together.

    Raises:
        InvalidOptionError: all faults at once.
    """
    problems = []
    if settings.objectives[0] != "metric" or len(set(settings.objectives)) != len(settings.objectives):
        problems.append(f"objectives: metric comes first, then latency or size, each once (got {', '.join(settings.objectives)})")
    if len(settings.objectives) > 1:
        if settings.sampler in SINGLE_ONLY:
            problems.append(
                f"sampler: {settings.sampler} knows one objective only (got {', '.join(settings.objectives)}); take nsga2 or tpe"
            )
        if settings.pruner in ("quartile", "median", "hyperband"):
            problems.append(f"pruner: {settings.pruner} knows one objective only; take none or auto")
    if problems:
        raise InvalidOptionError("the tuning", problems)


class Plan(BaseModel):
    """Everything that decides which trials a study makes; its digest names the study. The number of trials and time are not part of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    algorithm: str
    config: dict[str, Any]
    dataset: str
    code: dict[str, str]
    space: SearchSpace
    sampler: Sampler
    pruner: Pruner
    objectives: tuple[Objective, ...]
    grid_points: int
    seed: int

    @property
    def key(self) -> str:
        return content_key(self)

    @property
    def metric(self) -> str:
        return primary_metric(self.algorithm.split("/")[0])[0]

    @property
    def higher(self) -> bool:
        """Whether a higher metric is better."""
        return primary_metric(self.algorithm.split("/")[0])[1]

    @property
    def directions(self) -> list[Literal["minimize", "maximize"]]:
        return ["maximize" if name == "metric" and self.higher else "minimize" for name in self.objectives]

    @property
    def prunes(self) -> bool:
        return len(self.objectives) == 1 and self.pruner != "none"

    @property
    def resource(self) -> int | None:
        """Steps of a whole training, if its options tell."""
        steps = self.config.get("epochs") or self.config.get("num_rounds")
        return int(steps) if steps else None


def grid_values(plan: Plan) -> dict[str, list[Any]]:
    """The values of each option on the grid, in Optuna's words.

    Raises:
        InvalidOptionError: the grid is too large to be written down.
    """
    values = {name: [to_optuna(found, value) for value in grid(found, plan.grid_points)] for name, found in plan.space.items()}
    if grid_size(values) > MOST_GRID_POINTS:
        problem = (
            f"sampler: the grid has {grid_size(values):,} points, at most {MOST_GRID_POINTS:,} are handled; narrow the space or take tpe"
        )
        raise InvalidOptionError("the tuning", [problem])
    return values


def grid_size(values: dict[str, list[Any]]) -> int:
    size = 1
    for found in values.values():
        size *= len(found)
    return size


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """The space in Optuna's words."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, BaseDistribution] = {}
    for name, one in space.items():
        if isinstance(one, Float):
            found[name] = FloatDistribution(one.low, one.high, log=one.log)
        elif isinstance(one, Int):
            top = one.low + (one.high - one.low) // one.step * one.step
            found[name] = IntDistribution(one.low, top, log=one.log, step=one.step)
        else:
            found[name] = CategoricalDistribution([to_optuna(one, value) for value in one.values])
    return found


def to_optuna(found: Range, value: Any) -> Any:
    """Optuna's choices are scalars: a list goes as its JSON text."""
    return json.dumps(value) if isinstance(found, Choice) and isinstance(value, list | tuple | dict) else value


def from_optuna(space: SearchSpace, params: dict[str, Any]) -> dict[str, Any]:
    """Optuna's parameters as options."""
    return {name: _choice(space[name], value) for name, value in params.items()}


def _choice(found: Range, value: Any) -> Any:
    if not isinstance(found, Choice):
        return value
    return next(one for one in found.values if to_optuna(found, one) == value)


def make_sampler(plan: Plan, number: int) -> BaseSampler:
    """The sampler of one trial, seeded by the study's seed and the trial's number, so that no other trial's timing moves it."""
    from optuna import samplers

    seed = int(content_key([plan.seed, number])[:8], 16) % 2**31
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of what we ask for is experimental in Optuna, and says so
        match plan.sampler:
            case "tpe":
                return samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
            case "random":
                return samplers.RandomSampler(seed=seed)
            case "grid":
                return samplers.GridSampler(grid_values(plan), seed=plan.seed)
            case "gp":
                return samplers.GPSampler(seed=seed, warn_independent_sampling=False)
            case "cmaes":
                return samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
            case "nsga2":
                return samplers.NSGAIISampler(seed=seed, population_size=POPULATION)


def make_pruner(plan: Plan) -> BasePruner:
    """From the second complete trial and an eighth of the training on: quartile stops what is worse than three quarters of the others at the same step,
    median what is worse than half of them. Hyperband: arXiv 1603.06560, reduction 3.

    Learning curves cross: what learns slowly, with much augmentation or a small rate, often ends best. In 48 recorded trials of small-cnn the
    median stopped the best of 16 in 46 % of all orders, the quartile in 13 %, at 48 % and 62 % of the epochs. In replays of three
    times 64 recorded trials, beginning at the second complete trial instead of the fourth took 5 to 8 % less time; the goal was found as often on
    two of the three (0.78, 0.84), and less often on the third (0.67 instead of 0.72), whose trials are all alike.
    """
    from optuna import pruners

    if not plan.prunes:
        return pruners.NopPruner()
    if plan.pruner == "hyperband":
        return pruners.HyperbandPruner(min_resource=max(1, (plan.resource or 0) // 27), max_resource=plan.resource or "auto")
    kept = 50.0 if plan.pruner == "median" else 75.0
    return pruners.PercentilePruner(kept, n_startup_trials=2, n_warmup_steps=(plan.resource or 0) // 8)

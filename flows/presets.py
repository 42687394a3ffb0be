"""Each preset as a flow of its own, whose parameters are the preset's options: what Prefect's form shows, and what a deployment runs."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field

from algorithms.catalog import find_algorithm
from algorithms.compression.recipes import Mode
from flows.embedded import EmbeddedFlow, embedded_flow
from flows.training import RunResult, pipeline

COMMON: dict[str, tuple[Any, Any, str]] = {
    "data": (str, inspect.Parameter.empty, "A path, a URI, or the name or digest of a data set version."),
    "name": (str, "", "The model's name in the registry; empty: the data's name."),
    "workers": (int | str, 1, "Ranks of a distributed training, one slot of the cluster each: N, or MIN:MAX for as many as there are."),
    "backend": (Literal["auto", "horovod", "torch"] | None, None, "How ranks talk; none: as ATELIER_BACKEND says."),
    "on_invalid": (
        Literal["quarantine", "repair", "fail"],
        "quarantine",
        "What to do with broken samples: set them aside, mend what can be mended first, or end the run.",
    ),
    "trials": (Annotated[int, Field(ge=1)] | None, None, "Trials of a search for better options among those that keep their default."),
    "time_limit": (Annotated[float, Field(gt=0)] | None, None, "Seconds after which no trial of the search is started."),
    "compress": (Mode, "none", "none, prune, quantize, distill, or auto: the best of all that fits the budget."),
}


def flow_name(algorithm: str) -> str:
    """The preset's name as Prefect allows it (no slash): ``image-classification:resnet18``."""
    return algorithm.replace("/", ":")


@cache
def preset(name: str) -> EmbeddedFlow[..., RunResult]:
    """The flow of one preset; its parameters are ``data``, ``name``, ``workers``, ``on_invalid`` and the preset's typed options.

    Raises:
        UnknownAlgorithmError: with the nearest names.
    """
    algorithm = find_algorithm(name)
    parameters: list[inspect.Parameter] = []
    lines: list[str] = []
    for key, (annotation, default, meaning) in COMMON.items():
        parameters.append(inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation))
        lines.append(f"    {key}: {meaning}")
    for key, field in algorithm.config_type.model_fields.items():
        if key in COMMON:
            continue
        required = field.is_required() and key not in algorithm.defaults
        default = inspect.Parameter.empty if required else algorithm.defaults.get(key, field.get_default(call_default_factory=True))
        annotation = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        parameters.append(inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation))
        lines.append(f"    {key}: {field.description}")

    def run(**values: Any) -> RunResult:
        common = {key: values.pop(key) for key in list(values) if key in COMMON}
        set_by_hand = {key: value for key, value in values.items() if value != run.__signature__.parameters[key].default}  # type: ignore[attr-defined]
        return pipeline.fn(algorithm=name, options=set_by_hand, **common)

    run.__doc__ = f"{algorithm.summary} {algorithm.suits}\n\nArgs:\n" + "\n".join(lines)
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__name__ = run.__qualname__ = flow_name(name).replace(":", "_").replace("-", "_")
    return embedded_flow(flow_name(name))(run)

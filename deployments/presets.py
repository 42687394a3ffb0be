"""What is deployed: every preset, and the flows around them. Nothing is loaded here."""

from __future__ import annotations

from dataclasses import dataclass

from algorithms.catalog import ALGORITHMS
from flows.deployed import entrypoint
from infra.errors import InvalidOptionError


@dataclass(frozen=True)
class Deployable:
    """A flow that can be deployed.

    Attributes:
        name: by which people call it: a preset's, or a flow's.
        entrypoint: MODULE.ATTRIBUTE, as Prefect loads it.
        tags: shown in Prefect's pages.
        most_at_once: runs of one deployment at once; further ones wait. None: as many as the work pool lets run.
    """

    name: str
    entrypoint: str
    tags: tuple[str, ...]
    most_at_once: int | None = None


_FLOWS = (
    Deployable("pipeline", "flows.training.pipeline", ("training",)),
    Deployable("import-data", "flows.importing.import_data", ("data",)),
    # No limit of Prefect's: a run that pauses for approval gives its slot back, and minutes later is ended because it has none. The flow itself
    # lets one retraining of a model at a time go on.
    Deployable("retrain", "flows.retrain.retrain", ("training", "loop")),
    Deployable("canary", "deployments.canary_flow.canary", ("serving", "loop"), most_at_once=1),
    Deployable("tune", "flows.tuning.tune", ("training",)),
    Deployable("compress", "flows.compressing.compress", ("training",)),
    Deployable("batch-predict", "flows.predict.batch_predict", ("prediction",)),
    Deployable("monitor", "flows.monitor.monitor", ("watching", "loop"), most_at_once=1),
    Deployable("clean-up", "flows.clean_up.clean_up", ("upkeep",), most_at_once=1),
)


def deployables() -> list[Deployable]:
    """All of them, presets last."""
    return [*_FLOWS] + [Deployable(one.name, entrypoint(one.name), ("training", one.name.split("/")[0])) for one in ALGORITHMS]


def find_deployable(name: str) -> Deployable:
    """The one of this name.

    Raises:
        InvalidOptionError: with the names that there are.
    """
    known = deployables()
    for one in known:
        if one.name == name:
            return one
    raise InvalidOptionError("atelier deploy", [f"there is no flow {name!r}"], f"There are {', '.join(one.name for one in known)}.")

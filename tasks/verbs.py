"""Run one verb of an algorithm in a process of its own on the cluster."""

from __future__ import annotations

from algorithms.catalog import find_algorithm
from algorithms.run import RunSpec
from algorithms.trial import verb_modules
from infra.artifacts import Artifact, find
from infra.context import StageContext
from tasks.sealing import sealed_in_store


def run_verb(spec: RunSpec, context: StageContext, *, fresh: bool | None = None) -> Artifact:
    """The artifact at ``spec.output``: there already, or made now by one rank with all the threads of its host. A package is sealed where
    the settings have a key.

    Args:
        fresh: make it anew; None: as the context says.
    """
    if context.fresh if fresh is None else fresh:
        context.store.delete(spec.output)
    artifact = find(context.store, spec.output)
    if artifact is None:
        context.launch_ranks(
            spec, num_ranks=1, on_event=context.report, preload=verb_modules(find_algorithm(spec.algorithm).engine), output=spec.output
        )
        artifact = find(context.store, spec.output)
        assert artifact is not None, f"the rank ended well but left nothing at {spec.output}"
    return sealed_in_store(artifact, context)

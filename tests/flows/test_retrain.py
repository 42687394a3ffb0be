"""Retraining with real stages: the next version learns from old and new data, and what becomes of it stands in the log."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from flows import pipeline
from flows.retrain import retrain, start_options
from infra.context import StageContext
from infra.datasets import names
from infra.errors import InvalidOptionError, ModelNotFoundError
from infra.promotion import CHAMPION
from infra.registry import Registry

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_the_next_version_learns_from_old_and_new_data_and_takes_over_if_it_has_won(
    shared_services: Path, wine_table: Path, tmp_path: Path
) -> None:
    frame = pd.read_csv(wine_table).sample(frac=1, random_state=0)
    known = pd.concat([frame[frame.kind == kind][:9] for kind in sorted(frame.kind.unique())])
    known.to_csv(tmp_path / "old.csv", index=False)
    frame.drop(known.index).to_csv(tmp_path / "new.csv", index=False)
    options = {"target": "kind"}
    first = pipeline(algorithm="tabular-classification/linear", data=str(tmp_path / "old.csv"), name="wine", options=options)
    assert first.version == 1

    # Of so few test rows any difference may be chance, so the challenger does not take over, however good it is; the log says why.
    found = retrain(model="wine", data=str(tmp_path / "new.csv"), reason="new bottles", min_slice=1000)
    assert (found.version, found.num_added) == (2, len(frame) - len(known))
    assert found.outcome is not None
    with StageContext.open() as context:
        registry = Registry(context.settings, context.store)
        event = next(one for one in registry.history("wine") if one.compared.get("by") == "retrain")
        assert (event.version, event.compared["gain"]) == (2, found.outcome.gain)
        assert event.reason.startswith("new bottles: accuracy")
        live = next(one.version for one in registry.versions("wine") if CHAMPION in one.aliases)
        assert live == (2 if found.outcome.winner == "challenger" else 1)
        champion = registry.get("wine/2")
        assert names.resolve(context.store, "wine-all").digest == champion.dataset
        assert start_options(champion, {"seed": 7}, warm_start=True, free=False, context=context)["target"] == "kind"
        registry.promote("wine", 2, reason="for the test")

    again = retrain(model="wine", data=str(tmp_path / "new.csv"))
    assert (again.version, again.decision, again.num_added) == (None, "nothing new", 0)


def test_what_cannot_be_retrained_says_why(shared_services: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        retrain(model="nobody", data="x")
    with pytest.raises(InvalidOptionError, match="min_gain"):
        retrain(model="nobody", data="x", min_gain=-1)

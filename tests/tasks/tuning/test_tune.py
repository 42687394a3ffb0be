"""Tuning: real trials on a real cluster; the same seed gives the same choice, also when the tuning was killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from algorithms.catalog import find_algorithm
from infra.artifacts import find, read_file
from infra.context import StageContext
from infra.datasets.importer import import_source
from infra.errors import InvalidOptionError, TuningFailedError
from infra.settings import Settings
from infra.store import open_store
from tasks.train import train, training_key
from tasks.tune import Tuned, TuneSettings, tune
from tests.processes import marked
from tests.tasks.tuning.driver_program import ALGORITHM, OPTIONS

if TYPE_CHECKING:
    from distributed import Client

ROOT = Path(__file__).parents[3]
LINEAR = "tabular-classification/linear"
Run = Callable[..., Tuned]


@pytest.fixture
def context(workspace: Path, cluster: Client) -> StageContext:
    """A context on the shared cluster; what it tells is in ``context.told``."""
    settings = Settings(workspace=str(workspace), slots=2)
    context = StageContext(settings, open_store(str(workspace)))
    context.use_cluster(cluster)
    return context


@pytest.fixture
def run(context: StageContext, wine_table: Path) -> Run:
    """Tunes a preset on the wine data."""

    def call(algorithm: str = LINEAR, source: Path = wine_table, options: dict[str, Any] | None = None, **settings: Any) -> Tuned:
        config = find_algorithm(algorithm).config({"target": "kind", **(options or {})}).model_dump(mode="json")
        data = import_source(context.store, str(source), source.stem)
        return tune(algorithm, config, data, TuneSettings.model_validate({"trials": 4, **settings}), context=context)

    return call


def _study(context: StageContext, tuned: Tuned) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(read_file(context.store, tuned.artifact, "study.json"))
    return found


def _course(study: dict[str, Any]) -> list[dict[str, Any]]:
    """All that a study found, without when."""
    return [{key: value for key, value in trial.items() if key != "seconds"} for trial in study["trials"]]


def test_the_best_trial_wins_and_nothing_of_the_others_stays(run: Run, context: StageContext) -> None:
    tuned = run(trials=8)
    study = _study(context, tuned)
    values = {trial["number"]: trial["values"][0] for trial in study["trials"] if trial["state"] == "complete"}
    assert (tuned.num_complete, tuned.num_pruned, tuned.num_failed) == (8, 0, 0)
    assert tuned.value == max(values.values()) == values[tuned.trial]
    assert tuned.config["l1_ratio"] == tuned.params["l1_ratio"]
    assert set(tuned.params) == {"l1_ratio", "regularization"}
    assert list(context.store.list(f"tuning/{tuned.study}/trials/")) == []
    assert sum(study["importance"].values()) == pytest.approx(1, abs=0.01)


def test_the_final_training_costs_nothing(run: Run, context: StageContext, wine_table: Path) -> None:
    tuned = run()
    data = import_source(context.store, str(wine_table), "wine")
    key = f"runs/{training_key(LINEAR, tuned.config, data, {})}/trained"
    trained = find(context.store, key)
    assert trained is not None
    assert json.loads(read_file(context.store, trained, "spec.json"))["output"] == key
    context.use_cluster(None)  # type: ignore[arg-type] # nothing may be started
    assert train(LINEAR, tuned.config, data, name="wine", context=context).artifact == trained


def test_a_study_goes_on_where_it_stopped_and_repeats_nothing(run: Run, context: StageContext) -> None:
    first = _course(_study(context, run(trials=3)))
    begun = time.monotonic()
    again = _course(_study(context, run(trials=3)))
    assert time.monotonic() - begun < 5
    assert again == first
    more = _course(_study(context, run(trials=6)))
    assert more[:3] == first
    assert len(more) == 6


def test_a_pruned_trial_ends_early_and_is_no_winner(run: Run, context: StageContext) -> None:
    space = {"learning_rate": [2e-3, 1e-6], "dropout": "0..0.4"}
    fixed = ("weight_decay", "batch_size", "hidden")
    options = {"epochs": 10, "early_stopping": 0}
    tuned = run(ALGORITHM, options=options, trials=14, space=space, fixed=fixed, sampler="random", seed=1)
    trials = _study(context, tuned)["trials"]
    pruned = [trial for trial in trials if trial["state"] == "pruned"]
    assert pruned
    assert tuned.num_pruned == len(pruned)
    assert all(len(trial["steps"]) < 10 for trial in pruned)
    assert all(len(trial["steps"]) == 10 for trial in trials if trial["state"] == "complete")
    assert tuned.params["learning_rate"] == 2e-3


@pytest.mark.parametrize("sampler", ["random", "grid", "gp", "cmaes", "nsga2"])
def test_every_sampler_gives_the_same_study_for_the_same_seed(run: Run, context: StageContext, sampler: str) -> None:
    found = []
    for _ in range(2):
        context.store.delete("tuning")
        found.append(_course(_study(context, run(trials=5, sampler=sampler, seed=3, space={"max_iterations": "300..400"}))))
    assert found[0] == found[1]
    assert len({json.dumps(trial["params"]) for trial in found[0]}) == 5


def test_a_grid_ends_when_all_of_it_was_tried(run: Run) -> None:
    space = {"l1_ratio": [0.0, 0.5], "regularization": "0.1..10"}
    tuned = run(trials=50, sampler="grid", space=space, grid_points=2)
    assert tuned.num_complete == 4


def test_several_objectives_show_a_front_and_choose_by_the_rule(run: Run, context: StageContext) -> None:
    space = {"hidden": ["8", "256,256"]}
    fixed = ("learning_rate", "weight_decay", "batch_size")
    options = {"epochs": 4}
    tuned = run(
        ALGORITHM,
        options=options,
        trials=4,
        space=space,
        fixed=fixed,
        sampler="nsga2",
        objectives=("metric", "size", "latency"),
        max_metric_loss=1.0,
    )
    study = _study(context, tuned)
    assert tuned.params["hidden"] == "8"
    assert tuned.trial in study["front"]
    sizes = {trial["params"]["hidden"]: trial["values"][1] for trial in study["trials"]}
    assert sizes["8"] < sizes["256,256"]
    assert all(trial["values"][2] > 0 for trial in study["trials"])
    assert "smallest size" in tuned.reason


def test_one_bad_trial_does_not_end_the_search(run: Run, context: StageContext) -> None:
    tuned = run(
        options={}, trials=6, sampler="grid", space={"l1_ratio": [0.0], "regularization": [1.0, 2.0], "features": ["alcohol", "nosuch"]}
    )
    states = [trial["state"] for trial in _study(context, tuned)["trials"]]
    assert sorted(states) == ["complete", "complete", "failed", "failed"]
    assert tuned.num_failed == 2
    assert tuned.params["features"] == "alcohol"


def test_options_that_cannot_be_trained_with_are_told_at_once(run: Run) -> None:
    with pytest.raises(InvalidOptionError, match="nosuch"):
        run(options={"features": "nosuch"}, trials=20)


def test_when_no_trial_completes_the_reason_is_told(run: Run) -> None:
    space = {"learning_rate": [90.0, 100.0], "clip_norm": [0.0]}
    with pytest.raises(TuningFailedError, match="diverged"):
        run(ALGORITHM, options={"epochs": 6, "optimizer": "sgd"}, trials=2, space=space, sampler="grid", fixed=_all_but("learning_rate"))


def _all_but(name: str) -> tuple[str, ...]:
    return tuple(option for option in find_algorithm(ALGORITHM).search_space if option != name)


def test_the_time_limit_ends_the_study_with_what_it_has(run: Run) -> None:
    tuned = run(trials=500, time_limit_s=3)
    assert 1 <= tuned.num_complete < 500


def test_an_earlier_study_of_the_preset_gives_the_second_trial(run: Run, context: StageContext, wine_table: Path, tmp_path: Path) -> None:
    earlier = run(trials=4, seed=5)
    half = tmp_path / "half.csv"
    lines = wine_table.read_text().splitlines()
    half.write_text("\n".join([lines[0], *lines[1::2]]) + "\n")
    study = _study(context, run(source=half, trials=3))
    assert study["num_first"] == 2
    assert study["trials"][1]["params"] == earlier.params
    cold = _study(context, run(source=half, trials=3, warm_start=False, seed=9))
    assert cold["num_first"] == 1


def test_a_torn_journal_is_mended_and_told(run: Run, context: StageContext) -> None:
    tuned = run(trials=3)
    journal = Path(context.store.uri) / "tuning" / tuned.study / "journal.log"
    with journal.open("ab") as file:
        file.write(b'{"op_code": 6, "trial')
    told: list[str] = []
    context.report = lambda event: told.append(event["message"]) if event["kind"] == "log" else None
    assert run(trials=4).num_complete == 4
    assert [message for message in told if "torn at its end: 21 bytes" in message]


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_study_in_a_database_goes_on_and_can_be_forgotten(
    run: Run, context: StageContext, tmp_path: Path, database: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("postgres_url") if database == "postgresql" else f"sqlite:///{tmp_path}/studies.db"
    context.settings = context.settings.model_copy(update={"optuna_storage": url})
    first = _course(_study(context, run(trials=2, sampler="random")))
    more = _course(_study(context, run(trials=3, sampler="random")))
    assert more[:2] == first
    assert list(Path(context.store.uri).glob("tuning/*/journal.log")) == []
    context.fresh = True
    assert _course(_study(context, run(trials=2, sampler="random"))) == first


def test_a_study_in_s3_goes_on(s3_workspace: str, wine_table: Path, own_cache: Path) -> None:
    config = find_algorithm(LINEAR).config({"target": "kind"}).model_dump(mode="json")
    courses = []
    with StageContext.open(Settings(workspace=s3_workspace, cache_dir=own_cache, slots=2)) as context:
        data = import_source(context.store, str(wine_table), "wine")
        for trials in (2, 3):
            tuned = tune(LINEAR, config, data, TuneSettings(trials=trials), context=context)
            courses.append(_course(_study(context, tuned)))
        assert list(context.store.list(f"tuning/{tuned.study}/journal/"))
        assert not list(context.store.list(f"tuning/{tuned.study}/trials/"))
    assert courses[1][:2] == courses[0]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sampler": "cmaes", "objectives": ("metric", "size")}, "cmaes knows one objective only"),
        ({"pruner": "median", "objectives": ("metric", "latency")}, "median knows one objective only"),
        ({"objectives": ("size", "metric")}, "metric comes first"),
        ({"space": {"l1_rato": [0.0]}}, "did you mean l1_ratio"),
        ({"sampler": "grid", "grid_points": 100, "space": {"max_iterations": "10..400", "l1_ratio": "0..1"}}, "the grid has"),
    ],
)
def test_what_cannot_go_together_is_refused_before_anything_starts(run: Run, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidOptionError, match=words):
        run(**settings)


def _driver(wine_table: Path, workspace: Path) -> subprocess.Popen[str]:
    program = str(Path(__file__).with_name("driver_program.py"))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "ATELIER_WORKSPACE": str(workspace), "ATELIER_SLOTS": "2", "TUNE_MARK": str(workspace)}
    return subprocess.Popen([sys.executable, program, str(wine_table), "7"], env=env, stdout=subprocess.PIPE, text=True)


def test_a_killed_tuning_comes_to_the_same_choice_and_repeats_no_finished_trial(
    wine_table: Path, workspace: Path, context: StageContext, run: Run, tmp_path: Path
) -> None:
    import optuna

    killed = tmp_path / "killed"
    with _driver(wine_table, killed) as driver:
        assert driver.stdout is not None
        while driver.stdout.readline() not in ("ended 3\n", ""):
            pass
        driver.kill()
    deadline = time.monotonic() + 8
    while marked("TUNE_MARK", str(killed)):
        assert time.monotonic() < deadline, "a trial outlived the killed driver"
        time.sleep(0.1)
    (journal,) = (killed / "tuning").glob("*/journal.log")
    before = _trials(optuna, journal)
    assert 3 <= sum(trial.state.is_finished() for trial in before) < 7
    with _driver(wine_table, killed) as driver:
        output, _ = driver.communicate(timeout=240)
    assert driver.returncode == 0
    found = json.loads(output.splitlines()[-1])
    after = _trials(optuna, journal)
    assert len(after) == 7
    for old in (trial for trial in before if trial.state.is_finished()):
        assert after[old.number] == old
    undisturbed = run(ALGORITHM, options=OPTIONS, trials=7)
    assert found == undisturbed.model_dump(mode="json", exclude={"artifact"})


def _trials(optuna: Any, journal: Path) -> list[Any]:
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
    (study,) = storage.get_all_studies()
    return list(storage.get_all_trials(study._study_id))

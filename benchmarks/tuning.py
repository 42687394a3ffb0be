"""What parallel trials and pruning save: ours against plain Optuna, one trial after the other, in one run.

    python benchmarks/tuning.py [--seeds 5] [--trials 16] [--epochs 20] [--kind pictures|table|boosting] [--learning-rates 0.00001..1] [--pruner auto]

Both tune small-cnn (or, for a table, mlp or lightgbm) on the digits (a fifth to train on, two fifths to judge by) over the same space, with TPE, the same
seeds and the same first trial (the preset's own options); each side is a process of its own, timed from its start, on data that is imported already:
    plain   Optuna's ``study.optimize`` in one process, no pruner, each training with the threads of all cores
    ours    ``tasks.tune``: its Dask cluster is started and timed, too; a trial for each core, its pruner
Both are timed until their best accuracy on the valid split is that of plain at its end; ours may take up to twice the trials for it, and counts
as all of its time if it never gets there. Printed for plain: when its last trial ended, which nobody can know to be enough before (the claim:
the median of ours is at most half of it), and when it first had that accuracy, which is harder on us.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

ALGORITHMS = {
    "pictures": "image-classification/small-cnn",
    "table": "tabular-classification/mlp",
    "boosting": "tabular-classification/lightgbm",
}


def prepare(folder: Path, kind: str) -> None:
    """A workspace with the digits, a fifth of them to train on: with more, the first trial has nothing wrong and there is nothing to search."""
    from infra.datasets.digits import write_digits
    from infra.datasets.importer import import_source
    from infra.store import open_store

    if kind == "pictures":
        source, target = str(write_digits(folder / "source")), None
    else:
        from sklearn.datasets import load_digits

        source, target = str(folder / "digits.csv"), "target"
        load_digits(as_frame=True).frame.to_csv(source, index=False)
    ref = import_source(open_store(str(folder)), source, "digits", target=target, ratios=(0.2, 0.4, 0.4))
    (folder / "ref.json").write_text(ref.model_dump_json())


def options(given: argparse.Namespace) -> dict[str, Any]:
    from algorithms.catalog import find_algorithm

    own: dict[str, dict[str, Any]] = {
        "pictures": {"image_size": given.image_size, "epochs": given.epochs},
        "table": {"target": "target", "epochs": given.epochs},
        "boosting": {"target": "target"},
    }
    return find_algorithm(ALGORITHMS[given.kind]).config(own[given.kind]).model_dump(mode="json")


def ranges(given: argparse.Namespace) -> dict[str, Any]:
    """What differs from the preset's own space."""
    return {"learning_rate": given.learning_rates} if given.learning_rates else {}


def plain(given: argparse.Namespace) -> None:
    """Plain Optuna; prints time and accuracy as each trial ends."""
    import optuna

    from algorithms.catalog import find_algorithm
    from algorithms.run import RunSpec, execute
    from algorithms.search_space import default_values, narrow
    from algorithms.trial import best_value
    from infra.artifacts import read_file
    from infra.collectives import LocalCollectives
    from infra.datasets.card import DatasetRef
    from infra.store import open_store
    from tasks._tuning.plan import distributions, from_optuna, to_optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder, seed = given.folder, given.seeds
    store = open_store(str(folder))
    data = DatasetRef.model_validate_json((folder / "ref.json").read_text())
    algorithm = ALGORITHMS[given.kind]
    preset, config = find_algorithm(algorithm), options(given)
    space = narrow(preset, config, ranges(given))
    cores = len(os.sched_getaffinity(0))

    def objective(trial: optuna.Trial) -> float:
        params = {name: trial._suggest(name, one) for name, one in distributions(space).items()}
        values = preset.config({**config, **from_optuna(space, params)}).model_dump(mode="json")
        output = f"plain/{seed}/{trial.number}"
        spec = RunSpec(verb="train", algorithm=algorithm, config=values, dataset=data, workspace=str(folder), output=output, threads=cores)
        trained = execute(spec, LocalCollectives())
        assert trained is not None
        value = best_value(json.loads(read_file(store, trained, "history.json")))
        assert value is not None
        print(json.dumps({"time": time.time(), "value": value}), flush=True)
        return value

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    study.enqueue_trial({name: to_optuna(space[name], value) for name, value in default_values(preset, config, space).items()})
    study.optimize(objective, n_trials=given.trials)


def ours(given: argparse.Namespace) -> None:
    """``tasks.tune``; prints time and best accuracy as each trial ends, and stops when that is the goal."""
    from infra.context import StageContext
    from infra.datasets.card import DatasetRef
    from tasks.tune import TuneSettings, tune

    class GoalReached(Exception):
        """The measured part is over."""

    def listen(event: dict[str, Any]) -> None:
        if event["kind"] == "progress" and "metric" in event:
            print(json.dumps({"time": time.time(), "value": event["metric"], "step": event["step"]}), flush=True)
            if event["metric"] >= given.goal:
                raise GoalReached

    data = DatasetRef.model_validate_json((given.folder / "ref.json").read_text())
    try:
        with StageContext.open(report=listen) as context:
            tune(
                ALGORITHMS[given.kind],
                options(given),
                data,
                TuneSettings(trials=given.trials, seed=given.seeds, space=ranges(given), pruner=given.pruner),
                context=context,
            )
    except GoalReached:
        return


class Side(NamedTuple):
    """What one side took, in seconds from its start."""

    end_s: float
    best_s: float  # when it first had its best accuracy
    cpu_s: float  # of all its processes
    best: float
    num_trials: int


def side(name: str, folder: Path, seed: int, trials: int, given: argparse.Namespace, goal: float = 2.0) -> Side:
    """Run one side; ``goal`` ends it early."""
    env = {**os.environ, "ATELIER_WORKSPACE": str(folder), "PYTHONPATH": str(Path(__file__).parents[1])}
    options = {
        "side": name,
        "folder": folder,
        "seeds": seed,
        "trials": trials,
        "kind": given.kind,
        "epochs": given.epochs,
        "image-size": given.image_size,
        "learning-rates": given.learning_rates,
        "pruner": given.pruner,
        "goal": goal,
    }
    command = [sys.executable, __file__, *(f"--{option}={value}" for option, value in options.items())]
    begin, cpu = time.time(), _cpu_s()
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    best = max(line["value"] for line in lines)
    first = next(line["time"] for line in lines if line["value"] >= best)
    return Side(lines[-1]["time"] - begin, first - begin, _cpu_s() - cpu, best, lines[-1].get("step", len(lines)))


def _cpu_s() -> float:
    """CPU time of all processes that were started from here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--image-size", type=int, default=8)
    parser.add_argument("--kind", choices=list(ALGORITHMS), default="pictures")
    parser.add_argument("--learning-rates", default="", help="a range in place of the preset's own, such as 0.00001..1")
    parser.add_argument("--pruner", default="auto", help="of our side: auto, quartile, median, hyperband or none")
    parser.add_argument("--side", choices=["plain", "ours"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--goal", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side == "plain":
        return plain(given)
    if given.side == "ours":
        return ours(given)
    names = ("torch", "optuna", "distributed")
    print(f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, " + ", ".join(f"{name} {version(name)}" for name in names))
    rows: list[tuple[Side, Side]] = []
    for seed in range(given.seeds):
        with tempfile.TemporaryDirectory(prefix="bench-tuning-") as scratch:
            folder = Path(scratch)
            prepare(folder, given.kind)
            one = side("plain", folder, seed, given.trials, given)
            our = side("ours", folder, seed, 2 * given.trials, given, one.best)
        rows.append((one, our))
        reached = "reached" if our.best >= one.best else f"NOT reached: {our.best:.4f}"
        print(
            f"seed {seed}: plain {one.end_s:6.1f} s for {given.trials} trials, {one.best:.4f} first after {one.best_s:.1f} s; "
            f"ours {our.end_s:6.1f} s, {reached} in {our.num_trials} trials; CPU: plain {one.cpu_s:.0f} s, ours {our.cpu_s:.0f} s",
            flush=True,
        )
    end, first, ours_s = (
        statistics.median(column) for column in zip(*((one.end_s, one.best_s, our.end_s) for one, our in rows), strict=True)
    )
    print(f"medians: plain {end:.1f} s, ours {ours_s:.1f} s, ratio {ours_s / end:.2f} (claim: at most 0.50)")
    print(f"against the moment at which plain first had its best ({first:.1f} s): ratio {ours_s / first:.2f}")
    return None


if __name__ == "__main__":
    main()

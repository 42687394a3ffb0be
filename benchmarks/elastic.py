"""Elastic training: what it costs, how fast it starts, how fast it recovers, and whether growing and shrinking loses anything.

    python benchmarks/elastic.py [--parts cost,start,recovery,resize] [--pairs 5] [--kills 20] [--backend horovod]

All on the bundled digits with small-cnn, 2 ranks on this machine, one thread each; cost with resnet18 on JPEG files, too. Claims:
    cost      samples/s of an elastic job at most 3 % below those of the same job with a fixed number of ranks (median of the pairs, for either network)
    start     from the call to the first step of 2 ranks: at most 5 s cold, at most 1.5 s where warm processes wait; beside horovodrun and torchrun
    recovery  kill -9 of one of 2 ranks at a random step, other seeds each time: all finish, the next step within 10 s (median at most 3 s), and
              at most the steps since the last commit are repeated
    resize    1 -> 3 -> 1 workers within an epoch: every sample counts once, and the accuracy is within 0.5 points of the undisturbed run's
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from algorithms.catalog import find_algorithm
from algorithms.run import RunSpec
from algorithms.trial import rank_modules
from infra.cluster import open_cluster
from infra.datasets.card import DatasetRef
from infra.datasets.digits import write_digits
from infra.datasets.importer import import_source
from infra.elastic.discovery import DaskDiscovery
from infra.elastic.launch import launch_elastic
from infra.elastic.policy import Limits, Worker
from infra.launch import Backend, launch
from infra.settings import Settings, load_settings
from infra.store import Store, open_store

if TYPE_CHECKING:
    from distributed import Client

ROOT = Path(__file__).resolve().parent.parent
PRESET = "image-classification/small-cnn"
COMMIT_EVERY = 5


@dataclass
class Bench:
    """Where the runs happen."""

    folder: Path
    store: Store
    data: DatasetRef
    settings: Settings
    backend: Backend
    numbers: dict[str, int] = field(default_factory=dict)

    def spec(self, name: str, *, preset: str = PRESET, **config: Any) -> RunSpec:
        self.numbers[name] = self.numbers.get(name, 0) + 1
        output = f"runs/{name}-{self.numbers[name]}"
        common = {"verb": "train", "algorithm": preset, "dataset": self.data, "workspace": self.store.uri}
        return RunSpec.model_validate({**common, "config": config, "output": f"{output}/trained", "checkpoints": f"{output}/checkpoints"})

    def history(self, spec: RunSpec) -> dict[str, Any]:
        path = self.store.local_path(f"{spec.output}/history.json")
        assert path is not None
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def elastic(
        self, client: Client, spec: RunSpec, least: int, most: int, *, on_event: Callable[[dict[str, Any]], None], **more: Any
    ) -> None:
        launch_elastic(
            spec.model_dump_json(),
            client=client,
            limits=Limits(least, most),
            backend=self.backend,
            threads_per_rank=1,
            preload=(*rank_modules(*engine_of(spec)), "infra.elastic.collectives", "horovod.torch?"),
            deadline_s=240,
            on_event=on_event,
            log_dir=self.folder / "logs",
            **more,
        )


def engine_of(spec: RunSpec) -> tuple[Any, Any]:
    algorithm = find_algorithm(spec.algorithm)
    return algorithm.engine, algorithm.config(spec.config)


def ignore(event: dict[str, Any]) -> None:
    """Nobody listens."""


def verdict(holds: bool) -> str:
    return "holds" if holds else "does not hold"


def cost(bench: Bench, pairs: int) -> None:
    """small-cnn, whose steps are short, and resnet18 on JPEG files, the network of ``benchmarks/training.py``."""
    sys.path.insert(0, str(ROOT))
    from benchmarks import training

    _cost(bench, pairs, "small-cnn, 28x28", PRESET, {"epochs": 30})
    jpegs = import_source(bench.store, str(training.write_jpegs(bench.folder / "jpegs", 384, 128)), "jpegs")
    options = {**training.OPTIONS, "image_size": 96, "epochs": 6}
    _cost(replace(bench, data=jpegs), pairs, "resnet18, 96x96", training.PRESET, options)


def _cost(bench: Bench, pairs: int, name: str, preset: str, options: dict[str, Any]) -> None:
    """The same job on both sides: the same loader, steps and checkpoints, 32 samples a rank; from the end of the first step to that of the last."""
    ratios: list[float] = []
    shares: list[float] = []
    cpu: dict[str, list[float]] = {"fixed": [], "elastic": []}
    with open_cluster(bench.settings) as client:

        def speed(kind: str) -> float:
            """Samples/s."""
            spec = bench.spec(f"{kind}-{preset.rpartition('/')[2]}", preset=preset, batch_size=64, checkpoint_every_s=1000, **options)
            told: list[dict[str, Any]] = []

            def hear(event: dict[str, Any]) -> None:
                if event["kind"] == "timed":
                    told.append(event)

            here: dict[str, Any] = {"module": "benchmarks._elastic.timed", "env": {"PYTHONPATH": str(ROOT)}, "on_event": hear}
            if kind == "elastic":
                bench.elastic(client, spec, 2, 2, **here)
            else:
                here |= {"client": client, "num_ranks": 2, "threads_per_rank": 1, "deadline_s": 240.0, "log_dir": bench.folder / "logs"}
                launch(spec.model_dump_json(), backend=bench.backend, **here)
            assert len(told) == 2, "a rank did not tell its times"
            cpu[kind].append(statistics.mean(1000 * one["cpu_s"] / one["steps"] for one in told))
            if kind == "elastic":
                shares.append(statistics.mean(one["elastic_s"] / one["seconds"] for one in told))
            return statistics.mean(one["samples"] / one["seconds"] for one in told)

        for number in range(pairs):
            kinds = ("fixed", "elastic") if number % 2 == 0 else ("elastic", "fixed")
            found = {kind: speed(kind) for kind in kinds}
            ratios.append(found["elastic"] / found["fixed"])
            print(
                f"{name}, pair {number + 1}: fixed {found['fixed']:.0f} samples/s, elastic {found['elastic']:.0f}, ratio {ratios[-1]:.3f}; "
                f"CPU of a rank's step: fixed {cpu['fixed'][-1]:.1f} ms, elastic {cpu['elastic'][-1]:.1f} ms",
                flush=True,
            )
    median = statistics.median(ratios)
    print(f"{name}: elastic runs at {median:.3f} of the fixed job's speed ({min(ratios):.3f} to {max(ratios):.3f}); ", end="")
    print(f"at least 0.97: {verdict(median >= 0.97)}")
    used = {kind: statistics.median(values) for kind, values in cpu.items()}
    print(f"{name}: CPU of a rank's step: fixed {used['fixed']:.2f} ms, elastic {used['elastic']:.2f} ms; ", end="")
    print(f"questions and commits take {100 * statistics.median(shares):.2f} % of an elastic job's time")


def start(bench: Bench, pairs: int) -> None:
    times: dict[str, list[float]] = {"cold": [], "warm": [], "horovodrun": [], "torchrun": []}
    for _ in range(pairs):
        with open_cluster(bench.settings) as client:
            for kind in ("cold", "warm"):
                times[kind].append(_to_first_step(bench, client))
        script = str(ROOT / "benchmarks" / "_elastic" / "first_step.py")
        bin_dir = Path(sys.executable).parent
        horovodrun = [str(bin_dir / "horovodrun"), "-np", "2", "--gloo", sys.executable, script, "horovod"]
        torchrun = [str(bin_dir / "torchrun"), "--nproc-per-node", "2", script, "torch"]
        for kind, command in (("horovodrun", horovodrun), ("torchrun", torchrun)):
            times[kind].append(_script_to_first_step(command))
        print("  ".join(f"{kind} {values[-1]:.2f} s" for kind, values in times.items()), flush=True)
    medians = {kind: statistics.median(values) for kind, values in times.items()}
    print("start, median: " + ", ".join(f"{kind} {value:.2f} s" for kind, value in medians.items()))
    print(f"cold at most 5 s: {verdict(medians['cold'] <= 5)}; warm at most 1.5 s: {verdict(medians['warm'] <= 1.5)}")


def _to_first_step(bench: Bench, client: Client) -> float:
    first: list[float] = []

    def hear(event: dict[str, Any]) -> None:
        if event["kind"] == "step" and not first:
            first.append(time.perf_counter())

    begun = time.perf_counter()
    spec = bench.spec("start", epochs=1, batch_size=64)
    bench.elastic(client, spec, 2, 2, on_event=hear, module="benchmarks._elastic.program", env={"PYTHONPATH": str(ROOT)})
    return first[0] - begun


def _script_to_first_step(command: list[str]) -> float:
    begun = time.time()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment, cwd=ROOT)
    found = re.findall(r"first step at ([\d.]+)", done.stdout + done.stderr)
    assert found, done.stdout + done.stderr
    return max(map(float, found)) - begun


def recovery(bench: Bench, kills: int) -> None:
    waits, repeats, finished = [], [], 0
    with open_cluster(bench.settings) as client:
        for seed in range(kills):
            rng = random.Random(seed)
            spec = bench.spec("recovery", epochs=4, batch_size=64, seed=seed, commit_every_steps=COMMIT_EVERY)
            at, victim = rng.randrange(4, 70), rng.choice(("rank 0", "the other rank"))
            watch = _Kill(at, victim)
            bench.elastic(client, spec, 2, 2, on_event=watch, module="benchmarks._elastic.program", env={"PYTHONPATH": str(ROOT)})
            whole = all(watch.whole(epoch, bench.history(spec)) for epoch in range(4))
            finished += whole
            waits.append(watch.wait)
            repeats.append(watch.repeated())
            print(f"seed {seed}: {victim} killed at step {at}, next step after {waits[-1]:.2f} s, {repeats[-1]} steps again", flush=True)
    median, worst = statistics.median(waits), max(waits)
    most = COMMIT_EVERY + 2  # a step may be done, and not yet told, when the kill comes
    print(
        f"recovery: {finished} of {kills} finished with every sample counted once; next step after {median:.2f} s (median), {worst:.2f} s (worst)"
    )
    print(
        f"all: {verdict(finished == kills)}; worst at most 10 s: {verdict(worst <= 10)}; median at most 3 s: {verdict(median <= 3)}; ",
        end="",
    )
    print(f"steps again at most {max(repeats)}, of commits every {COMMIT_EVERY}: {verdict(max(repeats) <= most)}")


class _Kill:
    """Kills a rank at the given step, and watches what follows."""

    def __init__(self, at: int, victim: str) -> None:
        self.at, self.victim = at, victim
        self.steps: list[dict[str, Any]] = []
        self.pids: list[int] = []
        self.killed_at = 0.0
        self.wait = float("inf")

    def __call__(self, event: dict[str, Any]) -> None:
        if event["kind"] == "hello":
            self.pids.append(event["pid"])
        if event["kind"] == "group" and self.killed_at and self.wait == float("inf"):
            self.regrouped = True
        if event["kind"] != "step":
            return
        self.steps.append(event)
        if not self.killed_at and len(self.steps) >= self.at:
            main = event["pid"]
            pid = main if self.victim == "rank 0" else next(pid for pid in self.pids if pid != main)
            os.kill(pid, signal.SIGKILL)
            self.killed_at = time.perf_counter()
        elif self.killed_at and getattr(self, "regrouped", False) and self.wait == float("inf"):
            self.wait = time.perf_counter() - self.killed_at

    def repeated(self) -> int:
        keys = [(step["epoch"], *step["bounds"]) for step in self.steps]
        return len(keys) - len(set(keys))

    def whole(self, epoch: int, history: dict[str, Any]) -> bool:
        return len(history["epochs"]) == 4 and _is_covered(self.steps, epoch)


def _is_covered(steps: list[dict[str, Any]], epoch: int) -> bool:
    """Whether the batches that counted (of those done again, the last) follow each other without a gap."""
    done: list[tuple[int, int]] = []
    for step in steps:
        if step["epoch"] == epoch:
            first, last = step["bounds"]
            done = [*(bounds for bounds in done if bounds[1] <= first), (first, last)]
    return bool(done) and done[0][0] == 0 and all(one[1] == other[0] for one, other in itertools.pairwise(done))


@dataclass
class _Offered(DaskDiscovery):
    client: Client
    count: int = 1

    def workers(self, held: Iterable[str]) -> dict[str, Worker] | None:
        mine = list(held)
        found = super().workers(mine)
        if found is None:
            return None
        names = sorted(found, key=lambda name: (name not in mine, name))
        shown = {name: found[name] for name in names[: self.count]}
        return {**shown, **{name: replace(found[name], closing=True) for name in names[self.count :] if name in mine}}


def resize(bench: Bench, seeds: int) -> None:
    differences, covered = [], 0
    pause = bench.folder / "pause"
    with open_cluster(bench.settings.model_copy(update={"slots": 3})) as client:
        for seed in range(seeds):
            options: dict[str, Any] = {"epochs": 8, "batch_size": 16, "seed": seed, "commit_every_steps": 2}
            undisturbed = bench.spec("undisturbed", **options)
            bench.elastic(client, undisturbed, 1, 1, on_event=ignore)
            offered = _Offered(client)
            steps: list[dict[str, Any]] = []
            sizes: list[int] = []

            def hear(event: dict[str, Any], offered: _Offered = offered, steps: list[Any] = steps, sizes: list[int] = sizes) -> None:
                if event["kind"] != "step":
                    return
                steps.append(event)
                if event["epoch"] != 1:
                    return
                sizes.append(event["size"])
                offered.count = 1 if sizes.count(3) >= 3 else 3
                if 3 in sizes and event["size"] == 1:
                    pause.unlink(missing_ok=True)

            pause.touch()
            spec = bench.spec("resize", **options)
            env = {"PYTHONPATH": str(ROOT), "ATELIER_BENCH_PAUSE": str(pause)}
            bench.elastic(client, spec, 1, 3, on_event=hear, discovery=offered, module="benchmarks._elastic.program", env=env)
            order = [size for size, before in zip(sizes, [0, *sizes], strict=False) if size != before]
            covered += all(_is_covered(steps, epoch) for epoch in range(8)) and max(sizes) == 3 and sizes[-1] == 1
            accuracies = [bench.history(one)["epochs"][-1]["valid_accuracy"] for one in (undisturbed, spec)]
            differences.append(100 * (accuracies[1] - accuracies[0]))
            print(f"seed {seed}: sizes {order}, accuracy {accuracies[0]:.4f} undisturbed, {accuracies[1]:.4f} resized", flush=True)
    mean = statistics.mean(differences)
    print(f"resize: {covered} of {seeds} runs grew to 3 and shrank to 1 within the epoch with every sample counted once; ", end="")
    print(f"accuracy differs by {mean:+.2f} points; within 0.5: {verdict(abs(mean) <= 0.5 and covered == seeds)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="cost,start,recovery,resize")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--backend", choices=("horovod", "torch"), default="horovod")
    given = parser.parse_args()
    print(
        f"torch {version('torch')}, distributed {version('distributed')}, Python {platform.python_version()}, {os.cpu_count()} cores, {given.backend}"
    )
    with tempfile.TemporaryDirectory(prefix="atelier-bench-", ignore_cleanup_errors=True) as scratch:
        os.environ["ATELIER_WORKSPACE"], os.environ["ATELIER_CACHE_DIR"] = f"{scratch}/workspace", f"{scratch}/cache"
        load_settings.cache_clear()
        settings = load_settings().model_copy(update={"slots": 2})
        store = open_store(settings.workspace_uri)
        data = import_source(store, str(write_digits(Path(scratch) / "digits")), "digits")
        bench = Bench(Path(scratch), store, data, settings, given.backend)
        parts: dict[str, Callable[[], None]] = {
            "cost": lambda: cost(bench, given.pairs),
            "start": lambda: start(bench, given.pairs),
            "recovery": lambda: recovery(bench, given.kills),
            "resize": lambda: resize(bench, given.seeds),
        }
        for part in given.parts.split(","):
            parts[part]()


if __name__ == "__main__":
    main()

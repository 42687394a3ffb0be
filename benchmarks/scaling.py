"""Growth to 512 ranks: a step on paper, from a cost model with measured parts; discovery and rendezvous by simulation.

    python benchmarks/scaling.py [--steps 12] [--ranks 512] [--picture docs/images/scaling.svg] [--part model,rendezvous,discovery]

model        times of all-reduce by gloo and by Horovod over gloo (2 and 4 ranks) and of a step (1 and 2 ranks, one thread each) on this machine; fits
             T(n, p) = 2 (p-1) alpha + 2 (p-1)/p n / beta, and puts a step together from it for links of 1 and 10 Gbit/s (docs/scaling.md)
rendezvous   512 simulated ranks on 64 simulated hosts speak the protocol of our Horovod over HTTP to the real server, from another process;
             beside it the protocol of stock Horovod with fewer ranks, since its requests grow with the square
discovery    512 real Dask workers (in one process): how long the driver needs to count the slots, and until 512 tasks that hold one have answered
Claims: rendezvous and discovery of 512 slots take seconds (less than 30 each).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from infra import wire
from infra._rendezvous import assign_ranks, serve_rendezvous

HERE = Path(__file__).parent
SIZES = [4 << 10, 64 << 10, 1 << 20, 8 << 20, 32 << 20]
BUCKET_BYTES = 8 << 20
SLOTS_OF_A_HOST = 8
RANKS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]


@dataclass(frozen=True)
class Link:
    """A network between ranks: ``alpha`` seconds for a message, ``beta`` bytes a second, ``cycle`` seconds that Horovod adds to an operation."""

    name: str
    alpha: float
    beta: float
    cycle: float = 0.0

    def all_reduce(self, num_bytes: float, ranks: int) -> float:
        """Seconds of a ring all-reduce."""
        return 0.0 if ranks == 1 else 2 * (ranks - 1) * self.alpha + 2 * (ranks - 1) / ranks * num_bytes / self.beta


@dataclass(frozen=True)
class Step:
    """A step of one rank alone, seconds; ``deviation`` is the standard deviation of the whole."""

    forward: float
    backward: float
    optimizer: float
    deviation: float
    gradient_bytes: int

    def seconds(self, ranks: int, link: Link, *, overlap: bool) -> float:
        """Time of a step with ``ranks`` ranks.

        Buckets are reduced one after the other, each with one more small all-reduce by which Horovod agrees that all have it. With overlap, all but the
        last bucket run beside the backward pass. The slowest of p ranks is sqrt(2 ln p) standard deviations late (normal, independent).
        """
        buckets = math.ceil(self.gradient_bytes / BUCKET_BYTES)
        one = link.all_reduce(self.gradient_bytes / buckets, ranks) + link.all_reduce(64, ranks) + (link.cycle if ranks > 1 else 0.0)
        late = self.deviation * math.sqrt(2 * math.log(ranks))
        if not overlap:
            return self.forward + self.backward + buckets * one + self.optimizer + late
        return self.forward + max(self.backward, (buckets - 1) * one) + one + self.optimizer + late


def fit(times: dict[int, float], ranks: int) -> tuple[float, float]:
    """Alpha and beta from all-reduce times by size: least squares of the relative error."""
    rows = [(2 * (ranks - 1) / t, 2 * (ranks - 1) / ranks * size / t) for size, t in times.items()]
    aa, ab, bb = (sum(x * y for x, y in pairs) for pairs in ([(a, a) for a, _ in rows], rows, [(b, b) for _, b in rows]))
    a, b = sum(a for a, _ in rows), sum(b for _, b in rows)
    determinant = aa * bb - ab * ab
    return (a * bb - b * ab) / determinant, determinant / (b * aa - a * ab)


def measure(num_steps: int) -> tuple[dict[tuple[str, int], dict[int, float]], dict[int, dict[str, Any]]]:
    """All-reduce times by back end, ranks and size, and what a step reports by ranks."""
    from infra.cluster import open_cluster
    from infra.launch import launch
    from infra.settings import Settings

    found: list[dict[str, Any]] = []

    def keep(event: dict[str, Any]) -> None:
        if event.get("kind") == "measured" and event["rank"] == 0:
            found.append(event)

    reduce, step = {"do": "reduce", "sizes": SIZES}, {"do": "step", "steps": num_steps}
    plan: list[tuple[dict[str, Any], int, Any]] = [(reduce, ranks, backend) for ranks in (2, 4) for backend in ("torch", "horovod")]
    plan += [(step, ranks, "horovod") for ranks in (1, 2)]
    with tempfile.TemporaryDirectory(prefix="atelier-bench-") as folder, open_cluster(Settings(workspace=folder, slots=4)) as client:
        for order, ranks, backend in plan:
            launch(
                json.dumps(order),
                client=client,
                num_ranks=ranks,
                deadline_s=300,
                backend=backend,
                threads_per_rank=1,
                on_event=keep,
                env={"PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent}"},
                module="_scaling_rank",
                log_dir=Path(folder) / "logs",
            )
    reduces = {
        (event["backend"], event["size"]): {int(size): t for size, t in event["seconds"].items()}
        for event in found
        if event["what"] == "reduce"
    }
    return reduces, {event["size"]: event for event in found if event["what"] == "step"}


def model(num_steps: int, picture: Path | None) -> None:
    reduces, steps = measure(num_steps)
    alpha, beta = fit(reduces["torch", 2], 2)
    gloo = Link("gloo", alpha, beta)
    added = [reduces["horovod", 2][size] - gloo.all_reduce(size, 2) - gloo.all_reduce(64, 2) for size in SIZES[:3]]
    loopback = Link("loopback", alpha, beta, max(0.0, statistics.median(added)))
    print("\nall-reduce, milliseconds (median), over loopback, one thread a rank; 4 ranks share 2 cores:")
    print("| bytes | gloo, 2 ranks | model | Horovod, 2 ranks | model | gloo, 4 ranks | model | Horovod, 4 ranks | model |")
    print("| --- " * 9 + "|")
    for size in SIZES:
        cells = []
        for ranks in (2, 4):
            plain = gloo.all_reduce(size, ranks)
            cells += [reduces["torch", ranks][size], plain]
            cells += [reduces["horovod", ranks][size], plain + gloo.all_reduce(64, ranks) + loopback.cycle]
        print(f"| {size:,} | " + " | ".join(f"{cell * 1e3:.2f}" for cell in cells) + " |")
    print(
        f"alpha {alpha * 1e6:.0f} us, beta {beta / 1e9:.2f} GB/s (gloo, 2 ranks); Horovod adds {loopback.cycle * 1e3:.2f} ms an operation"
    )
    for ranks, event in steps.items():
        parts = ", ".join(f"{name} {t * 1e3:.0f}" for name, t in event["seconds"].items())
        print(
            f"\nstep of ResNet-18, 96 x 96, batch 32 a rank, fp32, one thread, {ranks} ranks, ms: {parts}; deviation {event['deviation'] * 1e3:.1f}"
        )
    two = steps[2]
    parts = two["seconds"]  # of a machine whose cores are all at work
    step = Step(parts["forward"], parts["backward"], parts["optimizer"], steps[1]["deviation"], two["gradient_bytes"])
    told = step.seconds(2, loopback, overlap=False)
    print(
        f"gradients {step.gradient_bytes / 1e6:.1f} MB; 2 ranks without overlap: measured {parts['step'] * 1e3:.0f} ms, model {told * 1e3:.0f} ms"
    )
    table(step, [loopback, *networks(loopback)], picture)


def networks(loopback: Link) -> list[Link]:
    """Links between hosts: the alpha measured here (it is gloo's and Horovod's own work, not the wire's), and never faster than here."""
    return [Link(f"{gbit} Gbit/s", loopback.alpha, min(loopback.beta, gbit * 1e9 / 8), loopback.cycle) for gbit in (1, 10)]


def table(step: Step, links: list[Link], picture: Path | None) -> None:
    alone = step.seconds(1, links[0], overlap=True)
    print("\n| ranks | " + " | ".join(f"{link.name}: ms | efficiency | without overlap" for link in links) + " |")
    print("| --- " * (1 + 3 * len(links)) + "|")
    for ranks in RANKS:
        cells = []
        for link in links:
            both = [step.seconds(ranks, link, overlap=overlap) for overlap in (True, False)]
            cells += [f"{both[0] * 1e3:.0f}", f"{alone / both[0]:.2f}", f"{alone / both[1]:.2f}"]
        print(f"| {ranks} | " + " | ".join(cells) + " |")
    if picture:
        draw(step, links, picture)
        print(f"picture: {picture}")


def draw(step: Step, links: list[Link], picture: Path) -> None:
    """Efficiency against ranks: lines with overlap, dashes without."""
    width, height, left, top, right, bottom = 720, 360, 60, 20, 170, 50
    colours = ["#4269d0", "#efb118", "#ff725c"]

    def at(ranks: int, efficiency: float) -> str:
        x = left + (width - left - right) * math.log2(ranks) / math.log2(RANKS[-1])
        return f"{x:.1f},{top + (height - top - bottom) * (1 - efficiency):.1f}"

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        (x1, y), (x2, _) = at(1, tick).split(","), at(RANKS[-1], tick).split(",")
        lines.append(
            f'<line x1="{x1}" x2="{x2}" y1="{y}" y2="{y}" stroke="#ddd"/><text x="{left - 8}" y="{y}" dy="4" text-anchor="end">{tick:.2f}</text>'
        )
    for ranks in RANKS:
        lines.append(f'<text x="{at(ranks, 0).split(",")[0]}" y="{height - bottom + 18}" text-anchor="middle">{ranks}</text>')
    lines.append(
        f'<text x="{(width - right + left) / 2}" y="{height - 10}" text-anchor="middle">ranks; lines with overlap, dashes without</text>'
    )
    alone = step.seconds(1, links[0], overlap=True)
    for number, (link, colour) in enumerate(zip(links, colours, strict=True)):
        for overlap in (True, False):
            points = " ".join(at(ranks, alone / step.seconds(ranks, link, overlap=overlap)) for ranks in RANKS)
            dash = "" if overlap else ' stroke-dasharray="5 4"'
            lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        level = top + 20 + 20 * number
        lines.append(f'<rect x="{width - right + 20}" y="{level - 9}" width="14" height="10" fill="{colour}"/>')
        lines.append(f'<text x="{width - right + 40}" y="{level}">{link.name}</text>')
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_text("\n".join([*lines, "</svg>"]) + "\n")


def rendezvous(ranks: int) -> None:
    print(
        "\nrendezvous: all scopes of a start (global, local, cross; each once more for the process set of all), simulated ranks in another process:"
    )
    print("| ranks | hosts | protocol | requests | seconds |\n| --- | --- | --- | --- | --- |")
    for number, protocol in ((32, "stock"), (64, "stock"), (32, "ours"), (64, "ours"), (ranks, "ours")):
        hosts = [f"127.0.{1 + index // SLOTS_OF_A_HOST // 250}.{1 + index // SLOTS_OF_A_HOST % 250}" for index in range(number)]
        secret = wire.new_secret()
        begin = time.perf_counter()
        slots = assign_ranks(hosts)
        assigned = time.perf_counter() - begin
        with serve_rendezvous("127.0.0.1", slots, secret) as (address, port):
            command = [sys.executable, str(HERE / "_scaling_clients.py"), address, str(port), secret, protocol, json.dumps(hosts)]
            told = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=600, check=True).stdout)
        print(f"| {number} | {len(set(hosts))} | {protocol} | {told['requests']:,} | {told['seconds']:.1f} |", flush=True)
    print(f"assign_ranks for {ranks} slots: {assigned * 1e3:.1f} ms")


@contextmanager
def many_workers(address: str, number: int) -> Iterator[None]:
    """Workers of Dask, in one process of their own."""
    command = [sys.executable, str(HERE / "_scaling_workers.py"), address, str(number)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            process.stdout.readline()
            yield
        finally:
            process.kill()


def _answer(number: int) -> int:
    return number


def discovery(ranks: int) -> None:
    from infra.cluster import num_slots
    from infra.clusters._scheduler import start_scheduler

    with ExitStack() as stack:
        client, order = start_scheduler("127.0.0.1", None, stack)
        begin = time.perf_counter()
        stack.enter_context(many_workers(order["scheduler"], ranks))
        started = time.perf_counter() - begin
        begin = time.perf_counter()
        found = num_slots(client)
        counted = time.perf_counter() - begin
        begin = time.perf_counter()
        futures = [client.submit(_answer, index, pure=False, resources={"slot": 1}) for index in range(ranks)]
        client.gather(futures)
        answered = time.perf_counter() - begin
        print(f"\ndiscovery: {found} slots counted in {counted:.2f} s (their workers came within {started:.0f} s);")
        print(f"{ranks} tasks that hold a slot submitted and answered in {answered:.2f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--ranks", type=int, default=512)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--part", default="model,rendezvous,discovery")
    given = parser.parse_args()
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "horovod", "distributed"))
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}")
    parts = given.part.split(",")
    if "model" in parts:
        model(given.steps, given.picture)
    if "rendezvous" in parts:
        rendezvous(given.ranks)
    if "discovery" in parts:
        discovery(given.ranks)


if __name__ == "__main__":
    main()

"""``atelier run``."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from flows.training import RunResult


SAMPLERS = ("tpe", "random", "grid", "gp", "cmaes", "nsga2")
PRUNERS = ("auto", "quartile", "median", "hyperband", "none")
OBJECTIVES = ("metric", "latency", "size")
MODES = ("none", "prune", "quantize", "distill", "auto")


def _ratios(ctx: click.Context, param: click.Parameter, value: str) -> tuple[float, float, float]:
    try:
        shares = [float(part) for part in value.split("/")]
    except ValueError:
        shares = []
    if len(shares) != 3 or min(shares) < 0 or sum(shares) <= 0:
        raise click.BadParameter(f"{value!r} is not TRAIN/VALID/TEST, such as 70/15/15")
    total = sum(shares)
    return shares[0] / total, shares[1] / total, shares[2] / total


@click.command()
@click.argument("algorithm")
@click.option("--data", required=True, metavar="URI", help="A folder or file, an s3:// URI, or a data set's name.")
@click.option("--name", default="", help="The model's name in the registry; default: the data's name.")
@click.option(
    "--workers",
    default="1",
    show_default=True,
    metavar="N|MIN:MAX",
    help="Ranks of a distributed training, one slot of the cluster each; MIN:MAX: as many as there are, also while it runs.",
)
@click.option("--backend", type=click.Choice(["auto", "horovod", "torch"]), help="How ranks talk; default: as ATELIER_BACKEND says.")
@click.option("--set", "pairs", multiple=True, metavar="KEY=VALUE", help="An option of the algorithm; may be given several times.")
@click.option(
    "--on-invalid",
    type=click.Choice(["quarantine", "repair", "fail"]),
    default="quarantine",
    show_default=True,
    help="Broken samples: set aside, mended where that is possible, or the end of the run.",
)
@click.option("--max-invalid-share", default=0.05, show_default=True, help="Largest share of samples that may be set aside.")
@click.option("--suite", metavar="FILE", help="A Great Expectations suite (JSON) of your own, checked beside the algorithm's.")
@click.option(
    "--splits", "ratios", default="70/15/15", show_default=True, callback=_ratios, help="Train/valid/test, where the data has none."
)
@click.option("--split-seed", default=0, show_default=True, help="Seed of the split.")
@click.option("--min-gain", default=0.001, show_default=True, help="How much better than the champion a model must be to replace it.")
@click.option("--balance", is_flag=True, help="Fill every class of the training split up to the largest, by augmentation.")
@click.option("--expand", default=1, show_default=True, help="Times as many training samples, by augmentation, as a new data set.")
@click.option("--trials", type=int, metavar="N", help="Search for better options in N trials.")
@click.option("--time-limit", type=float, metavar="SECONDS", help="Of the search: no trial is started after it.")
@click.option("--sampler", type=click.Choice(SAMPLERS), default="tpe", show_default=True, help="Of the search: how trials are chosen.")
@click.option(
    "--pruner", type=click.Choice(PRUNERS), default="auto", show_default=True, help="Of the search: how hopeless trials are stopped."
)
@click.option(
    "--objective",
    "objectives",
    type=click.Choice(OBJECTIVES),
    multiple=True,
    help="Of the search: besides the metric, latency or size; may be given several times.",
)
@click.option("--space", metavar="FILE", help="Of the search: ranges by option (TOML or JSON); or one by --set learning_rate=0.001..0.1.")
@click.option(
    "--compress", type=click.Choice(MODES), default="none", show_default=True, help="Make the model small and fast, within the budget."
)
@click.option("--max-accuracy-loss", default=0.01, show_default=True, help="Budget: largest loss of accuracy against fp32.")
@click.option("--max-latency-ms", type=float, help="Budget: largest latency of one sample on this host.")
@click.option("--max-size-mb", type=float, help="Budget: largest size of the model.")
@click.option("--strict-budget", is_flag=True, help="Fail if no compressed model fits the budget, instead of shipping fp32.")
@click.option("--profile", is_flag=True, help="Print where the time of a training step goes.")
@click.option("--timeline", default="", metavar="FILE", help="Write Horovod's timeline of the training, which chrome://tracing opens.")
@click.option("--fresh", is_flag=True, help="Do every stage again, also those done before.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output and nothing else there.")
def run(pairs: tuple[str, ...], suite: str | None, space: str | None, objectives: tuple[str, ...], as_json: bool, **values: Any) -> None:
    """Turn labelled data into a proven, registered model.

    ALGORITHM is a preset's name; `atelier algorithms` lists them. The same command run again takes up where it stopped.

    \b
    atelier run image-classification/resnet18 --data my-pictures --workers 2
    atelier run image-classification/resnet18 --data my-pictures --workers 2:8
    atelier run tabular-classification/lightgbm --data table.csv --set target=label
    atelier run image-classification/small-cnn --data my-pictures --trials 20 --compress auto
    """
    from algorithms.search_space import read_space
    from infra.prefect_server import prefect_server
    from infra.settings import load_settings

    from flows.checks import check_request  # isort: skip
    from flows.request import make_request, parse_options, read_suite  # isort: skip
    from infra.store import open_store  # isort: skip

    options = parse_options(list(pairs))
    values |= {
        "suite": read_suite(suite) if suite else None,
        "space": read_space(space) if space else None,
        "objectives": tuple(dict.fromkeys(("metric", *objectives))),
    }
    settings = load_settings()
    # A wrong request is answered at once, before anything is started.
    check_request(make_request(options=options, **values), settings, open_store(settings.workspace_uri))

    with prefect_server(settings) as server:
        from flows.embedded import listening, starting_server
        from flows.progress import make_progress
        from flows.training import pipeline

        with make_progress() as progress, listening(progress.on_event), starting_server(server):
            result = pipeline(options=options, **values)
    if as_json:
        click.echo(json.dumps(result.model_dump(mode="json"), indent=2))
    else:
        show_result(result)


def show_result(result: RunResult) -> None:
    """The result for a person."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    numbers = {key: value for key, value in result.metrics.items() if isinstance(value, int | float)}
    shown = [key for key in ("accuracy", "f1_macro", "auc", "log_loss", "rmse", "mae", "r2") if key in numbers]
    aliases = " ".join(f"@{alias}" for alias in result.aliases)
    console.print(f"\n[bold]{escape(result.model)}[/] version {result.version} {aliases}  [dim]{escape(result.decision)}[/]")
    table = Table(box=None, pad_edge=False)
    table.add_column("test split")
    for key in shown:
        table.add_column(key, justify="right")
    for title, metrics in (("shipped package", result.metrics), ("trained model", result.baseline_metrics)):
        table.add_row(title, *(f"{metrics[key]:.4f}" if isinstance(metrics.get(key), int | float) else "" for key in shown))
    console.print(table)
    if result.trials:
        best = ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in result.trials["best_parameters"].items()
        )
        console.print(f"trials    {result.trials['number']}, {result.trials['reason']}; {best}", markup=False)
    if result.compression:
        console.print(f"shipped   {result.compression['reason']}", markup=False)
    if result.profile:
        show_profile(console, result.profile)
    for advice in result.advice:
        console.print(f"advice    {advice['text']}", markup=False)
    console.print(f"package   {result.package}\nrun card  {result.run_card}\n{result.seconds:.1f} s", markup=False)
    ref = result.model if "champion" in result.aliases else f"{result.model}/{result.version}"
    console.print(f"\nNext: atelier predict {ref} INPUT", markup=False)


def show_profile(console: Console, profile: dict[str, Any]) -> None:
    """Where the time of a step goes, a line for each part."""
    whole = profile["step_ms"] or 1.0
    console.print(f"a step    {whole:.1f} ms, mean of {profile['num_steps']:,} steps and all ranks", markup=False)
    for part, spent in profile["parts_ms"].items():
        console.print(f"          {part:<10}{spent:9.2f} ms {spent / whole:7.1%}", markup=False)

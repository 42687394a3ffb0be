"""Data Docs: Great Expectations' own pages, made to open from a folder: no scripts, no fonts and no styles from elsewhere."""

from __future__ import annotations

import html
import re
import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from tasks._gx import Outcome, load

TITLES = {"samples": "Samples", "classes": "Classes", "columns": "Columns"}
STYLE = (Path(__file__).parent / "_docs.css").read_text
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
# What only works online, or not without scripts; and what is about the library's maker and not about the data.
OUTSIDE = re.compile(
    r"<script\b.*?</script>|<link\b[^>]*>|<nav class=\"navbar navbar-expand.*?</nav>\s*</div>\s*</nav>|<footer\b.*?</footer>", re.DOTALL
)
EMBEDDED_STYLE = re.compile(r"<style\b.*?</style>", re.DOTALL)


def write_docs(folder: Path, outcomes: Sequence[Outcome], *, dataset: str, verdict: str) -> None:
    """``index.html`` and one page for each table that was judged. The same outcomes give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    style = STYLE(encoding="utf-8")
    rows = []
    for table, title in TITLES.items():
        mine = [outcome for outcome in outcomes if outcome.expectation.table == table]
        if not mine:
            continue
        (folder / f"{table}.html").write_text(_offline(_render(f"{dataset}: {table}", mine), style), encoding="utf-8")
        passed = sum(outcome.success for outcome in mine)
        rows.append(
            f'<tr><td><a href="{table}.html">{title}</a></td><td>{len(mine)}</td><td>{passed}</td><td>{len(mine) - passed}</td></tr>'
        )
    (folder / "index.html").write_text(
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Validation of {html.escape(dataset)}</title>'
        f'<style>{style}</style></head><body><div class="container-fluid"><h1>Validation of {html.escape(dataset)}</h1>'
        f"<p>{html.escape(verdict)}</p>"
        "<table class=table><thead><tr><th>What was judged</th><th>Expectations</th><th>Met</th><th>Not met</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div></body></html>\n",
        encoding="utf-8",
    )


@lru_cache(maxsize=1)
def _view() -> Any:
    """Made once: each one compiles its templates anew."""
    from great_expectations.render.view import DefaultJinjaPageView

    return DefaultJinjaPageView()


def _render(name: str, outcomes: Sequence[Outcome]) -> str:
    load()
    from great_expectations.core.expectation_validation_result import ExpectationSuiteValidationResult, ExpectationValidationResult
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
    from great_expectations.render.renderer import ValidationResultsPageRenderer

    passed = sum(outcome.success for outcome in outcomes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = [_result(outcome, ExpectationValidationResult, ExpectationConfiguration) for outcome in outcomes]
        suite = ExpectationSuiteValidationResult(
            success=passed == len(outcomes),
            results=results,
            suite_name=name,
            statistics={
                "evaluated_expectations": len(outcomes),
                "successful_expectations": passed,
                "unsuccessful_expectations": len(outcomes) - passed,
                "success_percent": 100.0 * passed / len(outcomes),
            },
            meta={"great_expectations_version": load().__version__, "active_batch_definition": {"data_asset_name": name}},
        )
        return str(_view().render(ValidationResultsPageRenderer(run_info_at_end=False).render(suite)))


def _result(outcome: Outcome, result_type: Any, configuration_type: Any) -> Any:
    details = outcome.details
    config = {name: details["expectation_config"][name] for name in ("type", "kwargs", "severity")}
    notes = {"meta": {"notes": outcome.expectation.reason}} if outcome.expectation.reason else {}
    return result_type(
        success=outcome.success,
        expectation_config=configuration_type(**config, **notes),
        result=details["result"],
        exception_info=details["exception_info"],
    )


def _offline(page: str, style: str) -> str:
    page = EMBEDDED_STYLE.sub("", OUTSIDE.sub("", page)).replace("</head>", f"<style>{style}</style></head>", 1)
    page = re.sub(r'href="(\.\./)+index\.html"', 'href="index.html"', page)
    page = re.sub(r'<a href="(?:\.\./)+expectations/[^"]*"\s*>([^<]*)</a>', r"\1", page)
    numbers: dict[str, str] = {}
    return UUID.sub(lambda match: numbers.setdefault(match[0], f"part-{len(numbers) + 1}"), page)

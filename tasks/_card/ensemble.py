"""The card's section on an ensemble: who is in it, with what weight, and how each did alone on rows that it did not learn from."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from markupsafe import Markup

from tasks._card import svg, words

_WIDTH, _ROW = 760.0, 20.0


def ensemble_section(content: Mapping[str, Any]) -> Markup:
    """Weights as bars, and the table of everything that was tried, of ``ensemble.json`` beside the trained model."""
    return weight_bars("ensemble-weights", content) + _student(content) + _table(content)


def finding(content: Mapping[str, Any]) -> str:
    """One sentence: how many members, in what time, and what was shipped."""
    board = content["board"]
    tried = board["members"]
    used = sum(one["weight"] > 0 for one in tried)
    said = f"{used} of {words.plural(len(tried), 'member')} tried have a weight; it took {words.duration(board['seconds'])}"
    said += f" of {words.duration(board['time_limit_s'])} allowed."
    student = board.get("distilled")
    return f"{said} Distilled into one model ({student['kind']})." if student else said


def weight_bars(name: str, content: Mapping[str, Any]) -> Markup:
    """A bar for each member that has a weight, the heaviest first."""
    shown = sorted((one for one in content["board"]["members"] if one["weight"] > 0), key=lambda one: -one["weight"])
    left = min(max(svg.text_width(svg.clip(one["name"], 28), 14) for one in shown) + 12, 230)
    x = svg.linear(0, shown[0]["weight"], 0, _WIDTH - left - 70)
    body: list[str] = []
    for place, one in enumerate(shown):
        y, width = 4 + place * _ROW, max(x(one["weight"]), 1)
        body.append(svg.text(left - 10, y + 11, svg.clip(one["name"], 28), "label", "end", tip=one["name"]))
        body.append(svg.rect(left, y, width, 14, "bar", tip=f"{one['name']}: {one['weight']:.1%}"))
        body.append(svg.text(left + width + 7, y + 11, f"{one['weight']:.0%}", "tick"))
    desc = "; ".join(f"{one['name']} {one['weight']:.0%}" for one in shown) + "."
    return svg.svg(name, "Weights of the members", desc, _WIDTH, 8 + len(shown) * _ROW, body)


def _student(content: Mapping[str, Any]) -> Markup:
    told = content["board"].get("distilled")
    if not told:
        return Markup("")
    student, teacher = (
        ", ".join(f"{words.metric_name(key).lower()} {words.figure(value)}" for key, value in told[who].items())
        for who in ("student", "ensemble")
    )
    said = (
        f"Shipped is one model ({told['kind']}, {told['num_parameters']:,} learned numbers instead of {told['ensemble_parameters']:,}) that "
        f"learned the ensemble's answers. On {words.plural(told['num_held'], 'row')} held out from it: {student}; the ensemble: {teacher}."
    )
    return Markup('<p class="note">{}</p>').format(said)


def _table(content: Mapping[str, Any]) -> Markup:
    """In the order of trying; of regressions the error is in standard deviations of the target."""
    tried = content["board"]["members"]
    metric = "rmse" if "rmse" in tried[0] else "accuracy"
    metric_head = "RMSE (of 1 = the target's spread)" if metric == "rmse" else "Accuracy"
    whole = {"name": "the ensemble", "weight": 1.0, "seconds": content["board"]["seconds"], **content["board"]["left_out"]}
    rows = "".join(_row(one, metric, main=one is whole) for one in [*tried, whole])
    heads = ("Member", "Weight", "Log loss" if metric == "accuracy" else "Squared error", metric_head, "Learned numbers", "Time")
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    table = f'<div class="scroll"><table class="numbers"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    note = (
        '<p class="note">Each was judged on rows that it did not learn from: cross-validation, or the rows that a bootstrap left out.</p>'
    )
    return Markup(table + note)  # every text went through `escape`


def _row(one: Mapping[str, Any], metric: str, *, main: bool) -> str:
    cells = [
        f"{one['weight']:.0%}" if one["weight"] else "–",
        words.figure(one["loss"]),
        words.figure(one[metric]),
        f"{one['num_parameters']:,}" if "num_parameters" in one else "",
        words.duration(one["seconds"]),
    ]
    return (
        f'<tr{" class=main" if main else ""}><th scope="row">{escape(one["name"])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
    )

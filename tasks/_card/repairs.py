"""What repair did, for the card: how often each kind, and each repair by name."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from markupsafe import Markup

from tasks._card.words import plural

MOST_LISTED = 50


def repairs_finding(told: Mapping[str, Any], kind: str) -> str:
    """One sentence; ``kind`` is that of the data."""
    what = "picture" if kind == "image" else "column"
    if not told["repairs"]:
        return "Repair found nothing to mend."
    return f"{plural(len(told['repairs']), what)} mended in a new version; the version that came in is as it was."


def repairs_section(told: Mapping[str, Any]) -> Markup:
    """The tables of ``repairs.json``; empty if nothing was mended."""
    if not told["repairs"]:
        return Markup("")
    kinds = "".join(f'<tr><td>{escape(kind)}</td><td class="right">{count:,}</td></tr>' for kind, count in told["summary"].items())
    shown = told["repairs"][:MOST_LISTED]
    rows = "".join(f"<tr><td>{_name(one)}</td><td>{escape('; '.join(one['what']))}</td></tr>" for one in shown)
    left = len(told["repairs"]) - len(shown)
    rest = f'<p class="note">and {left:,} more, in repairs.json beside the validation report</p>' if left else ""
    return Markup(  # every text went through `escape`
        f"<table><thead><tr><th>Repair</th><th>Times</th></tr></thead><tbody>{kinds}</tbody></table>"
        f'<details><summary>{plural(len(told["repairs"]), "repair")}, one by one</summary><div class="scroll"><table><thead><tr><th>What</th>'
        f"<th>Repair</th></tr></thead><tbody>{rows}</tbody></table></div>{rest}</details>"
    )


def _name(one: Mapping[str, Any]) -> str:
    return f"<code>{escape(one['id'])}</code>" + (f" → <code>{escape(one['to'])}</code>" if one["to"] else "")

"""Pictures that look the same, for the card: each group in a row, the labels and splits that make it a problem marked."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from markupsafe import Markup

from tasks._card.words import plural

_HEADS = {
    "labels": "The same picture under different labels",
    "splits": "The same picture in different splits",
    "copies": "Near copies in one class and split",
}


def duplicates_finding(found: Mapping[str, Any]) -> str:
    """One sentence; empty if there are none."""
    if not found["num_groups"]:
        return ""
    parts = [f"{plural(found['num_pictures'], 'picture')} look like another one, in {plural(found['num_groups'], 'group')}"]
    if found["num_conflicts"]:
        parts.append(f"{found['num_conflicts']:,} with different labels")
    if found["num_across_splits"]:
        parts.append(f"{found['num_across_splits']:,} across splits")
    return ", ".join(parts) + "."


def duplicates_section(found: Mapping[str, Any]) -> Markup:
    """The groups of ``duplicates.json`` that have pictures, by what is wrong with them; empty if there are none."""
    parts: list[str] = []
    for kind, head in _HEADS.items():
        groups = [group for group in found["groups"] if group["kind"] == kind]
        shown = [group for group in groups if any("uri" in one for one in group["pictures"])]
        if not groups:
            continue
        more = f" ({plural(len(groups), 'group')}" + (f", the first {len(shown)} shown" if len(shown) < len(groups) else "") + ")"
        parts.append(f"<h3>{escape(head)}<span class='soft'>{more}</span></h3>")
        parts.append(f'<div class="strip">{"".join(_group(group, kind) for group in shown)}</div>' if shown else "")
    return Markup("".join(parts))  # every text went through `escape`


def _group(group: Mapping[str, Any], kind: str) -> str:
    words = "the same bytes" if group["exact"] else "nearly the same"
    figures = "".join(_figure(one, kind) for one in group["pictures"] if "uri" in one)
    return f'<div class="group"><p>{plural(group["num_pictures"], "picture")}, {words}</p><div>{figures}</div></div>'


def _figure(one: Mapping[str, Any], kind: str) -> str:
    label, split = escape(str(one["label"])), escape(str(one["split"]))
    told = {"labels": f'<span class="bad">{label}</span>', "splits": f'<span class="bad">{split}</span>', "copies": label}[kind]
    path = escape(str(one["path"]), quote=True)
    css = "shot missed" if kind == "labels" else "shot"
    return (
        f'<figure class="{css}" title="{path} ({label}, {split})"><img src="{escape(one["uri"], quote=True)}" width="40" height="40" '
        f'alt="{path}, {label}, {split}"><figcaption>{told}</figcaption></figure>'
    )

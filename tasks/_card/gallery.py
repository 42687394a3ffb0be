"""The gallery of a policy for the card, and for Prefect's page: pictures before and after."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from markupsafe import Markup

from tasks._card.words import plural


def policy_words(gallery: Mapping[str, Any]) -> str:
    """The steps of the policy in words: ``crop (scale 0.6 to 1), flip (p 0.5)``."""
    return ", ".join(_step(step) for step in gallery["steps"])


def _step(step: Mapping[str, Any]) -> str:
    given = {**step, **step.get("arguments", {})}
    told = [
        f"{key.replace('_', ' ')} {_value(value)}"
        for key, value in given.items()
        if key not in ("name", "arguments") and not (key == "p" and value == 1)
    ]
    return f"{step['name']} ({', '.join(told)})" if told else str(step["name"])


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " to ".join(_value(item) for item in value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def gallery_finding(gallery: Mapping[str, Any]) -> str:
    """One sentence for the section's margin."""
    spared = gallery["no_flip"]
    words = f"Training pictures are changed at random: {policy_words(gallery)}."
    return words + (f" Never flipped: {', '.join(spared)}." if spared else "")


def gallery_section(gallery: Mapping[str, Any]) -> Markup:
    """A row for each picture of ``gallery.json``: before, then after, as the network gets it."""
    rows = "".join(
        f'<div class="group"><p>{escape(row["label"])}</p><div>{_figure(row["before"], row["path"], "before")}'
        f"{''.join(_figure(uri, row['path'], 'after') for uri in row['after'])}</div></div>"
        for row in gallery["rows"]
    )
    after = len(gallery["rows"][0]["after"]) if gallery["rows"] else 0
    note = (
        f"{plural(len(gallery['rows']), 'training picture')}, the first of each row as it is, then {after} times as augmentation made it."
    )
    return Markup(f'<p class="note">{note}</p><div class="strip">{rows}</div>')  # every text went through `escape`


def _figure(uri: str, path: str, what: str) -> str:
    css = "pixels" if uri.startswith("data:image/png") else ""
    caption = "<figcaption>before</figcaption>" if what == "before" else ""
    title = escape(f"{path}, {what}", quote=True)
    return f'<figure class="shot"><img src="{escape(uri, quote=True)}" width="40" height="40" class="{css}" alt="{title}" title="{title}">{caption}</figure>'


def gallery_markdown(gallery: Mapping[str, Any]) -> str:
    """The gallery as Markdown with its pictures inside, for a Prefect artifact."""
    after = max((len(row["after"]) for row in gallery["rows"]), default=0)
    lines = ["## Augmentation: before and after", "", gallery_finding(gallery), ""]
    lines += ["| class | before |" + " after |" * after, "| --- | --- |" + " --- |" * after]
    for row in gallery["rows"]:
        pictures = " | ".join(f"![{what}]({uri})" for what, uri in [("before", row["before"]), *(("after", uri) for uri in row["after"])])
        lines.append(f"| {row['label'].replace('|', ' ')} | {pictures} |")
    return "\n".join(lines)

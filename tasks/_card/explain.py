"""The card's section about a model looked at in depth: from ``explain.json`` and its pictures to HTML that needs nothing else."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from tasks._card import bars
from tasks._card.explain_charts import Row, class_curves, interval_rows, reliability_diagram
from tasks._card.words import bounds, figure, metric_name, plural

Read = Callable[[str], bytes]
MOST_SLICES = 12
MOST_SUSPECTS = 12


def advice_list(advice: Sequence[Mapping[str, Any]]) -> Markup:
    """Advice as a list, warnings marked; a sentence if there is none."""
    if not advice:
        return Markup('<p class="note">No rule had anything to say.</p>')
    marks = {"warning": ("bad", "▲"), "info": ("soft", "●")}
    items = []
    for one in advice:
        css, mark = marks[one["severity"]]
        words = Markup('<li><span class="{}" aria-hidden="true">{}</span> {} <span class="soft">{}</span></li>')
        items.append(words.format(css, mark, one["text"], one["rule"]))
    return Markup('<ul class="advice">{}</ul>').format(Markup("").join(items))


def advice_finding(advice: Sequence[Mapping[str, Any]]) -> str:
    """One sentence: how much advice there is."""
    warnings = sum(one["severity"] == "warning" for one in advice)
    hints = len(advice) - warnings
    return ", ".join([plural(warnings, "warning") if warnings else "No warning"] + ([plural(hints, "hint")] if hints else [])) + "."


def explain_finding(figures: Mapping[str, Any]) -> str:
    """One sentence: how sure the main figure is; empty if that was not looked at."""
    name = figures["metric"]["name"]
    interval = figures["intervals"].get(name)
    return f"{metric_name(name)} between {figure(interval['low'])} and {figure(interval['high'])} (95 %)." if interval else ""


def explain_section(figures: Mapping[str, Any], read: Read) -> Markup:
    """The section's body.

    Args:
        figures: ``explain.json``.
        read: a file of the artifact, by name: its pictures.
    """
    parts = [_sampled(figures), _intervals(figures)]
    parts += [_class_charts(figures), _thresholds(figures), _slices(figures), _robustness(figures), _importance(figures)]
    parts += [_looks(figures, read), _worst(figures, read), _suspects(figures, read)]
    return Markup("\n").join(part for part in parts if part)


def _sampled(figures: Mapping[str, Any]) -> Markup:
    told = [
        f"{one['used']:,} of {one['total']:,} samples of the {split} split, chosen by seed {one['seed']}"
        for split, one in figures["samples"].items()
        if one["used"] < one["total"]
    ]
    return Markup('<p class="note">Looked at: {}.</p>').format("; ".join(told)) if told else Markup("")


def _table(head: Sequence[str], rows: Iterable[Sequence[object]], css: str = "numbers") -> Markup:
    """A table; the first cell of each row is its header."""
    top = Markup("").join(Markup('<th scope="col">{}</th>').format(cell) for cell in head)
    body = Markup("").join(
        Markup('<tr><th scope="row">{}</th>{}</tr>').format(first, Markup("").join(Markup("<td>{}</td>").format(cell) for cell in rest))
        for first, *rest in rows
    )
    return Markup('<div class="scroll"><table class="{}"><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>').format(css, top, body)


def _intervals(figures: Mapping[str, Any]) -> Markup:
    entries = figures["intervals"]
    if not entries:
        return Markup("")
    rows = [(metric_name(name), figure(one["value"]), f"{figure(one['low'])} to {figure(one['high'])}") for name, one in entries.items()]
    return Markup("<h3>How sure the figures are</h3>{}").format(_table(("On the test split", "Package", "95 % interval, bootstrap"), rows))


def _class_charts(figures: Mapping[str, Any]) -> Markup:
    if "calibration" not in figures:
        return Markup("")
    calibration, curves = figures["calibration"], figures["curves"]
    charts = [
        reliability_diagram("reliability", calibration),
        class_curves("roc", curves, "roc"),
        class_curves("pr", curves, "pr"),
    ]
    drawn = Markup("").join(Markup("<figure>{}</figure>").format(chart) for chart in charts if chart)
    return Markup('<h3>Scores</h3><p class="note">{}</p><div class="charts">{}</div>').format(_calibration_words(calibration), drawn)


def _calibration_words(calibration: Mapping[str, Any]) -> str:
    fitted = calibration["fitted"]
    error = f"Calibration error {calibration['ece']:.3f}"
    if not fitted:
        return f"{error}. The scores are as the model gives them: no temperature was fitted."
    if not fitted["kept"]:
        return f"{error}. A temperature was tried on {fitted['num_samples']:,} samples of the valid split and did not help."
    return (
        f"{error}; {calibration['ece_without']:.3f} without the temperature of {fitted['temperature']:.3g} inside the package, "
        f"which was fitted on {fitted['num_samples']:,} samples of the valid split."
    )


def _thresholds(figures: Mapping[str, Any]) -> Markup:
    entries = figures.get("thresholds") or []
    if not entries:
        return Markup("")
    rows = [
        (
            one["rule"],
            f"{one['threshold']:.3f}",
            f"{one['precision']:.3f}",
            f"{one['recall']:.3f}",
            f"{one['f1']:.3f}",
            one["misses"],
            one["false_alarms"],
        )
        for one in entries
    ]
    words = Markup(
        '<h3>Choice of a threshold for {}</h3><p class="note">Chosen on the valid split, judged on the test split. The package does not apply it: '
        "compare the score with it where the answer is used.</p>{}"
    )
    head = ("Rule", "Threshold", "Precision", "Recall", "F1", "Misses", "False alarms")
    return words.format(figures["classes"][1], _table(head, rows))


def _slices(figures: Mapping[str, Any]) -> Markup:
    entries = figures["slices"][:MOST_SLICES]
    if not entries:
        return Markup("")
    name = figures["metric"]["name"]
    rows = [
        Row(f"{one['column']}: {one['value']}", plural(one["count"], "sample"), one["figure"], one["low"], one["high"], one["worse"])
        for one in entries
    ]
    overall = figures["intervals"].get(name)
    chart = interval_rows(
        "slices", f"{metric_name(name)} by slice", rows, mark=(overall["value"], "all") if overall else None, within=bounds(name)
    )
    words = "The weakest parts of the test split, with 95 % intervals. Orange: worse than the rest beyond chance."
    return Markup('<h3>Slices</h3><p class="note">{}</p><figure>{}</figure>').format(words, chart)


def _robustness(figures: Mapping[str, Any]) -> Markup:
    entries = figures["robustness"]
    if not entries:
        return Markup("")
    rows = [Row(f"{one['kind']} {one['level']:g} {one['unit']}", "", one["figure"], one["low"], one["high"]) for one in entries]
    name = figures["metric"]["name"]
    title = f"{metric_name(name)} on disturbed input"
    chart = interval_rows("robustness", title, rows, mark=(entries[0]["undisturbed"], "as it is"), within=bounds(name))
    return Markup("<h3>{}</h3><figure>{}</figure>").format(title, chart)


def _importance(figures: Mapping[str, Any]) -> Markup:
    importance = figures.get("importance")
    if not importance:
        return Markup("")
    unit = "log loss" if figures["classes"] else "root mean squared error"
    plans = [
        ("permutation", f"Permutation: how much the {unit} grows when a column is shuffled", "mean"),
        ("shap", "SHAP: mean absolute share of a column in the answer", "value"),
    ]
    drawn = []
    for key, told, value in plans:
        pairs = [(one["column"], max(one[value], 0.0)) for one in importance.get(key, [])]
        if pairs:
            drawn.append(Markup('<p class="note">{}</p><figure>{}</figure>').format(told, bars.importance_bars(f"explain-{key}", pairs)))
    return Markup("<h3>Which columns matter to the package</h3>{}").format(Markup("").join(drawn)) if drawn else Markup("")


def _image(read: Read, name: str, alt: str) -> Markup:
    from PIL import Image

    data = read(name)
    with Image.open(io.BytesIO(data)) as picture:
        width, height = picture.size
    kind = "png" if name.endswith(".png") else "jpeg"
    uri = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return Markup('<img src="{}" width="{}" height="{}" alt="{}">').format(uri, width, height, alt)


def _shot(read: Read, entry: Mapping[str, Any], caption: Markup, *, missed: bool) -> Markup:
    """A picture, beside it where the network looked, and words below."""
    images = _image(read, entry["picture"], str(entry["label"]))
    if entry.get("saliency"):
        images += _image(read, entry["saliency"], f"where the network looked when it said {entry['prediction']}")
    return Markup(
        '<figure class="shot pair{}"><div>{}</div><figcaption>{}<br><span class="soft path">{}</span></figcaption></figure>'
    ).format(" missed" if missed else "", images, caption, entry["id"])


def _looks(figures: Mapping[str, Any], read: Read) -> Markup:
    found = figures.get("saliency") or {}
    entries = [one for one in found.get("right", []) if one.get("saliency")]
    if not entries:
        return Markup("")
    shots = Markup("").join(
        _shot(read, one, Markup('<span class="ok">✓ {}</span>').format(one["prediction"]), missed=False) for one in entries
    )
    words = (
        f"{found['method']} of the trained network (layer {found['layer']}): what speaks for its answer, on samples that it is right about."
    )
    return Markup('<h3>Where the network looks</h3><p class="note">{}</p><div class="mistakes">{}</div>').format(words, shots)


def _worst(figures: Mapping[str, Any], read: Read) -> Markup:
    entries = figures["worst"]
    if not entries:
        return Markup("")
    head = Markup('<h3>Hardest samples</h3><p class="note">{}</p>').format(
        "Test samples whose true class got the lowest scores." if figures["classes"] else "Test samples with the largest errors."
    )
    if "picture" in entries[0]:
        shots = [_shot(read, one, _verdict(one), missed=one["prediction"] != one["label"]) for one in entries]
        return head + Markup('<div class="mistakes">{}</div>').format(Markup("").join(shots))
    columns = list(entries[0].get("values", {}))
    rows = [(one["id"], _short(one["label"]), _short(one["prediction"]), *one.get("values", {}).values()) for one in entries]
    return head + _table(("Row", "True", "Predicted", *columns), rows)


def _short(value: object) -> str:
    return figure(value) if isinstance(value, float) else str(value)


def _verdict(entry: Mapping[str, Any]) -> Markup:
    if entry["prediction"] == entry["label"]:
        return Markup('<span class="ok">✓ {}</span> <span class="soft">{:.0%}</span>').format(entry["label"], entry["score"])
    said = Markup('<span class="bad">✕ {}</span> <span class="soft">{:.0%}</span>').format(entry["prediction"], entry["score"])
    return said + Markup("<br>is {}").format(entry["label"])


def _suspects(figures: Mapping[str, Any], read: Read) -> Markup:
    found = figures.get("label_errors") or {}
    if not found.get("count"):
        return Markup("")
    samples = found["samples"][:MOST_SUSPECTS]
    words = f"{plural(found['count'], 'label')} of {found['looked_at']:,} in the valid and test splits, the most suspicious first (confident learning)."
    head = Markup('<h3>Labels that look wrong</h3><p class="note">{}</p>').format(words)
    if "picture" in samples[0]:
        captions = [Markup('is {}, looks like <span class="bad">{}</span>').format(one["label"], one["suggestion"]) for one in samples]
        shots = [_shot(read, one, caption, missed=True) for one, caption in zip(samples, captions, strict=True)]
        return head + Markup('<div class="mistakes">{}</div>').format(Markup("").join(shots))
    rows = [(one["id"], one["split"], one["label"], one["suggestion"], f"{one['margin']:.2f}") for one in samples]
    return head + _table(("Row", "Split", "Label", "Looks like", "Margin"), rows)

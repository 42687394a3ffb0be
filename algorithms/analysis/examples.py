"""The parts of ``explain`` that look at single samples: the worst ones, their pictures, where the network looks, and disturbed pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from algorithms.analysis.intervals import wilson
from algorithms.analysis.robustness import PICTURE_LEVELS, PICTURE_UNITS, Pixels, disturb_picture, every_level
from algorithms.analysis.scored import choose, iter_pictures

if TYPE_CHECKING:
    from algorithms.analysis.explain import Looked
    from algorithms.run import Run

MOST_WORST = 12
MOST_RIGHT = 10
MOST_SUSPECTS = 12
MOST_DISTURBED = 128
MOST_VALUES = 6
_AT_ONCE = 16
_LEAST_EDGE = 512
_SMALL = 64  # pictures up to this edge are kept exactly, as PNG
_QUALITY = 80


def worst(looked: Looked, columns: list[str]) -> list[dict[str, Any]]:
    """The test samples with the lowest score of their own class, or the largest error; of tables with the values of the first ``columns``."""
    test = looked.test
    if looked.is_class:
        own = test.outputs[np.arange(len(test)), test.truth]
        order = np.argsort(own, kind="stable")
    else:
        order = np.argsort(-np.abs(test.outputs - test.truth), kind="stable")
    found = [_example(looked, int(index)) for index in order[:MOST_WORST]]
    if test.table is not None:
        shown = test.table.select(columns[:MOST_VALUES]).take([entry["index"] for entry in found]).to_pylist()
        for entry, row in zip(found, shown, strict=True):
            entry["values"] = {name: "" if value is None else str(value) for name, value in row.items()}
    return found


def _example(looked: Looked, index: int) -> dict[str, Any]:
    """One test sample: ``id``, ``label``, ``prediction`` and scores."""
    test, labels = looked.test, looked.package.labels
    found: dict[str, Any] = {"id": test.ids[index], "split": "test", "index": index}
    if looked.is_class:
        scores = test.outputs[index]
        said = int(scores.argmax())
        found |= {"label": labels[int(test.truth[index])], "prediction": labels[said], "score": round(float(scores[said]), 5)}
        found["label_score"] = round(float(scores[int(test.truth[index])]), 5)
    else:
        found |= {"label": float(test.truth[index]), "prediction": float(test.outputs[index])}
    return found


def _right(looked: Looked) -> list[dict[str, Any]]:
    """Of each class (up to ``MOST_RIGHT``) the test sample that the model is right about most surely."""
    test = looked.test
    surest = np.where(looked.hits, test.outputs.max(axis=1), -1.0)
    found: list[dict[str, Any]] = []
    for label in range(len(looked.package.labels)):
        own = np.flatnonzero(test.truth == label)
        if len(own) and surest[own].max() >= 0 and len(found) < MOST_RIGHT:
            found.append(_example(looked, int(own[surest[own].argmax()])))
    return found


def draw_pictures(looked: Looked, figures: dict[str, Any], run: Run) -> dict[str, Any]:
    """Save the pictures of the worst samples, of some that are right, and of suspected labels; with saliency where the engine has a network.

    The entries of ``worst`` and ``label_errors`` get ``picture``, the file's name; the worst also ``saliency``.

    Returns:
        ``method``, ``layer`` and ``right``: the samples that the model is right about, with the same names.
    """
    from algorithms.analysis.saliency import overlay, shrink

    right = _right(looked)
    suspects = figures["label_errors"]["samples"][:MOST_SUSPECTS]
    wanted = [*figures["worst"], *right, *suspects]
    pixels = _read(looked, wanted)
    (run.output_dir / "pictures").mkdir()
    pictures = {key: shrink(found) for key, found in pixels.items()}
    kinds = {key: "png" if max(found.shape[:2]) <= _SMALL else "jpg" for key, found in pixels.items()}
    for (split, index), picture in pictures.items():
        picture.save(run.output_dir / "pictures" / f"{split}-{index}.{kinds[split, index]}", quality=_QUALITY)
    for entry in wanted:
        entry["picture"] = f"pictures/{entry['split']}-{entry['index']}.{kinds[entry['split'], entry['index']]}"
    looked_at = [*figures["worst"], *right]
    found = _saliency(looked, looked_at, pixels, run)
    if found is None:
        return {"method": "", "layer": "", "right": right}
    layer, maps = found
    for entry, heat in zip(looked_at, maps, strict=True):
        entry["saliency"] = "-saliency.".join(entry["picture"].rsplit(".", 1))
        overlay(pictures[entry["split"], entry["index"]], heat).save(run.output_dir / entry["saliency"], quality=_QUALITY)
    return {"method": "Grad-CAM", "layer": layer, "right": right}


def _read(looked: Looked, wanted: list[dict[str, Any]]) -> dict[tuple[str, int], Pixels]:
    """The pictures of some samples, by split and index among the scored ones."""
    found: dict[tuple[str, int], Pixels] = {}
    for split in {entry["split"] for entry in wanted}:
        indices = np.unique([entry["index"] for entry in wanted if entry["split"] == split])
        pictures = iter_pictures(looked.data, split, looked.places[split][indices])
        for index, (_, pixels, _) in zip(indices, pictures, strict=True):
            found[split, int(index)] = pixels
    return found


def _saliency(
    looked: Looked, entries: list[dict[str, Any]], pixels: dict[tuple[str, int], Pixels], run: Run
) -> tuple[str, NDArray[np.float32]] | None:
    """Where the trained network looks when it says what the package says; None if there is no network, or one without maps."""
    from algorithms.engines.torch_engine import TorchEngine

    engine: Any = looked.algorithm.engine
    if not isinstance(engine, TorchEngine):
        return None
    import torch

    from algorithms.analysis.saliency import grad_cam
    from algorithms.engines.torch_verbs import load_trained
    from algorithms.images.preprocess import resize

    config: Any = looked.config
    torch.set_num_threads(run.spec.threads)
    trained = load_trained(engine, config, looked.data, run, splits=("test",))
    prepare = engine.prepare_batch(config, trained.data)
    size, _, channels = trained.data.input_shape
    raw = [torch.from_numpy(pixels[entry["split"], entry["index"]].copy())[None] for entry in entries]
    inputs = np.concatenate([resize(one, size, channels).numpy() for one in raw])
    said = np.array([trained.data.classes.index(entry["prediction"]) for entry in entries], np.int64)
    found = grad_cam(trained.module, lambda batch: prepare(batch, False), inputs, said)
    return None if found is None else (found.layer, found.maps)


def robustness(looked: Looked) -> list[dict[str, Any]]:
    """Accuracy on ``MOST_DISTURBED`` test pictures at most, as they are and at each level of each disturbance."""
    chosen = choose(len(looked.test), MOST_DISTURBED, looked.seed)
    levels = list(every_level(PICTURE_LEVELS))
    edge = max(_LEAST_EDGE, 2 * int(looked.package.description["preprocessing"].get("image_size", 0)))
    right = np.zeros((len(chosen), len(levels) + 1), bool)
    batch: list[Pixels] = []
    first = 0
    for number, (_, pixels, _) in enumerate(iter_pictures(looked.data, "test", looked.places["test"][chosen]), start=1):
        small = _limit(pixels, edge)
        seeds = [[looked.seed, int(chosen[number - 1]), place] for place in range(len(levels))]
        batch += [small, *(disturb_picture(kind, level, small, seed) for (kind, level), seed in zip(levels, seeds, strict=True))]
        if number - first == _AT_ONCE or number == len(chosen):
            said = looked.package.predict_arrays(batch).argmax(axis=1).reshape(number - first, -1)
            right[first:number] = said == looked.test.truth[chosen[first:number], None]
            batch, first = [], number
    shares = right.mean(axis=0)
    found = []
    for (kind, level), share in zip(levels, shares[1:], strict=True):
        low, high = wilson(float(share), len(chosen))
        figures = {"figure": float(share), "low": low, "high": high, "undisturbed": float(shares[0])}
        found.append({"kind": kind, "level": level, "unit": PICTURE_UNITS[kind], **figures})
    return found


def _limit(pixels: Pixels, edge: int) -> Pixels:
    """The picture, made smaller if its longer side is above ``edge``: the network sees less of it anyway, and memory stays bounded."""
    from PIL import Image

    if max(pixels.shape[:2]) <= edge:
        return pixels
    picture = Image.fromarray(pixels)
    picture.thumbnail((edge, edge))
    return np.asarray(picture, np.uint8)

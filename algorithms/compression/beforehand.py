"""What is wrong with a compression that can be known before the model is trained: a pure function of what is asked for and of the data."""

from __future__ import annotations

from collections.abc import Mapping

from algorithms.compression.recipes import CALIBRATION_BATCH, Recipe, Search, next_recipes


def compression_fault(search: Search, num_rows: Mapping[str, int], *, strict: bool) -> tuple[str, str] | None:
    """Why the compression cannot be made, as "parameter: sentence", and what to do; None if it can be.

    Args:
        num_rows: samples by split, as the model is going to learn from them.
        strict: whether it is a failure if fp32 is shipped.
    """
    if search.mode == "none":
        return None
    if not num_rows.get("valid"):
        told = "compress: the data has no valid split, on which is measured what compression costs"
        return told, "Give the valid split a share (`ratios`), or leave out `compress`."
    first = next_recipes(search, {})
    if not first:
        told = f"nothing can be tried on this kind of model with `compress` {search.mode}, so no compressed model can be within the budget"
        return (f"strict_budget: {told}", "Leave out `strict_budget` to ship fp32, or take another `compress`.") if strict else None
    num_train = num_rows.get("train", 0)
    if num_train < CALIBRATION_BATCH and not _something_without_calibration(search):
        told = f"whose activation ranges want at least {CALIBRATION_BATCH} training samples; the data has {num_train}"
        hint = "Take more samples, another `compress`, or leave it out."
        return f"compress: {search.mode} is int8 for this algorithm, {told}", hint
    return None


def uncalibrated(search: Search, num_train: int) -> bool:
    """Whether candidates will be missing because there are too few training samples for the ranges of int8."""
    return num_train < CALIBRATION_BATCH and any(_calibrated(recipe) for recipe in next_recipes(search, {}))


def _something_without_calibration(search: Search) -> bool:
    """Whether the search comes to anything else, if all that is calibrated fails."""
    known: dict[str, float | None] = {}
    while recipes := next_recipes(search, known):
        if not all(_calibrated(recipe) for recipe in recipes):
            return True
        known.update((recipe.name, None) for recipe in recipes)
    return False


def _calibrated(recipe: Recipe) -> bool:
    return recipe.quantize == "static"

"""Whether scores are probabilities, and the temperature that makes them so."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 15
LEAST_SAMPLES = 40
_FOLDS = 5
_COLDEST, _HOTTEST = 0.05, 20.0
_TINY = 1e-30


@dataclass(frozen=True)
class Temperature:
    """The result of temperature scaling (Guo et al. 2017, arXiv 1706.04599) on ``num_samples`` samples of the valid split.

    ``temperature`` is 1 where ``kept`` is false. The figures before and after are of samples that the temperature was not fitted on (cross-fitting).
    """

    temperature: float
    kept: bool
    num_samples: int
    log_loss_before: float
    log_loss_after: float
    ece_before: float
    ece_after: float

    def to_json(self) -> dict[str, Any]:
        """As ``package.json`` has it under ``calibration``."""
        return {"method": "temperature scaling", "split": "valid", **asdict(self)}


def softmax(logits: NDArray[Any], temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities float64 [N, C] of logits [N, C] divided by a temperature."""
    scaled = np.asarray(logits, np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def log_loss(truth: NDArray[np.int64], scores: NDArray[Any]) -> float:
    """Mean negative log likelihood of true classes int [N] under scores [N, C]."""
    return float(-np.log(np.maximum(np.asarray(scores, np.float64)[np.arange(len(truth)), truth], _TINY)).mean())


def reliability(truth: NDArray[np.int64], scores: NDArray[Any], num_bins: int = NUM_BINS) -> list[dict[str, float]]:
    """The calibration curve: samples in bins of equal width by the score of the predicted class; empty bins are left out.

    Args:
        truth: int [N].
        scores: [N, C].

    Returns:
        For each bin ``low``, ``high``, ``count``, ``confidence`` (mean score of the predicted class) and ``accuracy`` (share that is right).
    """
    confidence, right = scores.max(axis=1).astype(np.float64), scores.argmax(axis=1) == truth
    bins = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins)
    sums = np.bincount(bins, confidence, minlength=num_bins), np.bincount(bins, right, minlength=num_bins)
    return [
        {
            "low": index / num_bins,
            "high": (index + 1) / num_bins,
            "count": int(counts[index]),
            "confidence": float(sums[0][index] / counts[index]),
            "accuracy": float(sums[1][index] / counts[index]),
        }
        for index in np.flatnonzero(counts)
    ]


def expected_calibration_error(bins: list[dict[str, float]]) -> float:
    """Mean distance of confidence and accuracy over the bins of ``reliability``, weighted by their counts: 0 is calibrated, 1 is worst."""
    total = sum(entry["count"] for entry in bins)
    return sum(entry["count"] * abs(entry["confidence"] - entry["accuracy"]) for entry in bins) / total if total else 0.0


def find_temperature(truth: NDArray[np.int64], logits: NDArray[Any], seed: int = 0) -> Temperature | None:
    """The temperature that makes the log loss of logits [N, C] smallest; None with fewer than ``LEAST_SAMPLES`` samples.

    It is kept only if it lowers the log loss of samples that it was not fitted on: each fold is scaled with the temperature of the others.
    """
    if len(truth) < LEAST_SAMPLES:
        return None
    folds = np.random.default_rng(seed).permutation(len(truth)) % _FOLDS
    scaled = np.empty(logits.shape, np.float64)
    for fold in range(_FOLDS):
        inside = folds == fold
        scaled[inside] = softmax(logits[inside], _fit(truth[~inside], logits[~inside]))
    plain = softmax(logits)
    before, after = log_loss(truth, plain), log_loss(truth, scaled)
    kept = after < before
    errors = [expected_calibration_error(reliability(truth, scores)) for scores in (plain, scaled)]
    return Temperature(_fit(truth, logits) if kept else 1.0, kept, len(truth), before, after, errors[0], errors[1])


def _fit(truth: NDArray[np.int64], logits: NDArray[Any]) -> float:
    """The best temperature for targets that are not quite certain, 1 / (N + 2) away (Platt 1999): else a network without a mistake would
    get the coldest of all."""
    from scipy.optimize import minimize_scalar

    centred = np.asarray(logits, np.float64) - np.max(logits, axis=1, keepdims=True)
    doubt = 1 / (len(truth) + 2)
    wanted = centred[np.arange(len(truth)), truth] * (1 - doubt)
    wanted += (centred.sum(axis=1) - centred[np.arange(len(truth)), truth]) * doubt / max(logits.shape[1] - 1, 1)

    def loss(log_temperature: float) -> float:
        cold = np.exp(-log_temperature)
        return float((np.log(np.exp(centred * cold).sum(axis=1)) - wanted * cold).mean())

    found = minimize_scalar(loss, bounds=(np.log(_COLDEST), np.log(_HOTTEST)), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))

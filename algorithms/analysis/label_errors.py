"""Labels that are most likely wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def find_label_errors(labels: NDArray[np.int64], scores: NDArray[Any]) -> list[tuple[int, int, float]]:
    """Confident learning (Northcutt et al. 2021, arXiv 1911.00068): samples that the model holds for another class as surely as for its own.

    A class's threshold is the mean score of it among the samples labelled so; a sample belongs to the classes whose threshold its score
    reaches, and if the best of them is not its label, the label is suspected. The surest comes first (by the margin over its label's score).

    Args:
        labels: int [N], as they are given.
        scores: [N, C] of a model that did not learn from these samples.

    Returns:
        (index of the sample, class it seems to be, margin 0 to 1).
    """
    given = np.asarray(scores, np.float64)
    num_classes = given.shape[1]
    counts = np.bincount(labels, minlength=num_classes)
    own = given[np.arange(len(labels)), labels]
    thresholds = np.divide(np.bincount(labels, own, minlength=num_classes), counts, out=np.full(num_classes, np.inf), where=counts > 0)
    reached = np.where(given >= thresholds, given, -1.0)
    likely = reached.argmax(axis=1)
    margin = given[np.arange(len(labels)), likely] - own
    suspected = np.flatnonzero((reached.max(axis=1) >= 0) & (likely != labels) & (margin > 0))
    order = suspected[np.lexsort((suspected, -margin[suspected]))]
    return [(int(index), int(likely[index]), float(margin[index])) for index in order]

"""What a comparison of two model versions shows, as frozen JSON values; ``tasks.compare`` fills it, ``compare`` draws it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

Range = tuple[float, float]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Side(_Part):
    """One version. What its run card would tell is empty if it has none (an imported package)."""

    ref: str
    aliases: list[str] = []
    algorithm: str
    created: str = ""
    has_card: bool = False
    metric: str = ""
    epochs: Sequence[Mapping[str, float | None]] = []
    best_epoch: int | None = None
    num_parameters: int | None = None
    training_seconds: float | None = None
    num_bytes: int = 0
    compression: Mapping[str, Any] | None = None


class MetricRow(_Part):
    """A metric of both; intervals at 95 %, of the difference from the same rows of both."""

    name: str
    first: float | None = None
    second: float | None = None
    first_interval: Range | None = None
    second_interval: Range | None = None
    difference: float | None = None
    difference_interval: Range | None = None
    higher_is_better: bool = True

    @property
    def better(self) -> int:
        """1 or 2: which is better, as far as the rows can tell; 0 if the interval of the difference has both signs, or is not known."""
        if self.difference_interval is None:
            return 0
        low, high = self.difference_interval
        if low <= 0 <= high:
            return 0
        return 2 if (low > 0) == self.higher_is_better else 1


class Agree(_Part):
    """On how many rows which of them is right; ``p_value`` of McNemar's exact test."""

    both: int
    only_first: int
    only_second: int
    none: int
    p_value: float


class Fact(_Part):
    """One thing about both, as text."""

    name: str
    first: str
    second: str

    @property
    def differs(self) -> bool:
        return self.first != self.second


class Comparison(_Part):
    """Two versions side by side."""

    sides: tuple[Side, Side]
    same_test_split: bool
    num_paired: int = 0
    of_packages: bool = False  # intervals come from the packages' predictions, else from those of the trained models
    metrics: list[MetricRow]
    agreement: Agree | None = None
    data: list[Fact] = []
    only_first_columns: list[str] = []
    only_second_columns: list[str] = []
    options: list[Fact] = []
    num_same_options: int = 0
    package: list[Fact] = []
    compression: list[Fact] = []

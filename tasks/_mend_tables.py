"""Mending the columns of a table: numbers that were kept as text, blanks around text, and letters that were decoded wrongly."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from infra.datasets.tables import ROW
from tasks._look import each_bundle, open_here

if TYPE_CHECKING:
    from collections.abc import Sequence

    from infra.context import StageContext
    from infra.datasets.card import DatasetRef
    from infra.datasets.dataset import Dataset, RowGroup

Style = Literal["point", "comma"]
LEAST_NUMBERS = 0.95  # share of the values of a text column that must be numbers for it to become one of numbers
MOST_LISTED = 1000  # values that became missing, listed for each column
MISSING = frozenset(["", "-", "--", "?", ".", "na", "n/a", "nan", "none", "null", "nil", "missing", "unknown"])
_DRESSED = re.compile(r"([+-]?)\s*[$€£¥]?\s*([+-]?)(.*?)\s*[$€£¥%]?")
_SPACED = re.compile(r"(?<=\d)[ \u00a0\u202f](?=\d{3}(?:\D|$))")
# Thousands do not begin with 0: 0,567 is less than one.
_NUMBERS: dict[Style, re.Pattern[str]] = {
    "point": re.compile(r"(?=[+-]?[.]?\d)[+-]?(?:[1-9]\d{0,2}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:[eE][+-]?\d+)?"),
    "comma": re.compile(r"(?=[+-]?,?\d)[+-]?(?:[1-9]\d{0,2}(?:\.\d{3})+|\d+)?(?:,\d+)?(?:[eE][+-]?\d+)?"),
}
_CODE = re.compile(r"[+-]?0\d")  # 01234 is a postcode or an article, not a number
_SUSPECT = re.compile(r"[\u00c2-\u00f4][\u0080-\u00bf\u0152-\u0192\u02c6-\u02dc\u2013-\u2122]")


@dataclass
class ColumnRepair:
    """What is done to one column, and how often.

    Attributes:
        becomes: ``float`` if its text turns into numbers, else empty.
        style: how its numbers are written: ``1,234.5`` (point) or ``1.234,5`` (comma).
        lost: row and text of values that are no numbers, and so become missing (the first 1,000).
    """

    name: str
    becomes: Literal["", "float"] = ""
    style: Style = "point"
    num_trimmed: int = 0
    num_decoded: int = 0
    num_numbers: int = 0
    num_lost: int = 0
    lost: list[tuple[int, str]] = field(default_factory=list)
    examples: list[tuple[str, str]] = field(default_factory=list)

    def told(self) -> list[str]:
        """The repairs in words."""
        shown = "; ".join(f"{before!r} is now {after!r}" for before, after in self.examples[:3])
        found = []
        if self.becomes:
            found.append(f"text made numbers: {self.num_numbers} values" + (f" ({shown})" if shown else ""))
            if self.num_lost:
                listed = ", ".join(f"row {row}: {text!r}" for row, text in self.lost)
                found.append(
                    f"values that are no numbers made missing: {self.num_lost} ({listed}{', ...' if self.num_lost > len(self.lost) else ''})"
                )
            return found
        if self.num_trimmed:
            found.append(f"blanks around text removed: {self.num_trimmed} values")
        if self.num_decoded:
            found.append(f"letters decoded anew: {self.num_decoded} values" + (f" ({shown})" if shown else ""))
        return found


@dataclass
class TableRepairs:
    """The columns that are mended."""

    columns: list[ColumnRepair]

    def recipe(self) -> list[list[str]]:
        return [[column.name, column.becomes, column.style] for column in self.columns]


def read_number(text: str, style: Style) -> float | None:
    """The number that a text writes, with a currency or percent sign and thousands set apart; None if it is none. Percents stay as written."""
    parts = _DRESSED.fullmatch(text.strip())
    if parts is None or (parts[1] and parts[2]):
        return None
    bare = parts[1] + parts[2] + _SPACED.sub("", parts[3])
    if _CODE.match(bare) or not _NUMBERS[style].fullmatch(bare):
        return None
    plain = bare.replace(",", "") if style == "point" else bare.replace(".", "").replace(",", ".")
    return float(plain)


def decode_again(text: str) -> str:
    """Text whose UTF-8 was read as Windows-1252 or Latin-1, put right; other text as it is."""
    if not _SUSPECT.search(text):
        return text
    for encoding in ("cp1252", "latin-1"):
        with contextlib.suppress(UnicodeError):
            return text.encode(encoding).decode("utf-8")
    return text


def mend_text(text: str) -> str:
    """Without blanks around it, rightly decoded."""
    return decode_again(text).strip()


@dataclass
class _Counts:
    """What the values of one text column are; how often each occurs is counted."""

    num_values: int = 0
    numbers: Counter[str] = field(default_factory=Counter)
    num_missing: int = 0
    num_trimmed: int = 0
    num_decoded: int = 0
    lost: dict[str, list[tuple[int, str]]] = field(default_factory=lambda: {"point": [], "comma": []})
    examples: list[tuple[str, str]] = field(default_factory=list)
    number_examples: list[tuple[str, str]] = field(default_factory=list)

    def add(self, other: _Counts) -> None:
        self.num_values += other.num_values
        self.numbers += other.numbers
        self.num_missing += other.num_missing
        self.num_trimmed += other.num_trimmed
        self.num_decoded += other.num_decoded
        for style, lost in other.lost.items():
            self.lost[style] = [*self.lost[style], *lost][:MOST_LISTED]
        self.examples = [*self.examples, *other.examples][:3]
        self.number_examples = [*self.number_examples, *other.number_examples][:3]


def count_column(column: pa.ChunkedArray, rows: Sequence[int]) -> _Counts:
    """Look at each different value once."""
    found = _Counts()
    encoded = column.combine_chunks().dictionary_encode()
    encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    codes = encoded.indices.to_pylist()
    times = Counter(code for code in codes if code is not None)
    unread: dict[str, dict[int, str]] = {"point": {}, "comma": {}}
    for code, text in enumerate(encoded.dictionary.to_pylist()):
        count = times[code]
        found.num_values += count
        mended = mend_text(text)
        if mended != text:
            found.num_decoded += count * (mended != text.strip())
            found.num_trimmed += count * (text != text.strip())
            found.examples = [*found.examples, (text, mended)][:3]
        if mended.lower() in MISSING:
            found.num_missing += count
            continue
        for style in _NUMBERS:
            number = read_number(mended, style)
            if number is None:
                unread[style][code] = text
            else:
                found.numbers[style] += count
                if str(number) not in (text, f"{text}.0"):
                    found.number_examples = [*found.number_examples, (text, f"{number:g}")][:3]
    for written, texts in unread.items():
        if len(texts) <= MOST_LISTED:
            found.lost[written] = [(row, texts[code]) for row, code in zip(rows, codes, strict=True) if code in texts][:MOST_LISTED]
    return found


def _count_task(uri: str, ref: DatasetRef, cache: Path, groups: Sequence[RowGroup], columns: list[str]) -> dict[str, _Counts]:
    dataset = open_here(uri, ref, cache)
    counts = {name: _Counts() for name in columns}
    for group in groups:
        table = dataset.read(group, [*columns, ROW])
        rows = table.column(ROW).to_pylist()
        for name in columns:
            counts[name].add(count_column(table.column(name), rows))
    return counts


def find_table_repairs(dataset: Dataset, target: str | None, context: StageContext) -> TableRepairs:
    """Look at every text column once, and decide for each as a whole."""
    columns = [feature.name for feature in dataset.card.features if feature.type == "string"]
    counts = {name: _Counts() for name in columns}
    for part in each_bundle(context, dataset, 1, _count_task, columns, phase="repair: look") if columns else ():
        for name, found in part.items():
            counts[name].add(found)
    decided = [decide_column(name, counts[name], is_target=name == target) for name in columns]
    return TableRepairs([one for one in decided if one is not None])


def decide_column(name: str, counts: _Counts, *, is_target: bool) -> ColumnRepair | None:
    """What is to be done with a text column; None if it is well."""
    there = counts.num_values - counts.num_missing
    style: Style = "comma" if counts.numbers["comma"] > counts.numbers["point"] else "point"
    read = counts.numbers[style]
    if there and read >= LEAST_NUMBERS * there and not is_target:
        lost = counts.lost[style]
        return ColumnRepair(name, "float", style, num_numbers=read, num_lost=there - read, lost=lost, examples=counts.number_examples)
    if counts.num_trimmed or counts.num_decoded:
        return ColumnRepair(name, num_trimmed=counts.num_trimmed, num_decoded=counts.num_decoded, examples=counts.examples)
    return None


def mend_rows(table: pa.Table, plan: TableRepairs) -> pa.Table:
    """A row group with its columns mended."""
    for repair in plan.columns:
        place = table.column_names.index(repair.name)
        encoded = table.column(repair.name).combine_chunks().dictionary_encode()
        encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
        mended: list[Any] = [mend_text(text) or None for text in encoded.dictionary.to_pylist()]
        kind = pa.string()
        if repair.becomes:
            mended, kind = [None if text is None else read_number(text, repair.style) for text in mended], pa.float64()
        column = pc.take(pa.array(mended, kind), encoded.indices)
        table = table.set_column(place, pa.field(repair.name, kind), column)
    return table

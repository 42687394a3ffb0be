"""Applies a unified diff, strictly: every line of context must be there. In Python, so that a bare machine needs neither patch nor git."""

from __future__ import annotations

import re
from pathlib import Path

_HUNK = re.compile(r"^@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")


class PatchError(Exception):
    """The patch does not fit the files."""


def _hunk_body(lines: list[str], start: int, old_count: int, new_count: int) -> tuple[list[str], list[str], int]:
    """The old and the new lines of the hunk whose body begins at ``start``, and where it ends."""
    old: list[str] = []
    new: list[str] = []
    at = start
    while len(old) < old_count or len(new) < new_count:
        if at >= len(lines):
            raise PatchError("the patch ends in the middle of a hunk")
        mark, text = lines[at][:1] or " ", lines[at][1:]
        if mark not in " -+":
            raise PatchError(f"line {at + 1} of the patch is not part of a hunk: {lines[at]!r}")
        if mark in " -":
            old.append(text)
        if mark in " +":
            new.append(text)
        at += 1
    return old, new, at


def apply_patch(patch: str, folder: Path) -> list[str]:
    """Change the files below ``folder`` as ``patch`` says, paths as for ``patch -p1``; text before the first ``---`` is ignored.

    Returns:
        The changed files, relative to ``folder``. Nothing is written unless every hunk fits.

    Raises:
        PatchError: a file is missing, or its lines are not those that the patch expects.
    """
    lines = patch.splitlines()
    texts: dict[str, list[str]] = {}
    shift = 0
    current = ""
    at = 0
    while at < len(lines):
        line = lines[at]
        if line.startswith("--- ") and at + 1 < len(lines) and lines[at + 1].startswith("+++ "):
            current = lines[at + 1][4:].split("\t")[0].split("/", 1)[-1]
            target = folder / current
            if not target.is_file():
                raise PatchError(f"there is no file {current} to change")
            texts[current] = target.read_text(encoding="utf-8").split("\n")
            shift = 0
            at += 2
        elif current and (match := _HUNK.match(line)):
            old, new, at = _hunk_body(lines, at + 1, int(match[2] or 1), int(match[4] or 1))
            first = int(match[1]) - 1 + shift
            found = texts[current][first : first + len(old)]
            if found != old:
                wanted, there = "\n".join(old), "\n".join(found)
                raise PatchError(f"{current}, line {int(match[1])}: the patch expects\n{wanted}\nbut there is\n{there}")
            texts[current][first : first + len(old)] = new
            shift += len(new) - len(old)
        else:
            at += 1
    if not texts:
        raise PatchError("the patch changes no file")
    for name, text in texts.items():
        (folder / name).write_text("\n".join(text), encoding="utf-8")
    return list(texts)

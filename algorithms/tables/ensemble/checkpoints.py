"""Finished members in the store, so that a killed training need not fit them again."""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from algorithms.run import Run
from algorithms.tables.ensemble.bags import Bag
from algorithms.tables.ensemble.model import load_models, save_bag
from algorithms.tables.ensemble.portfolio import Member
from infra.errors import CorruptArtifactError

WORTH_S = 1.0
"""A member that is fitted faster is fitted again: keeping it would take as long."""


class Checkpoints:
    """One object a member, with its digest in front; none if the run keeps no checkpoints."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def save(self, bag: Bag) -> None:
        """Keep a member that took at least ``WORTH_S`` seconds."""
        if not self._run.spec.checkpoints or bag.seconds < WORTH_S:
            return
        with tempfile.TemporaryDirectory(dir=self._run.scratch_dir) as scratch:
            folder = Path(scratch)
            save_bag(bag, folder)
            np.save(folder / "left_out.npy", bag.left_out)
            (folder / "bag.json").write_text(json.dumps({"num_models": len(bag.models), "seconds": bag.seconds, "power": bag.power}))
            body = _pack(folder)
        self._run.store.write_bytes(self._key(bag.member), hashlib.sha256(body).hexdigest().encode() + body)

    def load(self, member: Member, threads: int) -> Bag | None:
        """The member of an earlier attempt.

        Raises:
            CorruptArtifactError: what was kept does not match its digest.
        """
        if not self._run.spec.checkpoints or not self._run.store.exists(self._key(member)):
            return None
        kept = self._run.store.read_bytes(self._key(member))
        expected, body = kept[:64].decode("ascii", "replace"), kept[64:]
        if (found := hashlib.sha256(body).hexdigest()) != expected:
            raise CorruptArtifactError(self._key(member), expected, found)
        with tempfile.TemporaryDirectory(dir=self._run.scratch_dir) as scratch:
            folder = Path(scratch)
            with zipfile.ZipFile(io.BytesIO(body)) as archive:
                archive.extractall(folder)  # its digest was verified: it is what we packed
            told = json.loads((folder / "bag.json").read_text())
            left_out = np.load(folder / "left_out.npy", allow_pickle=False)
            return Bag(member, load_models(member, told["num_models"], folder, threads), left_out, told["seconds"], told["power"])

    def _key(self, member: Member) -> str:
        name = member.name.replace(", ", "-").replace(" ", "-")
        return f"{self._run.spec.checkpoints.rstrip('/')}/members/{name}.zip"


def _pack(folder: Path) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder).as_posix())
    return packed.getvalue()

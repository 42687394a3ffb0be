"""The package: a folder that predicts with onnxruntime, numpy and Pillow alone.

    model.onnx     pre- and post-processing inside
    package.json   format, task, algorithm, labels, input and output schema, preprocessing, calibration, metrics, lineage, config, versions, and
                   the size and SHA-256 of every other file

Pictures: one input ``image`` (uint8 [N, H, W, 3], all three free). Tables: one input a column (float32, int64 or string, [N, 1]; a missing
number is NaN, a missing string is ``""``). Outputs: ``scores`` (float32 [N, C], in the order of ``labels``) or ``value`` (float32 [N]).
This module is used where neither torch nor pydantic is installed: it imports the standard library, onnxruntime, numpy and Pillow.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from algorithms._package_format import (
    FORMAT,
    MODEL_FILE,
    library_versions,
    read_description,
    verify_files,
    write_description,
)
from algorithms._package_images import decode_picture, group_by_size
from algorithms._package_runtime import open_session
from algorithms._package_sealing import model_source
from algorithms._package_tables import Column, UnusableInputError, convert_row, read_rows, stack_rows
from infra.errors import InvalidOptionError, ParityError

__all__ = ["Arrays", "Input", "Package", "check_parity", "decode_picture", "record_metrics", "write_package"]

Arrays = NDArray[Any] | Sequence[NDArray[Any]] | Mapping[str, NDArray[Any]]
"""A batch: pictures uint8 [N, H, W, 3] or a list of [H, W, 3] of any sizes, or columns by name, each [N] or [N, 1]."""
Input = str | os.PathLike[str] | bytes | Mapping[str, Any]
"""A picture's path or encoded bytes, or a row of a table."""
_TENSORS = {"tensor(float)": "float", "tensor(double)": "float", "tensor(int64)": "int", "tensor(int32)": "int", "tensor(string)": "string"}


def write_package(
    folder: Path,
    *,
    onnx_model_bytes: bytes,
    task: str,
    algorithm: str,
    inputs_schema: Mapping[str, Any],
    output_schema: Mapping[str, Any],
    labels: Sequence[str] = (),
    preprocessing: Mapping[str, Any],
    lineage: Mapping[str, Any],
    config: Mapping[str, Any],
    metrics: Mapping[str, Any],
    calibration: Mapping[str, Any] | None = None,
) -> None:
    """Write ``model.onnx`` and ``package.json`` to ``folder``; other files that lie there already become part of the package.

    The same arguments give the same bytes: there is no date in it.

    Args:
        inputs_schema: JSON schema of one input: an object whose ``properties`` are the columns in order (type ``number``, ``integer``,
            ``boolean`` or ``string``, with ``null`` where a value may be missing; ``format: date-time`` for dates, which become days
            since 1970) and whose ``required`` must be there; or, for pictures, a description of the picture.
        output_schema: JSON schema of one prediction.
        labels: class names in the order of the scores; empty for regression.
        preprocessing: in words (key ``summary``) and as data.
        lineage: from the data's digest to here.
        metrics: of this package on the test split; ``record_metrics`` sets them later.
        calibration: the temperature inside the graph and how it was found; empty if the scores were not calibrated.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MODEL_FILE).write_bytes(onnx_model_bytes)
    session = open_session(onnx_model_bytes, providers=["CPUExecutionProvider"], threads=1)
    description = {
        "format": FORMAT,
        "task": task,
        "algorithm": algorithm,
        "labels": list(labels),
        "inputs": dict(inputs_schema),
        "outputs": dict(output_schema),
        "preprocessing": dict(preprocessing),
        "lineage": dict(lineage),
        "config": dict(config),
        "metrics": dict(metrics),
        "calibration": dict(calibration or {}),
        "versions": library_versions(),
        "onnx": {
            "opset": _opset(onnx_model_bytes),
            "inputs": [{"name": node.name, "type": node.type, "shape": list(node.shape)} for node in session.get_inputs()],
            "outputs": [{"name": node.name, "type": node.type, "shape": list(node.shape)} for node in session.get_outputs()],
        },
    }
    write_description(folder, description)


def record_metrics(folder: Path, metrics: Mapping[str, Any], parity: Mapping[str, float] | None = None) -> None:
    """Put what was measured of the package into its ``package.json``; JSON values, no NaN.

    Args:
        metrics: on the test split.
        parity: ``largest_difference`` from the trained model that ``check_parity`` found, and the ``tolerance`` it was held to.
    """
    description = read_description(folder)
    compared = {} if parity is None else {"parity": dict(parity)}
    write_description(folder, {**description, "metrics": dict(metrics), **compared})


def _opset(model: bytes) -> dict[str, int]:
    import onnx  # only where packages are written

    return {entry.domain or "ai.onnx": entry.version for entry in onnx.load_model_from_string(model).opset_import}


class Package:
    """A loaded package; safe to use from several threads."""

    def __init__(self, folder: Path, description: Mapping[str, Any], session: ort.InferenceSession) -> None:
        self.folder, self.description, self.session = folder, description, session
        nodes = session.get_inputs()
        self.is_image = len(nodes) == 1 and nodes[0].name == "image" and nodes[0].type == "tensor(uint8)"
        self.columns: list[Column] = [] if self.is_image else [(node.name, _TENSORS[node.type]) for node in nodes]  # type: ignore[misc]
        self._dtypes = {node.name: {"tensor(double)": np.float64, "tensor(int32)": np.int32}.get(node.type) for node in nodes}
        names = [node.name for node in session.get_outputs()]
        self.output = "scores" if "scores" in names else "value"

    @classmethod
    def load(
        cls, folder: str | os.PathLike[str], providers: Sequence[str] | None = None, *, threads: int | None = None, verify: bool = True
    ) -> Package:
        """Verify every file and open the model.

        Args:
            providers: execution providers of onnxruntime; None: CUDA where a GPU works, else the CPU.
            threads: CPU threads within an operator; None: the cores of this process.
            verify: compare the files with their digests; leave it off only right after another check.

        Raises:
            ArtifactNotFoundError: a file is missing.
            CorruptArtifactError: a file differs from its digest; it is named.
            InvalidSettingError: it is sealed, and the settings have no key, or another one.
        """
        folder = Path(folder)
        description = read_description(folder)
        if verify:
            verify_files(folder, description)
        return cls(folder, description, open_session(model_source(folder, description), providers, threads))

    @property
    def task(self) -> str:
        return str(self.description["task"])

    @property
    def labels(self) -> list[str]:
        """Class names in the order of the scores; empty for regression."""
        return list(self.description["labels"])

    @property
    def metrics(self) -> dict[str, Any]:
        return dict(self.description["metrics"])

    def predict_arrays(self, arrays: Arrays, batch_size: int = 64) -> NDArray[np.float32]:
        """Scores float32 [N, C], or values float32 [N], in the order of the inputs; pictures of equal size share a batch."""
        if isinstance(arrays, Mapping):
            columns = {name: self.as_column(name, arrays[name]) for name, _ in self.columns}
            size = len(next(iter(columns.values())))
            parts = [
                self._run({name: column[start : start + batch_size] for name, column in columns.items()})
                for start in range(0, size, batch_size)
            ]
            return np.concatenate(parts) if parts else self._nothing()
        pictures = list(arrays)
        results: list[Any] = [None] * len(pictures)
        for batch in group_by_size(pictures, batch_size):
            for index, result in zip(batch, self._run({"image": np.stack([pictures[i] for i in batch])}), strict=True):
                results[index] = result
        return np.stack(results) if results else self._nothing()

    def predict(self, inputs: Iterable[Input], batch_size: int = 64) -> list[dict[str, Any]]:
        """Predict each input; one that cannot be read or lacks a column has an ``error`` and the others go on.

        Args:
            inputs: pictures by path or encoded bytes; rows by dict; or paths of CSV, JSON Lines or Parquet files, each row an input.

        Returns:
            In order: ``{"input", "label", "scores": {label: probability}}``, ``{"input", "value"}`` or ``{"input", "error"}``.
            ``input`` is the path, ``PATH:NUMBER`` for the rows of a file (from 1), and the place in ``inputs`` (from 0) for rows and bytes.
        """
        return list(self.iter_predict(inputs, batch_size))

    def iter_predict(self, inputs: Iterable[Input], batch_size: int = 64) -> Iterator[dict[str, Any]]:
        """As ``predict``, result by result, with no more than a batch in memory."""
        named = self._named(inputs)
        while batch := list(itertools.islice(named, batch_size)):
            prepared = [self._prepare(value) for _, value in batch]
            ready = [value for value in prepared if not isinstance(value, Exception)]
            outputs = iter(self._predict_ready(ready) if ready else ())
            for (name, _), value in zip(batch, prepared, strict=True):
                yield (
                    {"input": name, "error": _sentence(value)}
                    if isinstance(value, Exception)
                    else {"input": name, **self.answer(next(outputs))}
                )

    def _named(self, inputs: Iterable[Input]) -> Iterator[tuple[Any, Any]]:
        for index, value in enumerate(inputs):
            if self.is_image or isinstance(value, (Mapping, bytes)):
                yield (index if isinstance(value, (Mapping, bytes)) else os.fspath(value)), value
                continue
            path = Path(value)
            try:
                for number, row in enumerate(read_rows(path), start=1):
                    yield f"{path}:{number}", row
            except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
                yield str(path), error

    def _prepare(self, value: Any) -> Any:
        """The picture's pixels or the row's values; or the error, as a value."""
        try:
            if isinstance(value, Exception):
                return value
            if not self.is_image:
                if not isinstance(value, Mapping):
                    raise UnusableInputError("this model takes rows of a table, not pictures")
                return convert_row(value, self.columns, self.description["inputs"])
            if isinstance(value, Mapping):
                raise UnusableInputError("this model takes pictures, not rows of a table")
            return decode_picture(value)
        except (OSError, ValueError) as error:
            return error

    def _predict_ready(self, ready: list[Any]) -> NDArray[np.float32]:
        return self.predict_arrays(ready if self.is_image else stack_rows(ready, self.columns), batch_size=len(ready))

    def answer(self, output: Any) -> dict[str, Any]:
        """One row of the output in words: ``{"label", "scores"}`` or ``{"value"}``."""
        if self.output == "value":
            return {"value": float(output)}
        labels = self.labels
        return {
            "label": labels[int(np.argmax(output))],
            "scores": {label: float(score) for label, score in zip(labels, output, strict=True)},
        }

    def as_column(self, name: str, column: Any) -> NDArray[Any]:
        """A column as the graph takes it: of its type, [N, 1]."""
        tensor = dict(self.columns)[name]
        default: Any = {"float": np.float32, "int": np.int64, "string": object}[tensor]
        return np.asarray(column, dtype=self._dtypes[name] or default).reshape(-1, 1)

    def _run(self, feeds: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        (result,) = self.session.run([self.output], feeds)
        result = np.asarray(result, dtype=np.float32)
        return result.reshape(-1) if self.output == "value" else result

    def _nothing(self) -> NDArray[np.float32]:
        return np.zeros((0, len(self.labels)) if self.output == "scores" else (0,), dtype=np.float32)


def _sentence(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, OSError) and error.strerror:
        return f"it cannot be read: {error.strerror}"  # without the path, which stands beside it
    return str(error) or type(error).__name__


def check_parity(
    package_folder: Path, samples: Arrays, reference: NDArray[Any], batch_sizes: Sequence[int] = (1, 8), tolerance: float = 1e-3
) -> float:
    """Compare the package with the model it was made from, on real samples and at each batch size (on the CPU).

    Args:
        samples: a batch, as ``Package.predict_arrays`` takes it; at least as many as the largest batch size.
        reference: what the trained model gives for them: scores [N, C] or values [N].
        tolerance: largest difference allowed: of a probability; or of a value, as a share of the largest absolute value in ``reference``.

    Returns:
        The largest difference found.

    Raises:
        ParityError: the difference is larger at some batch size; a NaN counts as infinitely far.
        InvalidOptionError: fewer samples than the largest batch size.
    """
    package = Package.load(package_folder, providers=["CPUExecutionProvider"])
    expected = np.asarray(reference, dtype=np.float64)
    if len(expected) < max(batch_sizes):
        raise InvalidOptionError("the parity check", [f"{len(expected)} samples came, but a batch of {max(batch_sizes)} is to be compared"])
    scale = 1.0 if package.output == "scores" else max(float(np.max(np.abs(expected))), 1e-12)
    largest = 0.0
    for batch_size in batch_sizes:
        found = package.predict_arrays(samples, batch_size=batch_size).astype(np.float64)
        if found.shape != expected.shape:
            raise ParityError(float("inf"), tolerance, batch_size)
        difference = float(np.max(np.abs(found - expected))) / scale
        if not difference <= tolerance:  # also true of NaN
            raise ParityError(difference if np.isfinite(difference) else float("inf"), tolerance, batch_size)
        largest = max(largest, difference)
    return largest

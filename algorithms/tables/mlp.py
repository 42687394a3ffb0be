"""A network on tables: columns, rows and export for the torch engine. No torch at module level: presets refer to these functions."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from algorithms.compression.recipes import Compressible
from algorithms.engines.torch_engine import TorchData, TorchEngine, TrainedModel
from algorithms.spec import Expectation
from algorithms.tables.config import MlpConfig
from algorithms.user_code import digests
from infra.datasets.card import Card

if TYPE_CHECKING:
    import torch
    from torch import nn

    from algorithms.engines.augmenting import BatchAugment
    from algorithms.run import Run
    from algorithms.tables.columns import ColumnPlan
    from algorithms.tables.fitting import FittedTable, FoldMeans
    from algorithms.tables.graph import GraphBuilder, Head
    from algorithms.tables.target import Target
    from infra.datasets.dataset import Dataset

CLIP = 10.0
FORMAT = 1


class RowSamples:
    """One split as a file of rows in the local cache, float32 [N, F], read with ``pread`` so that memory stays bounded; see ``Samples``."""

    def __init__(self, path: Path, num_features: int, labels: np.ndarray, rows: np.ndarray) -> None:
        self.labels, self._rows, self._width = labels, rows, num_features
        # Kept open for good: a file that the cache removes under us stays readable.
        self._file = os.open(path, os.O_RDONLY)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features float32 [n, F] and targets [n]; neighbours in the file are read in one go."""
        found = np.empty((len(indices), self._width), np.float32)
        breaks = np.flatnonzero(np.diff(indices) != 1) + 1
        for first, last in zip([0, *breaks], [*breaks, len(indices)], strict=True):
            if first < last and self._width:
                self._read_into(found[first:last].reshape(-1).view(np.uint8).data, int(indices[first]) * self._width * 4)
        return found, self.labels[indices]

    def _read_into(self, target: memoryview, place: int) -> None:
        while len(target):
            count = os.preadv(self._file, [target], place)
            if count == 0:
                raise EOFError(f"a table in the cache ends {len(target)} bytes too early")
            target, place = target[count:], place + count

    def ids(self) -> list[str]:
        return [str(row) for row in self._rows]

    def close(self) -> None:
        """Let go of the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __del__(self) -> None:
        self.close()


def open_rows(
    regression: bool, config: MlpConfig, dataset: Dataset, run: Run, *, splits: Sequence[str], fitted: dict[str, Any] | None
) -> TorchData:
    """The splits as matrices on this machine's disk; rank 0 learns the columns and tells the others."""
    from algorithms.tables.columns import ColumnPlan
    from algorithms.tables.target import Target

    fold_means: FoldMeans | None = None
    if fitted is None:
        learned = _learn(regression, config, dataset, run)
        plan, target, fold_means = learned.plan, learned.target, learned.fold_means
    else:
        plan, target = ColumnPlan.model_validate(fitted["plan"]), Target.model_validate(fitted["target"])
    samples = {split: _open_split(config, dataset, split, plan, target, fold_means if split == "train" else None) for split in splits}
    return TorchData(
        "class" if target.is_class else "number",
        target.classes,
        (plan.num_features,),
        samples,
        {"plan": plan.model_dump(mode="json"), "target": target.model_dump(mode="json")},
        target.mean,
        target.std,
    )


def _learn(regression: bool, config: MlpConfig, dataset: Dataset, run: Run) -> FittedTable:
    """On rank 0; an error there is everyone's."""
    from algorithms.tables.fitting import fit_table
    from infra.errors import AtelierError

    found: FittedTable | AtelierError | None = None
    if run.is_main:
        try:
            found = fit_table(dataset, config, regression=regression, scaled=True, clip=CLIP)
        except AtelierError as error:
            found = error
    found = run.collectives.broadcast_object(found)
    assert found is not None
    if isinstance(found, AtelierError):
        raise found
    if run.is_main:
        for left in found.plan.left_out:
            run.report({"kind": "log", "message": f"Column {left.name!r} is not used: {left.reason}."})
    return found


def _open_split(
    config: MlpConfig, dataset: Dataset, split: str, plan: ColumnPlan, target: Target, fold_means: FoldMeans | None
) -> RowSamples:
    """Make the matrix, or find it in the cache, where other ranks of this machine and later attempts share it."""
    from algorithms.augmentation.rows import augment_rows
    from algorithms.tables.matrix import iter_labelled
    from algorithms.tables.target import ROW_ID
    from infra.cache import Cache
    from infra.settings import load_settings

    seed = fold_means.seed if fold_means else None
    # Noise is new in every batch; other policies add rows, here and once.
    grows = split == "train" and config.augment not in ("none", "noise")
    policy = [config.augment, config.seed, digests({"augment": config.augment})] if grows else None
    identity = [FORMAT, dataset.ref.digest, split, plan.model_dump_json(), target.model_dump_json(), seed, policy]
    name = f"tables/{hashlib.sha256(repr(identity).encode()).hexdigest()[:40]}"

    def make(folder: Path) -> None:
        folder.mkdir()
        labels, rows = [], []
        with (folder / "features").open("wb") as file:
            for table, found in iter_labelled(dataset, split, plan, target):
                encoded = fold_means.encode(plan, table) if fold_means else None
                file.write(np.ascontiguousarray(plan.transform(table, encoded), np.float32).data)
                labels.append(found)
                rows.append(table[ROW_ID].combine_chunks().to_numpy(zero_copy_only=False))
        kind = np.int64 if target.is_class else np.float32
        if grows:
            features = np.fromfile(folder / "features", np.float32).reshape(-1, plan.num_features)
            features, grown = augment_rows(config, plan, features, np.concatenate(labels))
            np.ascontiguousarray(features, np.float32).tofile(folder / "features")
            labels, rows = [grown], [np.full(len(grown), -1, np.int64)]
        np.save(folder / "labels.npy", np.concatenate([np.zeros(0, kind), *labels]).astype(kind))
        np.save(folder / "rows.npy", np.concatenate([np.zeros(0, np.int64), *rows]).astype(np.int64))

    def is_good(folder: Path) -> bool:
        if not all((folder / part).is_file() for part in ("features", "labels.npy", "rows.npy")):
            return False
        num_rows = len(np.load(folder / "labels.npy", mmap_mode="r", allow_pickle=False)) if dataset.num_rows(split) else 0
        return (folder / "features").stat().st_size == num_rows * plan.num_features * 4

    folder = Cache(load_settings().cache_path).get(name, make, is_good)
    labels, rows = np.load(folder / "labels.npy", allow_pickle=False), np.load(folder / "rows.npy", allow_pickle=False)
    return RowSamples(folder / "features", plan.num_features, labels, rows)


def build_mlp(config: MlpConfig, data: TorchData) -> nn.Module:
    """See ``algorithms.tables.networks.Mlp``."""
    from algorithms.tables.networks import Mlp

    return Mlp(data.input_shape[0], data.num_outputs, config.hidden, config.dropout)


def model_arguments(config: MlpConfig, data: TorchData) -> dict[str, Any]:
    """What a user's own network is called with, if it accepts it."""
    return {
        "num_features": data.input_shape[0],
        "in_features": data.input_shape[0],
        "num_outputs": data.num_outputs,
        "num_classes": data.num_outputs,
        "hidden": config.hidden,
        "dropout": config.dropout,
        "config": config,
    }


def tell_compressible(config: MlpConfig) -> Compressible:
    """Matrix products take both kinds of int8; half the width is a smaller architecture of its own."""
    student = {} if config.model else {"hidden": tuple(max(8, size // 2) for size in config.hidden)}
    return Compressible(static=True, dynamic=True, fp16=True, prunable=True, student=student)


def prepare_batch(config: MlpConfig, data: TorchData) -> Callable[[torch.Tensor, bool], torch.Tensor]:
    """Rows are ready as they are read."""
    return lambda features, training: features


def make_augment(config: MlpConfig, data: TorchData) -> BatchAugment | None:
    """Noise for every batch, if the options ask for it; rows that are added are part of the split."""
    if config.augment != "noise":
        return None
    from algorithms.augmentation.rows import NoiseOnRows, number_features
    from algorithms.tables.columns import ColumnPlan

    return NoiseOnRows(number_features(ColumnPlan.model_validate(data.fitted["plan"])), config.noise_sigma)


def list_expectations(regression: bool, config: MlpConfig, card: Card) -> list[Expectation]:
    from algorithms.tables import requirements

    return requirements.list_expectations(config, card, regression=regression)


def write_package(config: MlpConfig, dataset: Dataset, trained: TrainedModel, run: Run) -> None:
    """See ``algorithms.tables.export.export_table``."""
    from algorithms.tables.columns import ColumnPlan
    from algorithms.tables.export import export_table
    from algorithms.tables.target import Target

    fitted = trained.data.fitted
    plan, target = ColumnPlan.model_validate(fitted["plan"]), Target.model_validate(fitted["target"])
    head = network_head(trained.module, plan.num_features, is_class=target.is_class, temperature=trained.temperature)
    export_table(config, dataset, run, plan=plan, target=target, head=head, predict=trained.predict, calibration=trained.calibration)


def network_head(network: nn.Module, num_features: int, *, is_class: bool, temperature: float = 1.0) -> Head:
    """Any network on rows as ONNX operators: logits become scores (after division by ``temperature``), numbers stay standardised."""
    import torch
    from onnx import compose

    from algorithms.tables.graph import OPSET, softmax

    with _quiet():
        program = torch.onnx.export(
            network.eval(),
            (torch.randn(3, num_features),),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            verbose=False,
        )
    assert program is not None
    core = compose.add_prefix(program.model_proto, "network/")

    def add(builder: GraphBuilder, matrix: str) -> str:
        builder.constants.extend(core.graph.initializer)
        builder.add("Identity", matrix, output=core.graph.input[0].name)
        builder.nodes.extend(core.graph.node)
        outputs: str = core.graph.output[0].name
        return softmax(builder, builder.add("Div", outputs, builder.constant(temperature))) if is_class else outputs

    return add


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch's exporter prints and warns about its own insides, which tells a user nothing."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def mlp_engine(*, regression: bool) -> TorchEngine:
    """The torch engine for rows of a table."""
    return TorchEngine(
        open_data=partial(open_rows, regression),
        build_model=build_mlp,
        prepare_batch=prepare_batch,
        write_package=write_package,
        list_expectations=partial(list_expectations, regression),
        model_arguments=model_arguments,
        tell_compressible=tell_compressible,
        make_augment=make_augment,
        family_modules=("pandas", "algorithms.tables.fitting", "algorithms.tables.matrix", "algorithms.tables.networks"),
    )

"""The torch engine: one training loop for all networks, put together from a family's small functions.

A family (pictures, tables) gives ``TorchEngine`` five functions and inherits a config from ``TorchConfig``; the loop, the optimizers, schedules,
losses, checkpoints, several ranks, progress and metrics are the engine's. Nothing here imports torch at module level, and the modules that
hold the functions must not either: reading a preset stays cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from algorithms.user_code import is_dotted

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

    from algorithms.compression.recipes import Compressible
    from algorithms.engines.augmenting import BatchAugment
    from algorithms.run import Run
    from algorithms.spec import Expectation
    from infra.datasets.card import Card
    from infra.datasets.dataset import Dataset

Target = Literal["class", "number"]


class Samples(Protocol):
    """Random access to one split, from one process, with bounded memory. ``read`` is called from a thread that reads ahead.

    ``labels`` are all targets [n], in order.
    """

    @property
    def labels(self) -> np.ndarray: ...

    def __len__(self) -> int: ...

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The samples at ``indices`` (int64 [n], any order).

        Returns:
            Inputs [n, ...] (pictures: uint8 [n, H, W, C]; tables: float32 [n, F]), and targets [n]: int64 class indices, or float32 numbers.
        """
        ...

    def ids(self) -> list[str]:
        """Names of all samples, in order: the ``id`` column of predictions."""
        ...


@dataclass(frozen=True)
class TorchData:
    """What a network learns from.

    Attributes:
        target: ``class`` (the network gives logits [n, len(classes)]) or ``number`` (it gives [n] or [n, 1]).
        classes: names in the order of the class indices; empty for numbers.
        input_shape: shape of one sample as ``Samples.read`` gives it: (H, W, C) or (F,).
        samples: the splits that were asked for.
        fitted: JSON value learned from the training split (columns, categories, means, ...); kept with the trained model, and given back to
            ``open_data`` when it is judged or exported.
        target_mean, target_std: numbers are learned as (y - mean) / std; the engine scales the network's output back for metrics and
            predictions, an exported model has to do it itself.
    """

    target: Target
    classes: list[str]
    input_shape: tuple[int, ...]
    samples: Mapping[str, Samples]
    fitted: dict[str, Any] = field(default_factory=dict)
    target_mean: float = 0.0
    target_std: float = 1.0

    @property
    def num_outputs(self) -> int:
        return len(self.classes) if self.target == "class" else 1


class OpenData(Protocol):
    """Opens splits. Called on every rank at the same time, so it may use ``run.collectives`` to share work.

    ``fitted`` is None when training (learn it from the training split, the same on every rank), else what the training learned.
    """

    def __call__(self, config: Any, dataset: Dataset, run: Run, *, splits: Sequence[str], fitted: dict[str, Any] | None) -> TorchData: ...


@dataclass(frozen=True)
class TrainedModel:
    """A trained network as ``export`` needs it: fp32, in evaluation mode, on the CPU, with the weights to ship (averaged ones, if used).

    ``predict`` maps a whole split or some inputs to scores [n, C] (softmax of the logits divided by ``temperature``) or numbers [n] in the
    target's own unit. ``calibration`` tells how the temperature was found (``algorithms.analysis.calibration.Temperature``), empty if it was not.
    """

    module: nn.Module
    data: TorchData
    predict: Callable[[np.ndarray], np.ndarray]
    history: dict[str, Any]
    temperature: float = 1.0
    calibration: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TorchEngine:
    """One family of networks; see ``algorithms.spec.Engine`` for the verbs.

    Attributes:
        open_data: see ``OpenData``.
        build_model: (config, data) -> network with random weights, logits or numbers out. The engine has seeded torch, calls the user's own
            ``config.model`` instead where there is one, loads ``config.pretrained`` over it, and moves it to its device.
        prepare_batch: (config, data) -> function (inputs, training) -> what the network takes. It gets a batch as ``Samples.read`` gave it, on
            the network's device; here pictures are normalised.
        write_package: (config, dataset, trained, run): write the ONNX package into ``run.output_dir``; see ``algorithms.package``.
        list_expectations: (config, card) -> what the data must look like.
        model_arguments: (config, data) -> what a user's own model is called with, by name (those that it accepts).
        tell_compressible: (config) -> what can be done to make the network smaller and faster.
        make_augment: (config, data) -> what changes training batches, or None; see ``algorithms.engines.augmenting``.
        at_epoch: (config, epoch from 0) -> the config as it is in that epoch: pictures may be smaller in the first ones.
        fit_inputs: (config of an epoch, data) -> what brings inputs as they are read to that epoch's size, or None.
        family_modules: what these functions load when they run; warm processes load it beforehand.
        option_modules: (config) -> what they load besides with these options.
    """

    open_data: OpenData
    build_model: Callable[[Any, TorchData], nn.Module]
    prepare_batch: Callable[[Any, TorchData], Callable[[torch.Tensor, bool], torch.Tensor]]
    write_package: Callable[[Any, Dataset, TrainedModel, Run], None]
    list_expectations: Callable[[Any, Card], list[Expectation]]
    model_arguments: Callable[[Any, TorchData], dict[str, Any]]
    tell_compressible: Callable[[Any], Compressible]
    make_augment: Callable[[Any, TorchData], BatchAugment | None] = lambda config, data: None
    at_epoch: Callable[[Any, int], Any] = lambda config, epoch: config
    fit_inputs: Callable[[Any, TorchData], Callable[[np.ndarray], np.ndarray] | None] = lambda config, data: None
    family_modules: tuple[str, ...] = ()
    option_modules: Callable[[Any], tuple[str, ...]] = lambda config: ()

    @property
    def modules(self) -> tuple[str, ...]:
        """What a process loads that will do many trainings: also what only some options need, and what is needed only after the first step."""
        return ("torch", "torch._dynamo", "torch.utils.tensorboard", "algorithms.engines.loop", *self.family_modules)

    def first_modules(self, config: Any) -> tuple[str, ...]:
        """What a training with these options loads up to its first step; torch's compiler takes as long as all the rest, and few need it."""
        compiler = config.compile == "on" or is_dotted(config.optimizer)
        more = ("torch._dynamo",) if compiler else ()
        return ("torch", "algorithms.engines.loop", *more, *self.family_modules, *self.option_modules(config))

    @property
    def export_modules(self) -> tuple[str, ...]:
        """What an export loads besides."""
        return ("onnxscript",)

    @property
    def distributed(self) -> bool:
        return True

    def expectations(self, config: Any, card: Card) -> list[Expectation]:
        return self.list_expectations(config, card)

    def compressible(self, config: Any) -> Compressible:
        return self.tell_compressible(config)

    def train(self, config: Any, data: Dataset, run: Run) -> None:
        from algorithms.engines import torch_verbs

        torch_verbs.train(self, config, data, run)

    def evaluate(self, config: Any, data: Dataset, run: Run) -> None:
        from algorithms.engines import torch_verbs

        torch_verbs.evaluate(self, config, data, run)

    def export(self, config: Any, data: Dataset, run: Run) -> None:
        from algorithms.engines import torch_verbs

        torch_verbs.export(self, config, data, run)

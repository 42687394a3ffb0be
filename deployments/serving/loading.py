"""From a registered version to a model that answers: files verified, opened, warmed up."""

from __future__ import annotations

from concurrent.futures import Executor

from algorithms._package_runtime import num_cores
from deployments.serving.inputs import Limits
from deployments.serving.metrics import Metrics
from deployments.serving.model import ServedModel, open_package
from deployments.serving.options import ServeOptions
from infra.errors import AtelierError, ServiceError
from infra.registry import ModelVersion, Registry
from infra.settings import Settings


class Loader:
    """Loads versions for ``Fleet``; may be called on any thread."""

    def __init__(
        self, registry: Registry, settings: Settings, metrics: Metrics, options: ServeOptions, limits: Limits, executor: Executor
    ) -> None:
        self._registry, self._settings, self._metrics = registry, settings, metrics
        self._options, self._limits, self._executor = options, limits, executor

    def __call__(self, version: ModelVersion) -> ServedModel:
        """The version, ready to answer.

        Raises:
            CorruptArtifactError: a file differs from its digest; nothing of it is loaded.
            ServiceError: onnxruntime cannot open or run it.
        """
        options = self._options
        folder = self._registry.package_folder(version)  # verifies every file
        try:
            package = open_package(folder, cores=options.threads or max(1, num_cores() // options.workers))
            model = ServedModel(
                version,
                package,
                self._metrics.of(version.name, version.version),
                limits=self._limits,
                max_batch=options.max_batch,
                max_delay_s=options.max_delay_ms / 1000,
                max_waiting_rows=options.max_waiting,
                executor=self._executor,
            )
            model.warm_up()
        except AtelierError:
            raise
        except Exception as error:  # onnxruntime's errors have no base of their own
            raise ServiceError(f"The model {version.ref}", f"onnxruntime cannot run it: {error}") from error
        return model

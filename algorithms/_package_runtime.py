"""onnxruntime sessions: on a GPU where one works, on the CPU otherwise, and without chatter on the terminal."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import onnxruntime as ort

_FATAL = 4
_ERROR = 3


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache(maxsize=1)
def has_gpu() -> bool:
    """Whether an NVIDIA driver answers and has a device; onnxruntime-gpu itself names its CUDA provider on every machine."""
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return False
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return bool(driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0)


def open_session(
    model: Path | bytes, providers: Sequence[str] | None = None, threads: int | None = None, *, spinning: bool = True
) -> ort.InferenceSession:
    """A session of a model.

    Args:
        model: a file, or the model's bytes.
        providers: names of onnxruntime's execution providers; None: CUDA if a GPU works, with the CPU behind it.
        threads: CPU threads within an operator; None: the cores of this process.
        spinning: whether threads that wait for work burn their core meanwhile; not where others need it.
    """
    options = ort.SessionOptions()
    # A number of its own keeps onnxruntime from pinning threads to cores that a container does not give.
    options.intra_op_num_threads = threads or num_cores()
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERROR
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    source = model if isinstance(model, bytes) else str(model)
    if providers is None and has_gpu():
        ort.set_default_logger_severity(_FATAL)  # a driver without the CUDA libraries is no fault: the CPU takes over
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                ort.preload_dlls()
                return ort.InferenceSession(source, options, providers=["CUDAExecutionProvider", "CPUExecutionProvider"])
        finally:
            ort.set_default_logger_severity(_ERROR)
    return ort.InferenceSession(source, options, providers=list(providers or ["CPUExecutionProvider"]))

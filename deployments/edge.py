"""The edge bundle: one zip file with a package, a runner and its requirements. The code in it is the code that predicts here, so it says
the same; of Atelier it has only those modules."""

from __future__ import annotations

import os
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import algorithms
import infra
from algorithms._package_format import read_description
from infra.errors import StoreAccessError
from infra.registry import ModelVersion

MODULES = (
    "algorithms/__init__.py",
    "algorithms/_package_format.py",
    "algorithms/_package_images.py",
    "algorithms/_package_runtime.py",
    "algorithms/_package_sealing.py",
    "algorithms/_package_tables.py",
    "algorithms/package.py",
    "infra/__init__.py",
    "infra/errors.py",
)
RUNNER = Path(__file__).with_name("edge_runner.py")


def requirements(description: dict[str, Any]) -> list[str]:
    """What ``pip install -r`` gets: the versions that the package was measured with."""
    wanted = [f"onnxruntime=={version('onnxruntime-gpu')}", f"numpy=={version('numpy')}", f"pillow=={version('pillow')}"]
    return [*wanted, f"cryptography=={version('cryptography')}"] if "sealed" in description else wanted


def readme(model: ModelVersion, description: dict[str, Any]) -> str:
    """What it is and how it is used."""
    picture = "image" in description["inputs"].get("properties", {}) and not description["preprocessing"].get("columns")
    example = "python predict.py picture.png" if picture else "python predict.py rows.csv"
    return f"""# {model.ref}

{description["algorithm"]}; package {model.package.digest}

    pip install -r requirements.txt
    {example}

`python predict.py --help` says more. `package/package.json` has labels, inputs, metrics and lineage. Other programs feed
`package/model.onnx` to onnxruntime as it is: everything before and after the network is inside.
"""


def write_bundle(model: ModelVersion, folder: Path, path: Path) -> Path:
    """Write the zip file atomically; the same version gives the same bytes.

    Args:
        folder: the package, verified.

    Raises:
        StoreAccessError: the file cannot be written.
    """
    description = read_description(folder)
    roots = {"algorithms": Path(algorithms.__file__ or "").parent.parent, "infra": Path(infra.__file__ or "").parent.parent}
    files: dict[str, bytes] = {
        "README.md": readme(model, description).encode(),
        "requirements.txt": "".join(f"{line}\n" for line in requirements(description)).encode(),
        "predict.py": RUNNER.read_bytes(),
        **{name: (roots[name.split("/")[0]] / name).read_bytes() for name in MODULES},
    }
    for name in ("package.json", *description["files"]):
        files[f"package/{name}"] = (folder / name).read_bytes()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".atelier-", delete=False) as partial:
            try:
                with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
                    for name, data in sorted(files.items()):
                        info = zipfile.ZipInfo(name)  # dated 1980: the bytes depend on the content alone
                        info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                        archive.writestr(info, data)
                partial.flush()
                os.fsync(partial.fileno())
                Path(partial.name).chmod(0o644)
                Path(partial.name).replace(path)
            except BaseException:
                Path(partial.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise StoreAccessError(str(path), error.strerror or str(error), "Choose a place that can be written.") from error
    return path

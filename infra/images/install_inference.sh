#!/bin/sh
# Installs the inference server without torch, Dask and Prefect:  install_inference.sh PIP...
# PIP is the command that installs, such as `pip` or `uv pip --python env/bin/python`; run from the repository's root.
# All versions are those of the lock; onnxruntime for the CPU takes the place of the GPU build, of the same version.
set -eu
constraints=$(mktemp)
trap 'rm -f "$constraints"' EXIT
sed -n 's/^\([A-Za-z0-9_.-]*==[^\\]*\).*$/\1/p' requirements.lock > "$constraints"
sed -n 's/^onnxruntime-gpu==\([^ ;\\]*\).*$/onnxruntime==\1/p' requirements.lock >> "$constraints"
"$@" install -r infra/images/inference.txt -c "$constraints"
"$@" install --no-deps .

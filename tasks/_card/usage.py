"""A few lines of plain onnxruntime that use a package: what the card shows under "how to use it"."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tasks._card.model import PackagePart, Port

_EXAMPLES = {"tensor(string)": "", "tensor(int64)": 0, "tensor(float)": 0.0}


def usage_code(package: PackagePart, classes: Sequence[str]) -> str:
    """Python that runs in the package's folder with onnxruntime, numpy and (for pictures) Pillow."""
    output = package.outputs[0].name if package.outputs else ("scores" if classes else "value")
    first = package.inputs[0]
    if len(package.inputs) == 1 and first.type == "tensor(uint8)":
        lines = [
            "import json, numpy as np, onnxruntime as ort",
            "from PIL import Image",
            'session = ort.InferenceSession("model.onnx")',
            'picture = np.asarray(Image.open("picture.png").convert("RGB"))[None]',
            f"result = session.run([{json.dumps(output)}], {{{json.dumps(first.name)}: picture}})[0][0]",
        ]
    else:
        row = "{" + ", ".join(f"{json.dumps(port.name)}: {_example(port)}" for port in package.inputs[:3])
        row += ", ...}  # one value for each input" if len(package.inputs) > 3 else "}"
        number = "np.int64 if isinstance(v, int) else np.float32" if any("int" in port.type for port in package.inputs) else "np.float32"
        lines = [
            "import json, numpy as np, onnxruntime as ort",
            'session = ort.InferenceSession("model.onnx")',
            f"row = {row}",
            f"feeds = {{name: np.array([[v]], object if isinstance(v, str) else {number}) for name, v in row.items()}}",
            f"result = session.run([{json.dumps(output)}], feeds)[0][0]",
        ]
    last = 'print(json.load(open("package.json"))["labels"][result.argmax()], result.max())' if classes else "print(result)"
    return "\n".join([*lines, last])


def _example(port: Port) -> str:
    return json.dumps(_EXAMPLES.get(port.type, 0.0))

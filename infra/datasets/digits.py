"""The digits that scikit-learn brings along, as an image folder: ``python -m infra.datasets.digits FOLDER``. Needs no network."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

NUM_IMAGES = 1797


def write_digits(folder: Path) -> Path:
    """Write the 1,797 handwritten digits (8x8 grey pixels) as PNG files, a folder per class: ``7/0042.png``.

    The bytes are the same on every call. ``folder`` appears whole or not at all; one that is there and whole is left as it is.

    Returns:
        ``folder``.

    Raises:
        FileExistsError: something else is there: it is never overwritten.
    """
    if folder.exists():
        num_found = sum(1 for _ in folder.glob("[0-9]/*.png"))
        if num_found == NUM_IMAGES:
            return folder
        raise FileExistsError(f"{folder} exists, but with {num_found} digits instead of {NUM_IMAGES}. Remove it, or name another folder.")
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    folder.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for digit in range(10):
            (staged / str(digit)).mkdir()
        for index, (pixels, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
            grey = (pixels * 255.0 / 16.0).round().astype("uint8")  # stored as 0..16
            Image.fromarray(grey).save(staged / str(digit) / f"{index:04d}.png", optimize=False)
        staged.chmod(0o755)
        staged.rename(folder)  # fails if another process was faster: its digits are as good as ours
    except OSError:
        if sum(1 for _ in folder.glob("[0-9]/*.png")) != NUM_IMAGES:
            raise
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return folder


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: python -m infra.datasets.digits FOLDER", file=sys.stderr)
        return 2
    try:
        write_digits(Path(sys.argv[1]))
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

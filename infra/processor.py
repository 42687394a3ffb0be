"""What kind of processor this machine has."""

from __future__ import annotations

import platform
from pathlib import Path


def processor_name() -> str:
    """The processor's name as its maker gives it, or the architecture where nobody tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    told = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return told or platform.processor() or platform.machine()

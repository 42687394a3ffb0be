"""Processes that a test started, found by a mark in their environment, which all that they start inherit."""

from __future__ import annotations

import psutil


def marked(name: str, value: str) -> list[int]:
    """Numbers of the processes that run with the variable ``name`` set to ``value``."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(name) == value and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # it ended while we looked, or is not ours
    return found

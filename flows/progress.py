"""What a person sees of a run: the stages, how far the long ones are, and the result; on standard error, so that output stays clean."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Any, Protocol

STAGES = ("import", "validate", "train", "evaluate", "package", "explain", "register", "report")
MARKS = {"completed": "[green]✓[/]", "cached": "[cyan]=[/]", "failed": "[red]✗[/]", "stopped": "[yellow]■[/]", "running": "[yellow]▸[/]"}


def describe(event: dict[str, Any]) -> str:
    """The moving part of a stage's line: ``epoch 3/20  loss 0.213  accuracy 0.957  1,240/s  12 s left``."""
    parts = []
    if event.get("epochs"):
        parts.append(f"epoch {event.get('epoch', 0)}/{event['epochs']}")
    elif event.get("steps"):
        parts.append(f"{event.get('step', 0):,}/{event['steps']:,}")
    if isinstance(event.get("loss"), int | float):
        parts.append(f"loss {event['loss']:.4f}")
    if isinstance(event.get("metric"), int | float):
        parts.append(f"{event.get('metric_name', 'metric')} {event['metric']:.4f}")
    if event.get("samples_per_s"):
        parts.append(f"{event['samples_per_s']:,.0f}/s")
    if isinstance(event.get("eta_s"), int | float):
        parts.append(f"{event['eta_s']:.0f} s left")
    return "  ".join(parts)


def share_done(event: dict[str, Any]) -> float | None:
    """How much of a stage is done, 0 to 1, if the event tells."""
    steps, epochs = event.get("steps"), event.get("epochs")
    if steps and epochs:
        return min(1.0, (max(event.get("epoch", 1), 1) - 1 + min(event.get("step", 0) / steps, 1.0)) / epochs)
    if steps:
        return min(1.0, event.get("step", 0) / steps)
    if epochs:
        return min(1.0, event.get("epoch", 0) / epochs)
    return None


class Progress(Protocol):
    """Shows events from when it is entered until it is left."""

    def on_event(self, event: dict[str, Any]) -> None: ...

    def __enter__(self) -> Progress: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


class PlainProgress:
    """One line when a stage ends, and one now and then while it runs: for files, pipes and CI."""

    def __init__(self, every_s: float = 5.0) -> None:
        self.every_s = every_s
        self._stage = ""
        self._last = time.monotonic()

    def on_event(self, event: dict[str, Any]) -> None:
        now = time.monotonic()
        if event["kind"] == "stage":
            self._stage, self._last = event["name"], now
            if event["state"] != "running":
                self._print(f"{event['name']:<9} {event['state']:<9} {event['seconds']:6.1f} s")
        elif event["kind"] == "progress" and now - self._last >= self.every_s and (text := describe(event)):
            self._last = now
            self._print(f"{self._stage:<9} {text}")
        elif event["kind"] == "log":
            self._print(f"{self._stage:<9} {event['message']}")

    @staticmethod
    def _print(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def __enter__(self) -> PlainProgress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Nothing to take down."""


class LiveProgress:
    """The stages as a list that moves, with a bar for the running one: for terminals."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._lock = threading.Lock()
        self._lines: dict[str, dict[str, Any]] = {}
        self._event: dict[str, Any] = {}
        self._begin = time.monotonic()
        self.console = Console(stderr=True)
        self._live = Live(console=self.console, refresh_per_second=8, get_renderable=self._render, transient=False)

    def on_event(self, event: dict[str, Any]) -> None:
        with self._lock:
            if event["kind"] == "stage":
                if event["state"] == "running":
                    self._event, self._begin = {}, time.monotonic()
                self._lines[event["name"]] = event
            elif event["kind"] == "progress":
                self._event = event
        if event["kind"] == "log":
            from rich.text import Text

            self.console.print(Text(f"  {event['message']}", style="dim"))

    def _render(self) -> Any:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 1))
        with self._lock:
            expected = STAGES if any(name in STAGES for name in self._lines) else ()  # other flows have stages of their own
            for name in [*expected, *(line for line in self._lines if line not in STAGES)]:
                line = self._lines.get(name)
                if line is None:
                    table.add_row(" ", Text(name, style="dim"), "", "")
                elif line["state"] == "running":
                    share = share_done(self._event)
                    bar = ProgressBar(total=1.0, completed=share or 0.0, width=24, pulse=share is None)
                    text = describe(self._event) or f"{time.monotonic() - self._begin:.0f} s"
                    table.add_row(Text.from_markup(MARKS["running"]), Text(name, style="bold"), bar, text)
                else:
                    table.add_row(Text.from_markup(MARKS[line["state"]]), name, "", f"{line['state']}  {line.get('seconds', 0):.1f} s")
        return table

    def __enter__(self) -> LiveProgress:
        self._live.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.__exit__(kind, error, trace)


def make_progress() -> Progress:
    """A moving list where standard error is a terminal, plain lines elsewhere."""
    return LiveProgress() if sys.stderr.isatty() else PlainProgress()

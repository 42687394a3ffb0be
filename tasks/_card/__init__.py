"""The run card: frozen data in, one self-contained HTML page out. ``tasks.report`` gathers the data."""

from __future__ import annotations

from tasks._card.model import CardData
from tasks._card.render import render_card, summary_markdown

__all__ = ["CardData", "render_card", "summary_markdown"]

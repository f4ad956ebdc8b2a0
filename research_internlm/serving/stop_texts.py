"""Ends an answer at a given text, also where that text comes in several pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StopTexts:
    """Passes text on up to the first stop text, which is not part of the answer.

    Args:
        stops: The texts; none passes everything on.

    Attributes:
        found: Whether one has come.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""  # may be the beginning of a stop text
        self.found = False

    def push(self, text: str) -> str:
        """Takes text and returns what is certainly part of the answer."""
        text, self._held = self._held + text, ""
        if ends := [place for stop in self._stops if (place := text.find(stop)) >= 0]:
            self.found = True
            return text[:min(ends)]
        hold = max((size for stop in self._stops for size in range(1, len(stop))
                    if text.endswith(stop[:size])), default=0)
        if hold:
            text, self._held = text[:-hold], text[-hold:]
        return text

    def finish(self) -> str:
        """What was held back and is part of the answer after all."""
        held, self._held = self._held, ""
        return held

"""What is printed never ends a command, and never acts on the terminal that shows it."""

from __future__ import annotations

import re
import sys
from typing import Any, TextIO

# What changes a terminal instead of being shown: control characters (but line ends, tabs and tqdm's carriage
# return), the C1 range, line and paragraph separators, and marks that reorder text.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e"
                          "\u2066-\u2069]")


def printable(text: str) -> str:
    """The text with everything that would act on a terminal written as an escape, e.g. `\\x1b`."""
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


class _PrintableStream:
    """stdout or stderr that shows what it cannot encode, or what would act on the terminal, as escapes.

    Texts of users, files and servers reach the terminal and the logs through many prints; this is the one
    place where they are made harmless.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(printable(text))

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def protect_streams() -> None:
    """Passes stdout and stderr through `printable`, and lets them escape what their encoding lacks."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or isinstance(stream, _PrintableStream):
            continue
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, _PrintableStream(stream))

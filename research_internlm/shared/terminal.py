"""What is printed never ends a command, and never acts on the terminal that shows it."""

from __future__ import annotations

import os
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


def print_marked(mark: str, colour: int, rest: str) -> None:
    """Prints a line that begins with a mark; coloured on a terminal, not with NO_COLOR or TERM=dumb.

    Args:
        mark: E.g. the level of a message.
        colour: ANSI colour of the mark, e.g. 31 for red.
        rest: The rest of the line.
    """
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        print(f"{mark}{rest}")
        return
    # Below the protection: the colour is what acts on the terminal, the texts are made harmless here.
    stream = sys.stdout._stream if isinstance(sys.stdout, _PrintableStream) else sys.stdout
    stream.write(f"\x1b[{colour}m{printable(mark)}\x1b[0m{printable(rest)}\n")

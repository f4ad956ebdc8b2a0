"""Reads README files and docs/*.md as their tests need them: sections, commands, file tree, figures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_TREE_ENTRY = re.compile(r"^ {4,}([\w.]+/) {2,}\S", re.MULTILINE)
_INLINE_COMMAND = re.compile(r"`((?:[A-Z]+=\S+\s)*(?:bash\s+scripts/|python\s|internlm\s)[^`]+)`")
# One unit, in both languages; 1.1 million is 110 万.
_UNITS = {"GiB": "GiB", "MiB": "MiB", "GB": "GB", "MB": "MB", "%": "%", "ms": "ms", "毫秒": "ms",
          "s": "s", "seconds": "s", "second": "s", "秒": "s", "minutes": "min", "minute": "min", "min": "min",
          "分钟": "min", "hours": "h", "hour": "h", "h": "h", "小时": "h", "times": "x", "倍": "x",
          "cores": "cores", "核": "cores", "epochs": "epochs", "epoch": "epochs", "points": "points",
          "百分点": "points", "tokens": "tokens", "token": "tokens"}
_SCALES = {"-million": 10**6, " million": 10**6, " 万": 10**4, "万": 10**4}
_UNIT = "|".join(sorted(_UNITS, key=len, reverse=True))
_FIGURE = re.compile(r"(?<![\w.-])(\d[\d,]*(?:\.\d+)?(?:e-?\d+)?)"
                     rf"({'|'.join(_SCALES)})?"
                     rf"(?:[ -]?(?:个 ?)?(?:CPU ?)?({_UNIT})(?![A-Za-z]))?")


@dataclass(frozen=True)
class Document:
    """A Markdown file.

    Attributes:
        path: The file.
        text: Its text without fenced blocks, which hold what commands print.
        printed: The fenced blocks.
    """

    path: Path
    text: str
    printed: list[str]

    @classmethod
    def read(cls, path: Path) -> Document:
        """Reads a file."""
        text = path.read_text(encoding="utf-8")
        fence = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
        return cls(path, fence.sub("", text), fence.findall(text))

    def headings(self) -> list[tuple[int, str]]:
        """(level, title) of each heading."""
        return [(len(marks), title) for marks, title in re.findall(r"^(#+) (.+)$", self.text, re.MULTILINE)]

    def tree_entries(self) -> list[str]:
        """Folders of the file tree."""
        return _TREE_ENTRY.findall(self.text)

    def commands(self) -> list[str]:
        """Command lines of the indented blocks, each as one line without its comment."""
        lines = [line for line in self.text.splitlines() if line.startswith("    ")
                 and not _TREE_ENTRY.match(line)]
        whole = "\n".join(lines).replace("\\\n", " ")
        return [" ".join(re.sub(r" {2,}# .*", "", line.strip()).split()) for line in whole.splitlines()]

    def inline_commands(self) -> list[str]:
        """Whole command lines in the running text; `...` marks one that is not whole."""
        found = [" ".join(text.split()) for text in _INLINE_COMMAND.findall(self.text)]
        return [text for text in found if "..." not in text]

    def figures(self) -> list[set[tuple[str, str]]]:
        """(number, unit) of each section in turn, commands and file tree left out."""
        prose = re.sub(r"^ {4}.*$", "", self.text, flags=re.MULTILINE)
        return [set(_figures(part)) for part in re.split(r"^#+ .+$", prose, flags=re.MULTILINE)]


def _figures(text: str) -> Iterator[tuple[str, str]]:
    # Code, file names and links hold digits that are no figures.
    text = re.sub(r"`[^`]*`|\]\([^)]*\)", " ", text)
    for number, scale, unit in _FIGURE.findall(" ".join(text.split())):
        value = float(number.replace(",", "")) * _SCALES.get(scale, 1)
        yield f"{value:g}" if value < 1e6 else f"{value:.0f}", _UNITS.get(unit, "")

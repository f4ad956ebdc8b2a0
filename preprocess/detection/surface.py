"""Marks on a text's surface that tell its class without reading: how files were made, not who wrote them.

In the public files spaces at the ends, no-break spaces and characters of a wrong encoding stand in human
texts almost alone, and zero-width joiners in AI texts. A model trained on them learns where a file came from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import ftfy
import numpy as np
from ftfy.badness import is_bad

MARKS = ("blank_before", "blank_after", "no_break_space", "zero_width", "wrong_encoding", "carriage_return")
_NO_BREAK = re.compile("[\u00a0\u202f\u2007]")
_ZERO_WIDTH = re.compile("[\u200b-\u200f\u2060\ufeff\u00ad]")
_C1 = re.compile("[\x80-\x9f]")
_ASCII = re.compile("[\x00-\x7f]+")
# What is repaired: encodings only. Quotes, ligatures and full-width punctuation are the writer's.
_REPAIR = ftfy.TextFixerConfig(
    unescape_html=False, remove_terminal_escapes=False, fix_latin_ligatures=False, fix_character_width=False,
    uncurl_quotes=False, fix_line_breaks=False, remove_control_chars=False, normalization=None)


def marks_of(text: str) -> int:
    """The marks of a text, bit i for MARKS[i]."""
    found = text[:1].isspace() | text[-1:].isspace() << 1 | ("\r" in text) << 5
    if not text.isascii():
        found |= (bool(_NO_BREAK.search(text)) << 2 | bool(_ZERO_WIDTH.search(text)) << 3
                  | bool(_C1.search(text) or _is_mojibake(text)) << 4)
    return found


def _is_mojibake(text: str) -> bool:
    # The whole text is looked at only where its other characters alone look bad: a fiftieth of the time.
    return is_bad(_ASCII.sub(" ", text)) and is_bad(text)


def names_of(marks: int) -> list[str]:
    """The names of a bit set."""
    return [name for place, name in enumerate(MARKS) if marks >> place & 1]


def normalise(text: str, marks: int) -> str:
    """The text without its marks."""
    if marks >> 4 & 1:
        text = ftfy.fix_text(text, _REPAIR)
    if marks >> 5 & 1:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if marks >> 2 & 1 or not text.isascii():  # a repaired encoding can hold some of them
        text = _ZERO_WIDTH.sub("", _NO_BREAK.sub(" ", text))
    return text.strip()


def rule_accuracies(table: Mapping[tuple[int, int], int]) -> dict[str, float]:
    """How well the marks alone tell the classes, on the very texts they were counted on.

    Args:
        table: (marks, label) -> texts.

    Returns:
        For each mark, for "any_mark" and for "all_marks_together" (the commoner class of each combination)
        the accuracy of the better of the two rules; and "commoner_class" to compare with.
    """
    cells = np.zeros((1 << len(MARKS), 2), np.int64)
    for (marks, label), count in table.items():
        cells[marks, label] += count
    total = cells.sum()
    patterns = np.arange(len(cells))
    chosen = {name: patterns >> place & 1 == 1 for place, name in enumerate(MARKS)}
    chosen["any_mark"] = patterns > 0
    accuracies = {}
    for name, having in chosen.items():
        right = cells[having, 0].sum() + cells[~having, 1].sum()
        accuracies[name] = float(max(right, total - right) / total)
    accuracies["all_marks_together"] = float(cells.max(axis=1).sum() / total)
    accuracies["commoner_class"] = float(cells.sum(axis=0).max() / total)
    return accuracies

"""The forms in which exam csv files circulate, recognised by their header row, and their rows in one form.

Besides the two original layouts (exam_csv.py) these are read, since users bring them:
- an export of MMLU from Hugging Face (cais/mmlu): `question,subject,choices,answer`; choices is a printed
  list and answer an index from 0;
- the same with columns A to D instead of choices (only with indices: with letters it is an original file
  that was given a header, which exam_csv.py refuses);
- C-Eval: `id,question,A,B,C,D,answer`, with or without `explanation`, answer a letter.

An index is never taken for a letter: the answers of a file are all indices or all letters.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from research_internlm.data.choice import LETTERS
from research_internlm.shared.errors import ToolkitError

HF_MMLU, COLUMNS_WITH_INDEX, CEVAL = "hugging_face_mmlu", "option_columns", "ceval"
_OPTIONAL = {"id", "", "subject", "split", "explanation"}
_LITERAL = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
# A list as Python prints it, or as NumPy does: without commas, where Python would join the texts.
_PRINTED_LIST = re.compile(rf"\[\s*{_LITERAL}(?:[,\s]+{_LITERAL})*\s*\]", re.DOTALL)


@dataclass(frozen=True)
class Header:
    """A recognised header row.

    Attributes:
        form: One of the constants above.
        places: Column name in lower case -> index.
    """

    form: str
    places: dict[str, int]

    def cell(self, cells: Sequence[str], name: str) -> str:
        """The cell of a column; "" where the file has no such column."""
        return cells[self.places[name]] if name in self.places else ""


def recognise(table: Sequence[tuple[int, list[str]]], path: Path) -> Header | None:
    """The form whose header a file's first row is, or None.

    Args:
        table: (line, cells) of its rows.
        path: The file, for messages.

    Raises:
        ToolkitError: It is such a header, but the file has no answers (C-Eval's test split has none).
    """
    first = table[0][1]
    names = [cell.strip().lower() for cell in first]
    places = {name: index for index, name in enumerate(names)}
    if len(places) < len(names) or "question" not in places:
        return None
    options = {"choices"} if "choices" in places else {letter.lower() for letter in LETTERS}
    if not options <= places.keys() or places.keys() - options - {"question", "answer"} - _OPTIONAL:
        return None
    if "answer" not in places:
        raise ToolkitError(f"{path} has the columns {','.join(first)} and no answers (C-Eval's test files "
                           "have none): only files with answers can be used; take its dev and val files")
    if "choices" in places:
        return Header(HF_MMLU, places)
    if "id" in places or "explanation" in places:
        return Header(CEVAL, places)
    header = Header(COLUMNS_WITH_INDEX, places)
    return header if _by_index(header, table[1:]) else None


def _by_index(header: Header, table: Sequence[tuple[int, list[str]]]) -> bool:
    """Whether all answers of a file are numbers."""
    answers = [header.cell(cells, "answer").strip() for _, cells in table if len(cells) == len(header.places)]
    return bool(answers) and all(answer.isdecimal() for answer in answers)


def normalise(header: Header, table: Sequence[tuple[int, list[str]]]
              ) -> list[tuple[int, str, list[str], str | None]]:
    """Rows of a recognised file as question, four options and answer letter.

    Args:
        header: The file's.
        table: (line, cells) of its data rows.

    Returns:
        (line, subject, cells, fault) a row: six cells, or what is wrong with the row. Subject is "" where the
        file has no such column.
    """
    by_index = _by_index(header, table)
    rows: list[tuple[int, str, list[str], str | None]] = []
    for line, cells in table:
        if len(cells) != len(header.places):
            rows.append((line, "", [], f"{len(cells)} cells where the header has {len(header.places)}"))
            continue
        options = _options(header, cells)
        answer = header.cell(cells, "answer").strip()
        if by_index:
            letter = LETTERS[int(answer)] if answer in ("0", "1", "2", "3") else None
            wrong = f"answer {answer!r} is not an index from 0 to 3"
        else:
            letter = answer if answer in LETTERS else None
            wrong = f"answer {answer!r} is not one of {'/'.join(LETTERS)}"
            if answer.isdecimal():
                wrong += ", and other rows of the file have letters: an index is not taken for a letter"
        if options is None:
            fault = f"choices {header.cell(cells, 'choices')[:60]!r} is not a printed list of four texts"
        else:
            fault = None if letter else wrong
        rows.append((line, header.cell(cells, "subject").strip(),
                     [] if fault else [header.cell(cells, "question"), *options, letter], fault))
    return rows


def _options(header: Header, cells: Sequence[str]) -> list[str] | None:
    if header.form != HF_MMLU:
        return [header.cell(cells, letter.lower()) for letter in LETTERS]
    text = header.cell(cells, "choices").strip()
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        if not _PRINTED_LIST.fullmatch(text):
            return None
        try:
            found = [ast.literal_eval(literal) for literal in re.findall(_LITERAL, text, re.DOTALL)]
        except (SyntaxError, ValueError):
            return None
    if not isinstance(found, list) or len(found) != len(LETTERS):
        return None
    return found if all(isinstance(option, str) for option in found) else None

"""What the official converter makes of an exam csv, losses included.

It reads both sets with `pandas.read_csv` and default arguments. So the first row of every MMLU file, which
has no header, becomes the column names and is gone; cells such as "None" or "NA" become nan; a column of
numbers is printed the way pandas prints numbers ("1.50" as 1.5). The contest's hidden test was most likely
made that way. (Source: the archive's mmlu_cmmlu_csv2json.py, second phase.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from preprocess.exam.exam_csv import COLUMNS, ExamFile, domain_of
from research_internlm.data.choice import LETTERS, ChoiceQuestion, choice_instruction
from research_internlm.shared.errors import ToolkitError


@dataclass(frozen=True)
class CompatFile:
    """One file as the official converter has it.

    Attributes:
        questions: In the order of the file, with the texts that pandas makes of the cells.
        dropped: The eaten rows: file, line, row and reason.
        nan_cells: Option cells that pandas reads as missing.
    """

    questions: list[ChoiceQuestion]
    dropped: list[dict[str, Any]]
    nan_cells: int


def convert_file(exam: ExamFile) -> CompatFile:
    """Converts one verified file as the official converter does.

    Raises:
        ToolkitError: A question or an answer is not text to pandas (the official converter crashes there),
            or pandas reads another number of rows.
    """
    import pandas  # slow to import, and only this mode needs it

    eaten = exam.rows[:1] if exam.source == "mmlu" else ()
    kept = exam.rows[len(eaten):]
    frame = pandas.read_csv(exam.path)
    if exam.source == "mmlu":
        frame.columns = list(COLUMNS)
    records = frame.to_dict(orient="records")
    if len(records) != len(kept):
        raise ToolkitError(f"{exam.path}: pandas reads {len(records)} rows where the csv holds {len(kept)}; "
                           "use the default mode")
    for row, record in zip(kept, records, strict=True):
        for column in ("Question", "Answer"):
            if not isinstance(record[column], str):
                raise ToolkitError(
                    f"{exam.path} line {row.line} (row {row.row}): pandas reads the {column.lower()} as "
                    f"{record[column]!r}, where the official converter crashes; use the default mode")
    instruction = choice_instruction(domain_of(exam.path.name))
    questions = [
        ChoiceQuestion(f"{exam.name}:{row.row}", instruction, record["Question"],
                       tuple(str(record[letter]) for letter in LETTERS), record["Answer"], exam.source,
                       exam.subject, exam.origin_of(row))
        for row, record in zip(kept, records, strict=True)]
    dropped = [{"file": exam.name, "line": row.line, "row": row.row,
                "reason": "official_compat: pandas takes the first row of an MMLU file for its header"}
               for row in eaten]
    return CompatFile(questions, dropped, int(frame[list(LETTERS)].isna().sum().sum()))

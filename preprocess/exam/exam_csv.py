"""Reads MMLU and CMMLU csv files exactly as they are, and refuses what is not one of them.

MMLU (Hendrycks et al.): six columns, no header row, folders dev/, test/ and val/, files
`{subject}_{split}.csv`. CMMLU (Li et al.): a header row `,Question,A,B,C,D,Answer`, an index column, folders
dev/ and test/, files `{subject}.csv`. Both are verified row by row: a header read as data, or data read as a
header, costs questions silently.

Every cell stays the text it is: no number, no missing value, no stripping. So the answer must be exactly
one of the four letters, and " A" is an error (none of the files at hand has one). Blank lines are not rows.
Other forms in circulation are recognised by their header (csv_forms.py).
"""

from __future__ import annotations

import csv
import io
import os
from dataclasses import dataclass
from pathlib import Path

from preprocess.exam import csv_forms
from research_internlm.data.choice import LETTERS
from research_internlm.shared import files
from research_internlm.shared.errors import ToolkitError

SPLITS = {"cmmlu": ("dev", "test"), "mmlu": ("dev", "test", "val")}  # in the order the report reads them
_ALL_SPLITS = ("dev", "test", "val")  # C-Eval, which is given as --cmmlu_dir, has a val split with answers
# What looks like exam data and is not read must be said.
_DATA_SUFFIXES = {".csv", ".tsv", ".txt", ".json", ".jsonl", ".parquet", ".arrow", ".xls", ".xlsx", ".gz",
                  ".bz2", ".xz", ".zip", ".tar", ".tgz"}
ORIGINAL = "original"
COLUMNS = ("Question", *LETTERS, "Answer")
CMMLU_HEADER = ["", *COLUMNS]

_MMLU_LAYOUT = "question, four options, answer letter and no header row"
_CMMLU_LAYOUT = "the header row ,Question,A,B,C,D,Answer and an index column"
_LISTED_FAULTS = 10


@dataclass(frozen=True)
class ExamRow:
    """One question as its csv row states it.

    Attributes:
        row: 1-based number among the data rows of its file.
        line: 1-based line of the file where the row starts.
        question: The question's cell.
        options: The four option cells, in the order of the file.
        answer: The key, one of A, B, C, D.
    """

    row: int
    line: int
    question: str
    options: tuple[str, ...]
    answer: str


@dataclass(frozen=True)
class ExamFile:
    """One csv file: its place in the set and its rows.

    Attributes:
        source: `mmlu` or `cmmlu`.
        split: `dev`, `test` or `val`.
        path: Where it was read from.
        sha256: Of its bytes.
        rows: All its data rows, in order.
        form: The set's own layout ("original"), or one of csv_forms.
        topic: The subject its rows name, where they do; else the file's name tells it.
        explanations: Rows whose explanation (C-Eval) is left out.
    """

    source: str
    split: str
    path: Path
    sha256: str
    rows: tuple[ExamRow, ...]
    form: str = ORIGINAL
    topic: str = ""
    explanations: int = 0

    @property
    def subject(self) -> str:
        """The file name without its split, or what the rows say: `college_physics`."""
        return self.domain.replace(" ", "_")

    @property
    def domain(self) -> str:
        """The subject as the prompt names it: `college physics`."""
        return self.topic.replace("_", " ") or domain_of(self.path.name)

    @property
    def name(self) -> str:
        """What manifests call it: `mmlu/test/college_physics_test.csv`."""
        suffix = f":{self.subject}" if self.domain != domain_of(self.path.name) else ""
        return f"{self.source}/{self.split}/{self.path.name}{suffix}"

    def origin_of(self, row: ExamRow) -> tuple[tuple[str, str | int], ...]:
        """Where a question comes from, as `ChoiceQuestion.origin`."""
        return ("split", self.split), ("file", self.name), ("row", row.row)


def read_folder(folder: Path, source: str) -> tuple[list[ExamFile], list[str], list[str]]:
    """Reads every csv file of one exam set.

    Args:
        folder: Holds dev/, test/ and, for MMLU, val/; some of them may be absent.
        source: `mmlu` or `cmmlu`.

    Returns:
        The files, by split and then by name; the names of the absent splits; and the files, relative to the
        folder, that look like exam data and are not read.

    Raises:
        ToolkitError: The folder is missing or holds no csv, or a file is not what it should be. All
            faulty rows of all files are counted in one message.
    """
    if not folder.is_dir():
        raise ToolkitError(f"--{source}_dir {folder} is not a folder; give the one that holds "
                           f"{_slashed(SPLITS[source])}")
    absent = [split for split in SPLITS[source] if not (folder / split).is_dir()]
    if not any((folder / split).is_dir() for split in _ALL_SPLITS):
        raise ToolkitError(f"--{source}_dir {folder} holds none of {_slashed(SPLITS[source])}; give the "
                           "folder that does")
    exam_files: list[ExamFile] = []
    faults: list[str] = []
    for split in (split for split in _ALL_SPLITS if (folder / split).is_dir()):
        paths = [path for path in files.list_folder(folder / split) if path.suffix.lower() == ".csv"
                 and not path.name.startswith(".") and not path.is_dir()]
        if not paths:
            raise ToolkitError(f"{folder / split} holds no csv file; put the {source.upper()} files there, "
                               "or remove the empty folder")
        for path in paths:
            exam_files += read_file(path, source, split, faults)
    _require_one_file_per_category(exam_files)
    if faults:
        listed = "; ".join(faults[:_LISTED_FAULTS])
        more = f"; and {len(faults) - _LISTED_FAULTS} more" if len(faults) > _LISTED_FAULTS else ""
        raise ToolkitError(f"{len(faults)} faulty {source.upper()} rows: {listed}{more}; correct or remove "
                           "them")
    return exam_files, absent, _left_out(folder, {exam.path for exam in exam_files})


def _left_out(folder: Path, read: set[Path]) -> list[str]:
    """Files of exam data below a folder that were not read: other folders, other formats."""
    found = []
    for parent, folders, names in os.walk(folder, onerror=files.refuse_listing):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        found += [Path(parent, name) for name in sorted(names) if not name.startswith(".")
                  and Path(name).suffix.lower() in _DATA_SUFFIXES and not name.lower().startswith("readme")]
    return [path.relative_to(folder).as_posix() for path in found if path not in read]


def read_file(path: Path, source: str, split: str, faults: list[str]) -> list[ExamFile]:
    """Reads and verifies one csv file.

    Args:
        path: The file.
        source: `mmlu` or `cmmlu`, the layout to check it against.
        split: The folder it came from.
        faults: Faulty rows are added here, one text each; they are not among the returned rows.

    Returns:
        The file; one part a subject where its rows name several.

    Raises:
        ToolkitError: Not UTF-8, not csv, no rows, or the layout of the other set.
    """
    raw = files.require_file(path, "the csv file").read_bytes()
    table = _parse(raw, path)
    if not table:
        raise ToolkitError(f"{path} holds no row; {source.upper()} files have {_layout(source)}")
    header = None if table[0][1] == CMMLU_HEADER else csv_forms.recognise(table, path)
    if header:
        lines = csv_forms.normalise(header, table[1:])
    else:
        lines = [(line, "", cells, None) for line, cells in _verify_layout(table, path, source)]
    if not lines:
        raise ToolkitError(f"{path} holds a header row and no question; restore the file or remove it")
    parts: dict[str, list[ExamRow]] = {}
    for number, (line, topic, cells, fault) in enumerate(lines, start=1):
        fault = fault or _fault(cells)
        if fault:
            faults.append(f"{path} line {line}: {fault}")
        else:
            parts.setdefault(topic, []).append(ExamRow(number, line, cells[0], tuple(cells[1:5]), cells[5]))
    explanations = sum(bool(header.cell(cells, "explanation").strip()) for _, cells in table[1:]
                       if len(cells) == len(header.places)) if header else 0
    sha256 = files.sha256_of(path)
    return [ExamFile(source, split, path, sha256, tuple(rows), header.form if header else ORIGINAL, topic,
                     explanations)
            for topic, rows in sorted(parts.items() or {"": []}.items())]


def _parse(raw: bytes, path: Path) -> list[tuple[int, list[str]]]:
    """The rows of a csv file with the line each starts at, blank lines left out."""
    try:
        text = raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ToolkitError(f"{path} is not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start} "
                           f"(line {line}); save the file as UTF-8") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    table, line = [], 1
    try:
        for cells in reader:
            if cells:
                table.append((line, cells))
            line = reader.line_num + 1
    except csv.Error as error:
        raise ToolkitError(f"{path} line {line}: not csv ({error}); check the quotes of that row") from error
    return table


def _verify_layout(
    table: list[tuple[int, list[str]]], path: Path, source: str
) -> list[tuple[int, list[str]]]:
    """Checks the first row against the set's layout; returns the data rows as six cells or odd ones."""
    first = table[0][1]
    if source == "mmlu":
        if first == CMMLU_HEADER:
            raise ToolkitError(f"{path} is a CMMLU file ({_CMMLU_LAYOUT}), but was given with --mmlu_dir; "
                               "pass its folder with --cmmlu_dir")
        if [cell.strip().upper() for cell in first[1:5]] == list(LETTERS) and _fault(first):
            raise ToolkitError(f"{path} line 1 is a header row ({','.join(first)}) ; MMLU files have "
                               f"{_MMLU_LAYOUT}: delete that line")
        return table
    if first != CMMLU_HEADER:
        if len(first) == len(COLUMNS) and first[-1] in LETTERS:
            raise ToolkitError(f"{path} looks like an MMLU file ({_MMLU_LAYOUT}), but was given with "
                               "--cmmlu_dir; pass its folder with --mmlu_dir")
        raise ToolkitError(f"{path} line 1 is {','.join(first)!r}, but CMMLU files have {_CMMLU_LAYOUT}")
    return [(line, cells[1:]) for line, cells in table[1:]]


def _fault(cells: list[str]) -> str | None:
    """What is wrong with a data row (index column removed), or None."""
    if len(cells) != len(COLUMNS):
        return (f"{len(cells)} cells where question, four options and answer make {len(COLUMNS)} "
                "(CMMLU's index column not counted)")
    if cells[5] not in LETTERS:
        return f"answer {cells[5]!r} is not one of {'/'.join(LETTERS)}"
    if not cells[0].strip():
        return "the question is empty"
    empty = [letter for letter, option in zip(LETTERS, cells[1:5], strict=True) if not option.strip()]
    return f"option {'/'.join(empty)} is empty" if empty else None


def _require_one_file_per_category(exam_files: list[ExamFile]) -> None:
    seen: dict[tuple[str, str], Path] = {}
    for exam in exam_files:
        other = seen.setdefault((exam.split, exam.subject.lower()), exam.path)
        if other != exam.path:
            raise ToolkitError(f"{other} and {exam.path} are both {exam.source}/{exam.subject} "
                               f"{exam.split}; keep one of them")


def _layout(source: str) -> str:
    return _MMLU_LAYOUT if source == "mmlu" else _CMMLU_LAYOUT


def _slashed(splits: tuple[str, ...]) -> str:
    return ", ".join(f"{split}/" for split in splits)


def domain_of(file_name: str) -> str:
    """The subject as the prompt names it: `college_physics_test.csv` is `college physics`."""
    stem = file_name[:-len(".csv")] if file_name.lower().endswith(".csv") else file_name
    for split in ("_dev", "_test", "_val"):
        stem = stem.removesuffix(split)
    return stem.replace("_", " ")

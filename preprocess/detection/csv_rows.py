"""Reads csv files of human and AI texts row by row, whatever their columns are called.

Forms in circulation: the competition's `id,prompt_id,text,generated`; the data sets that followed it, with
`text,label,source` and some of `prompt`, `prompt_name`, `prompt_id`, `fold`, `RDizzl3_seven`; each of them
with index columns and in any order. A column is known by its name alone. Values stay the texts they are: a
label written as a float (0.0) is read as what it says, and no text becomes a missing value ("None", "nan").
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from research_internlm.data.detection import parse_label
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import require_file

LABELS = ("label", "generated")
PROMPTS = ("prompt_name", "prompt", "prompt_id")  # the first that a file has
_INDEX = {"", "id", "index", "fold", "unnamed: 0", "rdizzl3_seven"}  # nothing is lost without them
# The competition's file numbers the two prompts that the later files name.
_COMPETITION_PROMPTS = {"0": "Car-free cities", "1": "Does the electoral college work?"}
_LONGEST_CELL = 1 << 24  # characters; a quote that is never closed swallows the rest of the file
_LISTED = 10


@dataclass(frozen=True)
class TextRow:
    """One row.

    Attributes:
        id: `file.csv:7`, the number counting data rows from 1.
        text: As it stands in the file.
        label: 1 for AI, 0 for human, None where the cell is empty.
        source: The generator or the human corpus; the file's name where it has no such column.
        prompt: What the text was written about; "" where the file does not say.
    """

    id: str
    text: str
    label: int | None
    source: str
    prompt: str


@dataclass
class CsvFile:
    """A csv file and what its header says.

    Attributes:
        path: The file.
        columns: `text`, `label`, and `source` and `prompt` where present -> index of the column.
        extra: Columns whose content is left out.
        rows: Data rows read so far.
    """

    path: Path
    columns: dict[str, int]
    width: int
    extra: list[str]
    competition: bool = False
    rows: int = 0
    faults: list[str] = field(default_factory=list)

    def read(self) -> Iterator[TextRow]:
        """The rows, one at a time.

        Raises:
            ToolkitError: Not UTF-8, broken quotes, rows of another width, or labels that are none. Faulty
                rows are counted to the end of the file and said together.
        """
        reader = _reader(self.path)
        next(reader)
        faults = 0
        for line, cells in reader:
            self.rows += 1
            fault = self._fault(cells)
            if fault:
                faults += 1
                if faults <= _LISTED:
                    self.faults.append(f"line {line}: {fault}")
                continue
            yield self._row(cells)
        if faults:
            more = f"; and {faults - _LISTED} more" if faults > _LISTED else ""
            raise ToolkitError(f"{self.path}: {faults} faulty rows: {'; '.join(self.faults)}{more}; correct "
                               "or remove them")
        if not self.rows:
            raise ToolkitError(f"{self.path} holds a header row and no text; remove the file or restore it")

    def _fault(self, cells: Sequence[str]) -> str | None:
        if len(cells) != self.width:
            return f"{len(cells)} cells where the header has {self.width}"
        label = cells[self.columns["label"]]
        if label.strip() and parse_label(label) is None:
            return f"label {label[:40]!r} is not 0, 1, 0.0, 1.0, true or false"
        return None

    def _row(self, cells: Sequence[str]) -> TextRow:
        def cell(name: str, default: str = "") -> str:
            return cells[self.columns[name]].strip() if name in self.columns else default

        prompt = cell("prompt")
        if self.competition:
            prompt = _COMPETITION_PROMPTS.get(prompt, prompt)
        return TextRow(f"{self.path.name}:{self.rows}", cells[self.columns["text"]],
                       parse_label(cells[self.columns["label"]]), cell("source") or self.path.stem, prompt)


def open_csv(path: Path) -> CsvFile:
    """Reads the header of a file.

    Raises:
        ToolkitError: No such file, no text or label column, or both label columns.
    """
    path = require_file(path, "--csv")
    header = next(_reader(path), None)
    names = [cell.strip().lower() for cell in header[1]] if header else []
    shown = ",".join(header[1])[:200] if header else "no row"
    labels = [name for name in LABELS if name in names]
    if "text" not in names or len(labels) != 1:
        missing = ("no text column" if "text" not in names else
                   f"{'no' if not labels else 'more than one'} label column ({' or '.join(LABELS)})")
        raise ToolkitError(f"{path} has {missing}: its first row is {shown!r}; give the file a header row "
                           "with text, label and, if known, source and prompt_name")
    twice = {name for name in names if name and names.count(name) > 1}
    if twice:
        raise ToolkitError(f"{path} has the column {' and '.join(sorted(twice))} twice; rename one")
    columns = {"text": names.index("text"), "label": names.index(labels[0])}
    prompt = next((name for name in PROMPTS if name in names), None)
    if "source" in names:
        columns["source"] = names.index("source")
    if prompt:
        columns["prompt"] = names.index(prompt)
    extra = [name for place, name in enumerate(names)
             if place not in columns.values() and name not in _INDEX]
    return CsvFile(path, columns, len(names), extra, labels[0] == "generated" and prompt == "prompt_id")


def _reader(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows with the line each starts at; blank lines left out."""
    csv.field_size_limit(_LONGEST_CELL)
    line = 1
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            for cells in reader:
                if cells:
                    yield line, cells
                line = reader.line_num + 1
        except csv.Error as error:
            raise ToolkitError(f"{path} line {line}: not csv ({error}); a quote of that row is not closed, "
                               "or is not doubled inside the text") from None
        except UnicodeDecodeError:
            raise ToolkitError(f"{path} is not UTF-8: {_first_wrong_byte(path)}; save the file as UTF-8"
                               ) from None


def _first_wrong_byte(path: Path) -> str:
    """Where a file stops being UTF-8; read again, since a decoder of blocks knows its own block only."""
    offset = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return f"byte 0x{line[error.start]:02x} at offset {offset + error.start} (line {number})"
            offset += len(line)
    return "its last bytes are cut off"

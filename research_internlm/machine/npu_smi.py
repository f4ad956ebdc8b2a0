"""Reads what `npu-smi info` prints, of npu-smi 24.1.rc1 to 26.0.rc1 and of older releases.

    | NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
    | Chip  Phy-ID              | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
    | 0     910B1               | OK            | 89.1        32                0    / 0             |
    | 0                         | 0000:C1:00.0  | 0           0    / 0          3437 / 65536         |
    | NPU     Chip              | Process id    | Process name             | Process memory(MB)      |
    | 0       0                 | 1712733       | python                   | 48954                   |

Two rows a chip. Widths differ by release, Phy-ID is there on cards with two chips, old releases have no bus,
a full card prints `59356/ 65536`, and newer releases add the process id in the container. So rows are told
apart by what their cells hold. What is none of these rows is kept as unread: no card may get lost silently.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from research_internlm.machine.programs import Answer, ask

_PLACES = ("/usr/local/bin/npu-smi", "/usr/local/sbin/npu-smi")  # sbin is not on every user's PATH
_SECONDS = 10  # with 16 chips under load an answer takes seconds
_VERSION = re.compile(r"npu-smi\s+(\S+)\s+Version:\s*(\S+)")
_HEADINGS = re.compile(r"(NPU|Chip)\b|\| *Bus-Id\b")
_NAME = re.compile(r"([0-9]{1,9})\s+((?=[^\s]*[A-Za-z])\S+(?: \S+)*)")
_NUMBERS = re.compile(r"([0-9]{1,9})(?:\s+([0-9]{1,9}))?\b")
_USAGE = re.compile(r"\b([0-9]{1,12})\s*/\s*([0-9]{1,12})\b")
_NUMBER = re.compile(r"[0-9]{1,12}")
_RULE = set("+-=| ")


@dataclass(frozen=True)
class Chip:
    """One chip, a device of its own: an NPU of the A2 series has one, of the A3 series two.

    Attributes:
        npu: Number of its NPU, as /dev/davinci has it on the A2 series.
        chip: Its number in the NPU; 0 where there is one.
        name: E.g. `910B3`.
        health: `OK` or what else npu-smi says; empty where the row was cut.
        used: Memory in use in MB, None where it could not be read.
        total: Memory it has in MB, None where it could not be read.
    """

    npu: int
    chip: int
    name: str
    health: str
    used: int | None = None
    total: int | None = None


@dataclass(frozen=True)
class ChipProcess:
    """A process on a chip; `name` is cut by npu-smi or empty, `memory` in MB."""

    npu: int
    chip: int
    pid: int
    name: str
    memory: int | None


@dataclass(frozen=True)
class SmiPage:
    """What one call printed.

    Attributes:
        driver: The driver's version, None where the title is missing.
        chips: The chips in the order of the table, which is that of the device numbers.
        processes: All processes of the table.
        has_process_table: Whether there was one: without, a card without a process may be in use.
        unread: Lines that are none of the known rows.
    """

    driver: str | None
    chips: tuple[Chip, ...]
    processes: tuple[ChipProcess, ...]
    has_process_table: bool
    unread: tuple[str, ...]


def read_smi() -> Answer | None:
    """The answer of `npu-smi info`, None where there is no npu-smi.

    Raises:
        OSError: It cannot be started.
    """
    command = shutil.which("npu-smi") or next((place for place in _PLACES if Path(place).is_file()), None)
    return ask([command, "info"], _SECONDS) if command else None


def parse(text: str) -> SmiPage:
    """Reads the output; it may be cut or damaged anywhere.

    Args:
        text: All of it.
    """
    reader = _Reader()
    for line in map(str.strip, text.splitlines()):
        if not set(line) <= _RULE and not reader.takes(line):
            reader.unread.append(line)
    return SmiPage(reader.driver, tuple(reader.chips), tuple(reader.processes), reader.has_process_table,
                   tuple(reader.unread))


class _Reader:
    """The rows read so far; the last chip is open until its second row has come."""

    def __init__(self) -> None:
        self.driver: str | None = None
        self.chips: list[Chip] = []
        self.processes: list[ChipProcess] = []
        self.has_process_table = False
        self.unread: list[str] = []
        self._is_open = False

    def takes(self, line: str) -> bool:
        """Whether a line is a known row; it is kept then."""
        if not line.startswith("|"):
            return False
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if match := _VERSION.match(cells[0]):
            self.driver = match[2]
        elif _HEADINGS.match(cells[0]) or _HEADINGS.match(line):
            self.has_process_table |= "Process" in line
        elif cells[0].startswith("No running processes found"):
            self.has_process_table = True
        else:
            is_whole = line.endswith("|")  # of a line that was cut, the last number or word may be half of it
            return self._takes_name(cells, is_whole) or (
                is_whole and (self._takes_process(cells) or self._takes_usage(cells)))
        return True

    def _takes_name(self, cells: list[str], is_whole: bool) -> bool:
        match = _NAME.fullmatch(cells[0])
        if match is None:
            return False
        self.chips.append(Chip(int(match[1]), 0, match[2], cells[1] if is_whole and cells[1:] else ""))
        self._is_open = True
        return True

    def _takes_process(self, cells: list[str]) -> bool:
        place = _NUMBERS.fullmatch(cells[0])
        if place is None or len(cells) < 4 or not _NUMBER.fullmatch(cells[1]):
            return False
        memory = int(cells[3]) if _NUMBER.fullmatch(cells[3]) else None
        self.processes.append(ChipProcess(int(place[1]), int(place[2] or 0), int(cells[1]), cells[2], memory))
        self.has_process_table = True
        return True

    def _takes_usage(self, cells: list[str]) -> bool:
        """The second row of a chip; of several chips under one name, each has one."""
        place = _NUMBERS.match(cells[0])
        usages = [(int(used), int(total)) for used, total in _USAGE.findall(" ".join(cells))]
        if place is None or not usages or not self.chips:
            return False
        # HBM is the last; a chip without HBM shows 0 / 0 there.
        used, total = next((usage for usage in reversed(usages) if usage[1]), (None, None))
        chip = replace(self.chips[-1], chip=int(place[1]), used=used, total=total)
        if not self._is_open and (chip.npu, chip.chip) in {(known.npu, known.chip) for known in self.chips}:
            return False  # of another NPU, whose first row was not read
        self.chips[-1 if self._is_open else len(self.chips):] = [chip]
        self._is_open = False
        return True

"""The NPUs of this machine as /dev and npu-smi show them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from research_internlm.machine.npu_smi import Chip, SmiPage, parse, read_smi
from research_internlm.machine.programs import Answer


@dataclass(frozen=True)
class NpuFacts:
    """What was read.

    Attributes:
        devices: Names of /dev/davinciN, by number.
        visible: ASCEND_RT_VISIBLE_DEVICES; None or empty for all.
        answer: Of `npu-smi info`; None where there is no npu-smi.
    """

    devices: tuple[str, ...]
    visible: str | None
    answer: Answer | None

    @property
    def values(self) -> dict[str, int | str]:
        """Count and names of the devices, for a sentence."""
        return {"count": len(self.devices), "devices": ", ".join(self.devices) or "no /dev/davinciN"}

    def chosen_chips(self, chips: Sequence[Chip], workers: int) -> list[Chip] | None:
        """The chips that this many workers will use.

        ASCEND_RT_VISIBLE_DEVICES counts the devices of this machine, or of this container, from 0.

        Args:
            chips: All that npu-smi lists.
            workers: Workers of this machine, no more than there are devices.

        Returns:
            None where a device cannot be told apart among the chips.
        """
        parts = (self.visible or ",".join(map(str, range(workers)))).split(",")
        numbers = [int(part) for part in parts if re.fullmatch(r"\s*[0-9]{1,9}\s*", part)][:workers]
        if len(chips) < len(self.devices) or any(number >= len(self.devices) for number in numbers):
            return None
        if len(chips) > len(self.devices):  # in a container that sees all chips, devices are named after them
            numbers = [int(self.devices[number].removeprefix("davinci")) for number in numbers]
        return [chips[number] for number in numbers] if max(numbers, default=0) < len(chips) else None


def find_devices(folder: str | Path = "/dev") -> tuple[str, ...]:
    """Names of the NPUs' devices, by number."""
    names = (path.name for path in Path(folder).glob("davinci[0-9]*"))
    return tuple(sorted((name for name in names if name[len("davinci"):].isdecimal()),
                        key=lambda name: int(name[len("davinci"):])))


def read(folder: str | Path = "/dev") -> NpuFacts:
    """Looks for devices and asks npu-smi, which takes a second."""
    return NpuFacts(find_devices(folder), os.environ.get("ASCEND_RT_VISIBLE_DEVICES"), read_smi())


def page_of(facts: NpuFacts) -> SmiPage | None:
    """The table, where npu-smi printed one; an error's text holds no chip."""
    if facts.answer is None or facts.answer.code is None:
        return None
    page = parse(facts.answer.text)
    is_error = facts.answer.code != 0 or "dcmi" in facts.answer.text  # some errors come with exit code 0
    return None if is_error and not page.chips else page


def has_npu(facts: NpuFacts) -> bool:
    """Whether this machine is more than a place to rehearse: it has a device, or npu-smi lists a chip."""
    page = page_of(facts)
    return bool(facts.devices or (page and page.chips))


def driver_of(facts: NpuFacts) -> str | None:
    """The driver's version as npu-smi has it."""
    page = page_of(facts)
    return page.driver if page else None

"""For which kind of machine compiled files are, read from their ELF headers without loading them.

Needed because MindSpore's ARM wheel is tagged `any`: pip installs it wherever no other wheel fits.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

# e_machine (ELF specification) -> the name that `uname -m` prints.
_MACHINES = {62: "x86_64", 183: "aarch64", 3: "i386", 40: "arm", 243: "riscv64", 258: "loongarch64"}
_SHARED_LIBRARY = 3  # e_type: ET_DYN


def machine_of_header(header: bytes) -> str | None:
    """The machine of a shared library or program, by its first 20 bytes, as `uname -m` names it.

    Returns:
        None for what is no ELF library (the object files of NPU kernels are none), and "ELF machine N" for a
        number that is not in the table.
    """
    if len(header) < 20 or header[:4] != b"\x7fELF":
        return None
    order = "little" if header[5] == 1 else "big"
    kind, machine = (int.from_bytes(header[at:at + 2], order) for at in (16, 18))
    return _MACHINES.get(machine, f"ELF machine {machine}") if kind == _SHARED_LIBRARY else None


def machine_of(file: str | Path) -> str | None:
    """`machine_of_header` of a file."""
    with open(file, "rb") as stream:
        return machine_of_header(stream.read(20))


def machine_of_package(folder: str | Path) -> str | None:
    """The machine that most libraries (`*.so*`) in a folder and below are for; None where there are none.

    Most, not all: MindSpore's x86_64 wheel holds two aarch64 libraries, which run beside an NPU.
    """
    found = Counter(machine_of(os.path.join(place, name)) for place, _, names in os.walk(folder)
                    for name in names if ".so" in name)
    found.pop(None, None)
    return found.most_common(1)[0][0] if found else None

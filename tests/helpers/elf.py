"""Files that look compiled."""

from __future__ import annotations

import struct


def elf(machine: int, kind: int = 3) -> bytes:
    """The start of a 64-bit little-endian ELF file.

    Args:
        machine: e_machine: 62 is x86_64, 183 is aarch64.
        kind: e_type: 3 is a shared library, 1 an object file.
    """
    return b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHI", kind, machine, 1) + bytes(40)

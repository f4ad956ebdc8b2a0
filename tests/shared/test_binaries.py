"""Machine types of compiled files, read from headers written here by the ELF specification."""

import platform
import struct
import sys

import pytest

from research_internlm.shared import binaries
from tests.helpers.elf import elf


@pytest.mark.parametrize("header, machine", [
    (elf(62), "x86_64"), (elf(183), "aarch64"), (elf(4242), "ELF machine 4242"),
    (b"\x7fELF\x02\x02" + bytes(10) + struct.pack(">HH", 3, 22), "ELF machine 22"),  # big-endian s390x
    (elf(4137, kind=1), None),  # an object file, as those of NPU kernels
    (b"", None), (b"\x7fELF", None), (b"#!/bin/sh\necho no library at all\n", None),
])
def test_the_machine_is_read_from_the_header(tmp_path, header, machine):
    file = tmp_path / "a.so"
    file.write_bytes(header)
    assert binaries.machine_of(file) == machine


def test_this_interpreter_is_for_this_machine():
    assert binaries.machine_of(sys.executable) == platform.machine()


def test_a_package_is_for_the_machine_of_most_of_its_libraries(tmp_path):
    assert binaries.machine_of_package(tmp_path) is None
    (tmp_path / "below").mkdir()
    for name, machine in (("a.so", 62), ("below/libb.so.2.4", 62), ("npu.so", 183), ("kernel.o", 183),
                          ("kernel2.o", 183)):
        (tmp_path / name).write_bytes(elf(machine))
    (tmp_path / "text.so").write_text("GROUP(libc.so.6)")
    assert binaries.machine_of_package(tmp_path) == "x86_64"

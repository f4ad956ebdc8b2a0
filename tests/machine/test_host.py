"""The computer itself, judged from values; memory of a container read from its files."""

from dataclasses import replace

import pytest

from research_internlm.machine import host
from research_internlm.machine.finding import OK, PROBLEM, WARNING
from research_internlm.machine.host import GIB, MIB, Host, HostFacts

NOW = 1_764_000_000.0
GOOD = HostFacts(192, 1500 * GIB, 1400 * GIB, (500 * GIB, 499 * GIB), (65535, None, None), None,
                 "/data/output", True, 10**12, "UTF-8", NOW, ("/s/mindspore/__init__.py", NOW - 86400))


def wrong(**changes):
    return [(finding.level, finding.code) for finding in host.findings(replace(GOOD, **changes))
            if finding.level != OK]


def test_a_good_host_has_nothing_wrong():
    assert not wrong()
    assert "192 cores, 1500 GiB, 1400 GiB of it available" in [line.text() for line in host.findings(GOOD)]


@pytest.mark.parametrize(("changes", "expected"), [
    ({"available": 2 * GIB - 1}, (WARNING, Host.LITTLE_MEMORY)),
    ({"shm": None}, (PROBLEM, Host.NO_SHM)),
    ({"shm": (64 * MIB, 64 * MIB)}, (WARNING, Host.SMALL_SHM)),
    ({"shm": (500 * GIB, 32 * MIB - 1)}, (PROBLEM, Host.SMALL_SHM)),
    ({"limits": (1023, None, 65536)}, (WARNING, Host.FEW_FILES)),
    ({"is_writable": False}, (PROBLEM, Host.LOCKED_DISK)),
    ({"free": 14_643_896_319}, (WARNING, Host.LITTLE_DISK)),  # 2 x 7,321,948,160 bytes less one
    ({"encoding": "ANSI_X3.4-1968"}, (WARNING, Host.OTHER_LOCALE)),
    ({"now": 0.0}, (PROBLEM, Host.CLOCK_BEHIND)),
    ({"newest": ("x", NOW + 121)}, (PROBLEM, Host.CLOCK_BEHIND)),
])
def test_each_fault_is_named(changes, expected):
    assert wrong(**changes) == [expected]


@pytest.mark.parametrize("changes", [
    {"limits": (None, None, None)}, {"limits": (1024, 1, 1)}, {"encoding": "utf8"}, {"newest": None},
    {"newest": ("x", NOW + 119)}, {"shm": (GIB, GIB)}])
def test_what_is_just_right_is_not_warned_of(changes):
    assert not wrong(**changes)


@pytest.mark.parametrize(("files", "expected"), [
    ({}, (8 * GIB, 6 * GIB)),
    ({"memory.max": "max", "memory.current": "5"}, (8 * GIB, 6 * GIB)),
    ({"memory.max": str(4 * GIB), "memory.current": str(GIB)}, (4 * GIB, 3 * GIB)),
    ({"memory/memory.limit_in_bytes": str(2 * GIB), "memory/memory.usage_in_bytes": str(3 * GIB)},
     (2 * GIB, 0)),
    ({"memory/memory.limit_in_bytes": str(1 << 63), "memory/memory.usage_in_bytes": "0"},
     (8 * GIB, 6 * GIB))])
def test_a_container_s_memory_counts(tmp_path, files, expected):
    (tmp_path / "meminfo").write_text(
        f"MemTotal: {8 << 20} kB\nMemFree: 1 kB\nMemAvailable: {6 << 20} kB\nHugePages_Total: 0\n")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert host.read_memory(tmp_path, tmp_path) == expected


def test_the_output_folder_is_not_made(tmp_path):
    facts = host.read(tmp_path / "a/b")
    assert facts.output == str(tmp_path / "a/b") and facts.is_writable and not (tmp_path / "a").exists()
    (tmp_path / "file").touch()
    assert not host.read(tmp_path / "file").is_writable
    assert facts.newest[1] <= facts.now + 120

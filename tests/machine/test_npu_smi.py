"""What npu-smi prints is read in every release's form, and nothing it prints gets lost.

The samples in npu_smi/ were written by hand after public logs of the releases they are named after.
"""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from research_internlm.machine.npu_smi import Chip, ChipProcess, parse

SAMPLES = Path(__file__).parent / "npu_smi"


def sample(name):
    return (SAMPLES / f"{name}.txt").read_bytes().decode("utf-8", errors="replace")


def chips(*rows):
    return tuple(Chip(*row) for row in rows)


@pytest.mark.parametrize(("name", "driver", "expected", "processes"), [
    ("24.1.rc1", "24.1.rc1", chips(  # the third card is full: no blank before the slash
        (0, 0, "910B3", "OK", 3352, 65536), (1, 0, "910B3", "OK", 3347, 65536),
        (2, 0, "910B3", "OK", 59356, 65536), (3, 0, "910B3", "OK", 3349, 65536)),
     (ChipProcess(2, 0, 40211, "python", 55990),)),
    ("24.1.0", "24.1.0", chips((0, 0, "910B1", "OK", 3437, 65536), (1, 0, "910B1", "OK", 3430, 65536)), ()),
    ("25.2.0", "25.2.0", chips(*((n, 0, "910B4", "OK", 2871 + n, 32768) for n in range(8))), ()),
    ("26.0.rc1", "26.0.rc1", chips(  # wider, a column more, a process without a name
        (0, 0, "910B3", "OK", 53984, 65536), (1, 0, "910B3", "Warning", 3402, 65536),
        (2, 0, "910B3", "Alarm", 3403, 65536)),
     (ChipProcess(0, 0, 1712733, "sglangschedul", 48954), ChipProcess(0, 0, 1712799, "", 211))),
    ("a3_phy_id", "25.0.rc1", chips(  # two chips an NPU
        (0, 0, "Ascend910", "OK", 3422, 65536), (0, 1, "Ascend910", "OK", 3204, 65536),
        (1, 0, "Ascend910", "OK", 3424, 65536), (1, 1, "Ascend910", "OK", 62449, 65536)),
     (ChipProcess(1, 1, 824166, "VLLMWorker_TP", 59316),)),
])
def test_every_release_s_table_is_read(name, driver, expected, processes):
    page = parse(sample(name))
    assert (page.driver, page.chips, page.processes) == (driver, expected, processes)
    assert page.has_process_table and page.unread == ()


def test_the_old_columns_without_a_bus_are_read():
    page = parse(sample("old_logic_id"))
    assert page.chips == chips((0, 0, "910A", "OK", 2048, 32768), (1, 0, "910A", "UNKNOWN", 1, 32768))
    assert page.unread == () and not page.has_process_table


def test_a_chip_whose_second_row_was_cut_off_stays_in_the_table():
    page = parse(sample("cut"))
    assert page.chips[2:] == chips((2, 0, "910B2", ""))
    assert not page.has_process_table


def test_half_a_number_is_no_number():
    whole = sample("24.1.0")
    page = parse(whole[:whole.index("3430 / 65536") + len("3430 / 655")])
    assert [(chip.npu, chip.used, chip.total) for chip in page.chips] == [(0, 3437, 65536), (1, None, None)]
    assert page.unread == (whole[:whole.index("3430 / 65536") + len("3430 / 655")].splitlines()[-1],)


def test_names_that_are_not_utf8_do_no_harm():
    page = parse(sample("not_utf8"))
    [process] = page.processes
    assert (process.pid, process.memory) == (77, 15000) and "�" in process.name and page.unread == ()


def test_an_error_is_no_table():
    page = parse(sample("no_driver"))
    assert page.chips == () and "dcmi module initialize failed. ret is -8005" in page.unread


PATIENT = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
ROWS = st.lists(st.tuples(
    st.integers(0, 99), st.integers(0, 1),
    st.sampled_from(["910B1", "910B2C", "910B4-1", "Ascend910", "310P3"]),
    st.sampled_from(["OK", "Warning", "Critical"]), st.integers(0, 65536), st.sampled_from([32768, 65536]),
    st.integers(0, 9)), max_size=16)


def test_a_row_whose_npu_was_not_read_is_not_given_to_the_npu_before():
    page = parse(sample("24.1.0").replace("| 1     910B1", "| ?     910B1"))
    assert [(chip.npu, chip.used) for chip in page.chips] == [(0, 3437)]
    assert len(page.unread) == 2 and all("910B1" in line or "3430" in line for line in page.unread)


def table(rows):
    """Lines of the table, widths as the last number of each row has it."""
    for npu, chip, name, health, used, total, pad in rows:
        yield f"| {npu}{' ' * (pad + 1)}{name} | {health}{' ' * pad} | 90.1  38 {' ' * pad} 0    / 0 |"
        yield f"| {chip}{' ' * pad} | 0000:C1:00.0 | 0  0    / 0 {' ' * pad}{used:<5}/ {total} |"


@PATIENT
@given(ROWS)
def test_every_chip_of_a_table_is_in_the_page(rows):
    page = parse("\n".join(table(rows)))
    assert page.chips == chips(*(row[:6] for row in rows)) and page.unread == ()


@PATIENT
@given(ROWS, st.integers(0, 31), st.integers(0, 60), st.integers(0, 60), st.text("|x/ 0", max_size=5))
def test_no_row_is_lost_in_a_damaged_table(rows, number, start, length, new):
    lines = list(table(rows)) or ["|"]
    line = lines[number % len(lines)]
    lines[number % len(lines)] = damaged = line[:start] + new + line[start + length:]
    page = parse("\n".join(lines))
    is_blank = not damaged.strip("+-=| ")
    assert len(rows) - len(page.chips) <= len(page.unread) + len(page.processes) + is_blank


PARTS = ["| 0 910B3 | OK | x |", "| 0 | b | 1 / 2 |", "| NPU Chip | Process id |", "| 0 0 | 7 | p | 8 |", "|",
         "0"]


@PATIENT
@given(st.text() | st.lists(st.sampled_from(PARTS)).map("\n".join))
def test_any_text_is_read(text):
    page = parse(text)
    kept = page.unread + page.chips + page.processes
    assert len(kept) <= len(text.splitlines())

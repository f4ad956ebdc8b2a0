"""From what /dev and npu-smi show to what the doctor says, and to what stops a launch."""

from pathlib import Path

import pytest

from research_internlm.machine import npu_checks, npus
from research_internlm.machine.finding import OK, PROBLEM, WARNING
from research_internlm.machine.npu_checks import Npu
from research_internlm.machine.npu_smi import parse
from research_internlm.machine.npus import NpuFacts
from research_internlm.machine.programs import Answer

SAMPLES = Path(__file__).parent / "npu_smi"


def facts(name, devices, visible=None, code=0, text=None):
    text = (SAMPLES / f"{name}.txt").read_bytes().decode("utf-8", errors="replace") if text is None else text
    return NpuFacts(tuple(f"davinci{number}" for number in devices), visible, Answer(code, text))


def codes(findings):
    return [(finding.level, finding.code) for finding in findings]


def start(known, workers, wanted=None):
    return list(npu_checks.start_findings(known, workers, wanted))


def test_no_npu_is_a_place_to_rehearse():
    nothing = NpuFacts((), None, None)
    assert codes(npu_checks.findings(nothing)) == [(OK, Npu.NONE)] and not npus.has_npu(nothing)
    assert codes(start(nothing, 1)) == [(PROBLEM, Npu.TOO_FEW)]


def test_idle_cards_are_one_line():
    [line] = npu_checks.findings(facts("24.1.0", range(2)))
    assert (line.level, line.text()) == (
        OK, "2 x 910B1 healthy and free: 0, 1 (at most 3,437 of 65,536 MB in use)")
    assert start(facts("24.1.0", range(2)), 2)[0].level == OK


def test_cards_of_32_gb_are_named():
    found = list(npu_checks.findings(facts("25.2.0", range(8))))
    assert codes(found) == [(OK, Npu.FREE), (WARNING, Npu.SMALL)]
    assert "910B4 has 32,768 MB, but max_device_memory asks for 59,392 MB" in found[1].text()
    assert codes(start(facts("25.2.0", range(8)), 4, 28 * 1024)) == [(OK, Npu.FREE)]


def test_the_recipes_ask_for_what_the_doctor_compares_with(root):
    assert "max_device_memory: 58GB" in (root / "yaml/lora_finetune.yaml").read_text()
    assert npu_checks.RECIPE_MB == 58 * 1024


def test_a_card_in_use_stops_a_launch_only_where_the_launch_would_use_it():
    busy = facts("24.1.rc1", range(4))
    assert codes(npu_checks.findings(busy)) == [(OK, Npu.FREE), (WARNING, Npu.BUSY)]
    assert codes(start(busy, 2)) == [(OK, Npu.FREE)]
    [_, problem] = start(busy, 4)
    assert (problem.level, problem.code) == (PROBLEM, Npu.BUSY)
    assert "NPU 2 (910B3, 59356 of 65536 MB in use) is used by 40211 (python, 55990 MB)" in problem.text()
    assert codes(start(facts("24.1.rc1", range(4), visible="3, 2"), 1)) == [(OK, Npu.FREE)]
    assert PROBLEM in dict(codes(start(facts("24.1.rc1", range(4), visible="3, 2"), 2)))


def test_health_decides():
    found = list(npu_checks.findings(facts("26.0.rc1", range(3))))
    assert codes(found) == [(WARNING, Npu.BUSY), (WARNING, Npu.HEALTH), (PROBLEM, Npu.HEALTH)]
    assert "NPU 2 (910B3) reports Alarm" in found[2].text()
    assert "1712733 (sglangschedul, 48954 MB), 1712799 (?, 211 MB)" in found[0].text()


def test_two_chips_of_an_npu_are_two_devices():
    known = facts("a3_phy_id", range(4))
    assert codes(start(known, 3)) == [(OK, Npu.FREE)]
    [_, busy] = start(known, 4)
    assert busy.values["place"] == "1/1"


@pytest.mark.parametrize(("used", "level", "code"), [
    (5000, OK, Npu.FREE), (5001, WARNING, Npu.IN_USE), (32768, WARNING, Npu.IN_USE),
    (32769, PROBLEM, Npu.FULL)])
def test_memory_that_no_process_explains(used, level, code):
    text = (SAMPLES / "24.1.0.txt").read_text().replace("3437 / 65536", f"{used} / 65536")
    assert codes(start(facts("", [0, 1], text=text), 1)) == [(level, code)]


def test_too_few_cards_are_said_with_what_hides_them():
    [few] = start(facts("24.1.0", range(2)), 4)
    assert few.text() == "4 workers need 4 NPUs, but this machine shows 2 (davinci0, davinci1)"
    [hidden] = start(facts("24.1.rc1", range(4), visible="0,1"), 3)
    assert hidden.level == PROBLEM and hidden.text().endswith("ASCEND_RT_VISIBLE_DEVICES is 0,1")


def test_a_container_that_sees_all_chips_uses_those_its_devices_are_named_after():
    assert codes(start(facts("24.1.rc1", [1, 3]), 2)) == [(OK, Npu.FREE)]
    assert (PROBLEM, Npu.BUSY) in codes(start(facts("24.1.rc1", [1, 2]), 2))


def test_where_the_chips_cannot_be_told_apart_nothing_stops_a_launch():
    found = codes(start(facts("26.0.rc1", range(4)), 1))
    assert found[0] == (WARNING, Npu.COUNT_DIFFERS) and (WARNING, Npu.HEALTH) in found
    assert PROBLEM not in dict(found)


@pytest.mark.parametrize(("name", "code"), [("no_driver", Npu.REFUSED), ("occupied", Npu.OCCUPIED)])
@pytest.mark.parametrize("exit_code", [0, 1])
def test_a_driver_that_does_not_answer(name, code, exit_code):
    [problem] = npu_checks.findings(facts(name, [0], code=exit_code))
    assert (problem.level, problem.code) == (PROBLEM, code) and "ret is -80" in problem.text()
    assert codes(npu_checks.findings(facts(name, [], code=exit_code))) == [
        (WARNING, Npu.NO_DEVICES), (WARNING, code)]


def test_what_is_not_known_is_a_warning():
    assert codes(start(NpuFacts(("davinci0",), None, None), 1)) == [(WARNING, Npu.NOT_ASKED)]
    assert codes(start(NpuFacts(("davinci0",), None, Answer(None, "")), 1)) == [(WARNING, Npu.NO_ANSWER)]
    assert codes(start(facts("", [0], text="\n"), 1)) == [(WARNING, Npu.NO_CHIPS)]


def test_a_cut_table_is_said_to_be_one():
    found = codes(npu_checks.findings(facts("cut", range(4))))
    assert found == [(WARNING, Npu.NO_PROCESS_TABLE), (WARNING, Npu.COUNT_DIFFERS), (OK, Npu.FREE),
                     (WARNING, Npu.HEALTH_UNKNOWN), (WARNING, Npu.MEMORY_UNKNOWN)]


def test_lines_that_were_not_read_are_shown():
    text = (SAMPLES / "24.1.0.txt").read_text() + "| 9 | something new |\n"
    [warning, _] = npu_checks.findings(facts("", [0, 1], text=text))
    assert warning.code is Npu.UNREAD and "'| 9 | something new |'" in warning.text()


def test_a_process_on_a_chip_that_is_not_listed_is_shown():
    text = (SAMPLES / "24.1.rc1.txt").read_text().replace("| 2       0 ", "| 7       0 ")
    found = list(npu_checks.findings(facts("", range(4), text=text)))
    assert found[0].code is Npu.STRAY and "40211" in found[0].text()
    assert parse(text).processes[0].npu == 7


def test_devices_are_sorted_by_number(tmp_path):
    for name in ("davinci10", "davinci9", "davinci0", "davinci_manager", "davinci1x"):
        (tmp_path / name).touch()
    assert npus.find_devices(tmp_path) == ("davinci0", "davinci9", "davinci10")

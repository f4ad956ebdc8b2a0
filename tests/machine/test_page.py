"""The page as a whole: every sentence in two languages, one part's failure, limits of time, JSON."""

import importlib
import json
import pkgutil
import string
import time
from pathlib import Path

import pytest

from research_internlm import machine
from research_internlm.machine import host, page
from research_internlm.machine.finding import LEVELS, Code, Topic
from research_internlm.machine.page import Report
from research_internlm.machine.programs import ask
from research_internlm.shared import schema

for module in pkgutil.iter_modules(machine.__path__, "research_internlm.machine."):
    importlib.import_module(module.name)
CODES = [code for kind in Code.__subclasses__() for code in kind]


def fields(sentence):
    return sorted((name, form) for _, name, form, _ in string.Formatter().parse(sentence) if name)


@pytest.mark.parametrize("code", CODES, ids=str)
def test_both_languages_say_the_same_values(code):
    assert {name for name, _ in fields(code.english)} == {name for name, _ in fields(code.chinese)}
    assert "\n" not in code.english + code.chinese and code.topic in Topic


def test_codes_are_told_apart_by_topic_and_name():
    assert len({(code.topic, code.name) for code in CODES}) == len(CODES) > 70


def test_a_part_that_cannot_be_read_hides_no_other(monkeypatch, tmp_path):
    def read(output):
        raise PermissionError(13, "Permission denied", "/proc/meminfo")

    monkeypatch.setattr(host, "read", read)
    found = page.examine(tmp_path)
    assert "/proc/meminfo" in found[0].text() and found[0].level == "warning"
    assert {Topic.PYTHON, Topic.NPU, Topic.OBS} <= {finding.code.topic for finding in found}


def test_values_are_one_line_and_not_endless():
    finding = page.Page.NOT_READ.warning(text="a\nb\t\x1b[31m" + "x" * 9999)
    assert "\n" not in finding.text() and len(finding.text("zh")) < 600


def test_the_report_is_what_its_dataclass_says(tmp_path):
    report = page.report(page.examine(tmp_path), "zh")
    written = json.loads(json.dumps(schema.to_json(report)))
    assert schema.parse(Report, written, "the page").level == report.level in LEVELS
    assert any(line["topic"] == "npu" and "NPU" in line["text"] for line in written["lines"])


@pytest.mark.slow
def test_a_program_that_hangs_is_left_behind(tmp_path):
    program = tmp_path / "hangs"
    program.write_text("#!/bin/sh\nsleep 60 &\necho $!\nsleep 60\n")
    program.chmod(0o755)
    start = time.monotonic()
    answer = ask([str(program)], 2)
    assert answer.code is None and time.monotonic() - start < 30
    command = Path(f"/proc/{int(answer.text)}/cmdline")  # its child; empty for what has ended
    while command.exists() and command.read_bytes():
        assert time.monotonic() - start < 30
        time.sleep(0.05)

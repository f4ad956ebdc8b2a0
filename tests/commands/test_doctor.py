"""The doctor as a user calls it, with a stand-in npu-smi on PATH."""

import io
import json
import os
import subprocess
import sys

import pytest

from research_internlm import doctor
from research_internlm.machine.finding import LEVELS
from research_internlm.machine.page import Report
from research_internlm.shared import schema, terminal
from research_internlm.shared.process_role import JOB_VARIABLES
from tests.helpers.commands import ROOT

SAMPLES = ROOT / "tests/machine/npu_smi"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine without the variables that the doctor warns of; returns a function that adds an npu-smi."""
    others = [name for name in os.environ if name.startswith(("ASCEND_", "HCCL_", "OBS_"))]
    for name in (*JOB_VARIABLES, *others):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LC_ALL", "C.UTF-8")

    def add(sample):
        program = tmp_path / "npu-smi"
        program.write_text(f"#!/bin/sh\ncat {SAMPLES}/{sample}.txt\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return add


def test_a_rehearsal_machine_has_no_problem(machine, tmp_path, capsys):
    assert doctor.main(["--output_dir", str(tmp_path), "--lang", "en"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("rehearsal on the CPU only" in line for line in lines)
    assert lines[-1].startswith("0 problem(s), ")
    assert all(line.split()[0] in LEVELS for line in lines[:-1])


def test_the_page_as_json_without_importing_mindspore(machine, monkeypatch):
    machine("24.1.rc1")
    monkeypatch.setenv("OBS_SECRET_ACCESS_KEY", "hunter2secret")
    script = ("import sys; from research_internlm import doctor; "
              "code = doctor.main(['--json', '--lang', 'zh']); "
              "sys.exit(1 if {'mindspore', 'mindformers', 'numpy'} & set(sys.modules) else code)")
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr  # NPUs, but no CANN
    report = schema.parse(Report, json.loads(done.stdout), "the page")
    found = {(line.topic, line.code): line for line in report.lines}
    assert report.level == found["cann", "missing"].level == "problem"
    assert "40211" in found["npu", "busy"].text and found["npu", "free"].values["count"] == 3
    assert found["npu", "no_devices"].level == "warning" and "请" in found["npu", "busy"].text
    assert "hunter2secret" not in done.stdout + done.stderr


@pytest.mark.slow
def test_the_script_speaks_the_locale_s_language(machine, monkeypatch):
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")  # need not be installed
    monkeypatch.setenv("MS_ROLE", "MS_SCHED")
    monkeypatch.setenv("PYTHONUTF8", "1")
    done = subprocess.run(["bash", "scripts/doctor.sh"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "\x1b" not in done.stdout, done.stdout + done.stderr
    assert "警告  环境变量：MS_ROLE=MS_SCHED" in done.stdout and "0 个问题" in done.stdout.splitlines()[-1]


@pytest.mark.parametrize(("is_terminal", "variables", "written"), [
    (True, {}, "\x1b[31mproblem\x1b[0m  a\\x1b[2Jb\n"), (False, {}, "problem  a\\x1b[2Jb\n"),
    (True, {"NO_COLOR": "1"}, "problem  a\\x1b[2Jb\n"), (True, {"TERM": "dumb"}, "problem  a\\x1b[2Jb\n")])
def test_only_a_terminal_gets_colour_and_only_ours(monkeypatch, is_terminal, variables, written):
    for name, value in ({"NO_COLOR": "", "TERM": "xterm"} | variables).items():
        monkeypatch.setenv(name, value)
    stream = io.StringIO()
    stream.isatty = lambda: is_terminal
    monkeypatch.setattr(sys, "stdout", terminal._PrintableStream(stream))
    terminal.print_marked("problem", 31, "  a\x1b[2Jb")
    assert stream.getvalue() == written

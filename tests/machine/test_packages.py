"""Python, packages, the machine type of binaries, and the package index without its secrets."""

import re
from dataclasses import replace

import pytest

from research_internlm.machine import packages
from research_internlm.machine.finding import OK, PROBLEM
from research_internlm.machine.packages import Package, PackageFacts
from research_internlm.shared.versions import OtherCopy

GOOD = PackageFacts("x86_64", "Linux 6.1", "3.11.7", "/v/bin/python", ">=3.10,<3.13",
                    {"mindspore": "2.9.0", "mindformers": "1.9.0", "research-internlm": "0.1.0"},
                    {"research_internlm": "/r/__init__.py", "mindspore": "/s/mindspore/__init__.py",
                     "mindformers": "/s/mindformers/__init__.py"}, (), "x86_64", "")


def problems(**changes):
    return [finding for finding in packages.findings(replace(GOOD, **changes)) if finding.level == PROBLEM]


def test_a_good_installation_has_no_problem():
    assert not problems()
    lines = [finding.text() for finding in packages.findings(GOOD)]
    assert "mindspore 2.9.0 from /s/mindspore" in lines and "research_internlm 0.1.0 from /r" in lines


@pytest.mark.parametrize(("changes", "code", "words"), [
    ({"machine": "riscv64", "binaries": "riscv64"}, Package.UNKNOWN_MACHINE, "riscv64"),
    ({"system": "Darwin 24.0"}, Package.UNKNOWN_MACHINE, "Darwin"),
    ({"python": "3.9.2"}, Package.OTHER_PYTHON, "needs >=3.10,<3.13"),
    ({"python": "3.13.0"}, Package.OTHER_PYTHON, "3.13.0"),
    ({"installed": {"mindspore": "2.9.0"}}, Package.MISSING, "mindformers is not installed"),
    ({"installed": GOOD.installed | {"mindspore": "2.7.2"}}, Package.OTHER_PAIR, "to MindSpore 2.9.0"),
    ({"installed": GOOD.installed | {"mindformers": "1.7.0"}}, Package.NOT_TESTED,
     "MindFormers 1.7.0 is not supported, only 1.8.0 to 1.9.0"),
    ({"installed": GOOD.installed | {"mindformers": "2.0.0"}}, Package.NOT_PUBLISHED, "hyper_parallel"),
    ({"other_copies": (OtherCopy("mindformers", "/x/__init__.py", "1.9.0", "/s/mindformers", "/x"),)},
     Package.OTHER_COPY, "from /x/__init__.py, which is not the installed mindformers 1.9.0"),
    ({"binaries": None}, Package.NO_BINARIES, "/s/mindspore"),
    ({"binaries": "aarch64"}, Package.OTHER_BINARIES, "are for aarch64"),
])
def test_each_problem_is_named(changes, code, words):
    [problem] = problems(**changes)
    assert problem.code is code and words in problem.text()
    chinese = problem.text("zh")
    assert re.search("[\u4e00-\u9fff]", chinese)
    assert not any(sentence in chinese for sentence in ("is not", "belongs", "PYTHONPATH:"))


@pytest.mark.parametrize("mindformers, mindspore, words", [
    ("1.9.0", "2.9.0", ()), ("1.8.0", "2.7.2", ()), ("1.9.0", "2.9.0+cann9", ()),
    ("2.0.0", "2.10.0", ("MindFormers 2.0.0 is not supported, only 1.8.0 to 1.9.0", "hyper_parallel")),
    ("1.7.0", "2.7.1", ("MindFormers 1.7.0 is not supported",)),
    ("1.8.0", "2.9.0", ("MindFormers 1.8.0 belongs to MindSpore 2.7.2, but 2.9.0 is installed",)),
    ("1.9.0", "2.10.0", ("belongs to MindSpore 2.9.0, but 2.10.0",)),
])
def test_only_pairs_of_the_table_go_together(mindformers, mindspore, words):
    problems = [finding.text() for finding in
                packages.version_findings({"mindformers": mindformers, "mindspore": mindspore})]
    assert len(problems) == bool(words)
    assert all(word in problems[0] for word in words)


def test_an_arm_machine_goes_by_two_names():
    [wrong] = problems(machine="arm64")
    assert wrong.code is Package.OTHER_BINARIES
    assert not problems(machine="arm64", binaries="aarch64")


@pytest.mark.parametrize(("version", "inside"), [
    ("3.9.19", False), ("3.10.0", True), ("3.12.9", True), ("3.13.0", False)])
def test_python_is_held_against_setup_cfg(version, inside):
    for bounds in (">=3.10,<3.13", ">= 3.10, < 3.13"):
        assert packages.is_within(version, bounds) is inside


def test_only_hosts_of_indexes_are_shown():
    settings = "\n".join([
        "global.index-url='https://name:s3cret@mirror.example.com:8443/private/simple'",
        ":env:.extra-index-url='http://token@other.example.com/simple file:///opt/wheels'",
        "global.timeout='60'", "install.trusted-host='mirror.example.com'", "global.index-url='https://[bad'"])
    assert packages.index_hosts(settings) == ["mirror.example.com", "other.example.com", "file://", "?"]
    lines = [finding for finding in packages.findings(replace(GOOD, index=settings))
             if finding.code is Package.INDEX]
    assert lines[0].level == OK and not any(
        word in lines[0].text() for word in ("s3cret", "token", "name", "private"))

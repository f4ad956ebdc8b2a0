"""The doctor's page: everything is read at the same time, then judged, then written as text or JSON."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

from research_internlm.machine import cann, host, npu_checks, npus, packages, surroundings, uploads
from research_internlm.machine.finding import LEVELS, OK, PROBLEM, WARNING, Code, Finding, Topic
from research_internlm.shared.schema import Rule

T = TypeVar("T")
Level = Annotated[str, Rule(lambda level: level in LEVELS, "ok, warning or problem")]


class Page(Code):
    """What can be found about the reading itself."""

    NOT_READ = (Topic.MACHINE, "a part could not be read: {text}", "有一部分无法读取：{text}")


@dataclass(frozen=True)
class Line:
    """One line of the page; `values` are those of the sentence, its names depend on the code."""

    level: Level
    topic: str
    code: str
    text: str
    values: dict[str, Any]


@dataclass(frozen=True)
class Report:
    """The page as `--json` prints it.

    Attributes:
        level: The worst level of its lines.
        lang: Language of the texts.
        lines: The lines in the order of the page.
    """

    level: Level
    lang: Literal["en", "zh"]
    lines: list[Line]


def examine(output: str | os.PathLike) -> list[Finding]:
    """Reads and judges this machine; MindSpore is not imported, and nothing is written.

    Args:
        output: Folder that runs will be written to.
    """
    devices = len(npus.find_devices())
    readers: dict[str, Callable[[], Any]] = {
        "packages": packages.read, "npus": npus.read, "cann": cann.read, "host": partial(host.read, output),
        "around": partial(surroundings.read, devices), "obs": uploads.read}
    with ThreadPoolExecutor(len(readers)) as pool:
        parts = dict(zip(readers, pool.map(_read, readers.values()), strict=True))
    found = [part for part in parts.values() if isinstance(part, Finding)]
    return [*found, *_judge({name: part for name, part in parts.items() if not isinstance(part, Finding)})]


def _read(reader: Callable[[], T]) -> T | Finding:
    """What a reader read, or why it could not: one part that fails must not hide the others."""
    try:
        return reader()
    except OSError as error:
        return Page.NOT_READ.warning(text=str(error))


def _judge(parts: Mapping[str, Any]) -> Iterator[Finding]:
    chips = parts.get("npus")
    found: list[Finding] = []
    if "packages" in parts:
        found += packages.findings(parts["packages"])
    if chips:
        found += npu_checks.findings(chips)
    if "cann" in parts:
        mindspore = parts["packages"].installed.get("mindspore") if "packages" in parts else None
        found += cann.findings(parts["cann"], mindspore, bool(chips and npus.has_npu(chips)),
                               npus.driver_of(chips) if chips else None)
    for name, module in (("host", host), ("around", surroundings), ("obs", uploads)):
        if name in parts:
            found += module.findings(parts[name])
    order = list(Topic)
    yield from sorted(found, key=lambda finding: order.index(finding.code.topic))


def worst(findings: Sequence[Finding]) -> str:
    """The worst level of findings."""
    found = {finding.level for finding in findings}
    return next((level for level in (PROBLEM, WARNING) if level in found), OK)


def report(findings: Sequence[Finding], lang: str) -> Report:
    """The page as JSON has it.

    Args:
        findings: From `examine`.
        lang: `en` or `zh`.
    """
    lines = [Line(finding.level, finding.code.topic.name.lower(), finding.code.name.lower(),
                  finding.text(lang), dict(finding.values)) for finding in findings]
    return Report(worst(findings), lang, lines)


def summary(findings: Sequence[Finding], lang: str) -> str:
    """The page's last line."""
    problems, warnings = (sum(finding.level == level for finding in findings) for level in (PROBLEM, WARNING))
    if lang == "zh":
        return f"{problems} 个问题，{warnings} 个警告"
    return f"{problems} problem(s), {warnings} warning(s)"

"""Python, the packages that would be imported, the machine their binaries are for, and the package index."""

from __future__ import annotations

import configparser
import platform
import re
import sys
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from research_internlm.machine.finding import Code, Finding, Topic
from research_internlm.machine.programs import ask
from research_internlm.shared import versions
from research_internlm.shared.binaries import machine_of_package

_ROOT = Path(__file__).resolve().parents[2]
_MACHINES = ("x86_64", "aarch64")  # MindSpore has wheels for these
_SAME_MACHINE = {"amd64": "x86_64", "arm64": "aarch64"}
_PIP_SECONDS = 5
_INDEX_LINE = re.compile(r"(?:[\w:-]+\.)?(?:index-url|extra-index-url|find-links)='?(?P<value>.*?)'?")


class Package(Code):
    """What can be found about Python and packages."""

    MACHINE = (Topic.MACHINE, "{machine}, {system}", "{machine}，{system}")
    UNKNOWN_MACHINE = (
        Topic.MACHINE,
        "{machine}, {system}: MindSpore exists for Linux on x86_64 and aarch64 only",
        "{machine}，{system}：MindSpore 只支持 x86_64 和 aarch64 的 Linux")
    PYTHON = (Topic.PYTHON, "{version} ({executable})", "{version}（{executable}）")
    OTHER_PYTHON = (
        Topic.PYTHON,
        "{version} ({executable}), but the toolkit needs {wanted}: PYTHON=python3.11 bash scripts/setup.sh",
        "{version}（{executable}），但本工具需要 {wanted}：PYTHON=python3.11 bash scripts/setup.sh")
    IMPORTED = (Topic.PACKAGES, "{name} {version} from {origin}", "{name} {version}，来自 {origin}")
    MISSING = (
        Topic.PACKAGES,
        "{name} is not installed: bash scripts/setup.sh",
        "没有安装 {name}：bash scripts/setup.sh")
    NOT_TESTED = (
        Topic.PACKAGES,
        versions.NOT_TESTED + "; bash scripts/setup.sh installs {newest}",
        "不支持 MindFormers {version}，只测试过 {oldest} 到 {newest}；bash scripts/setup.sh 会安装 {newest}")
    NOT_PUBLISHED = (
        Topic.PACKAGES,
        versions.NOT_PUBLISHED + "; bash scripts/setup.sh installs {newest}",
        "不支持 MindFormers {version}，只支持 {oldest} 到 {newest}：从 2.0.0 起它要导入 hyper_parallel，"
        "公共软件源中没有这个包；bash scripts/setup.sh 会安装 {newest}")
    OTHER_PAIR = (
        Topic.PACKAGES,
        "MindFormers {mindformers} belongs to MindSpore {wanted}, but {mindspore} is installed: bash "
        "scripts/setup.sh",
        "MindFormers {mindformers} 应与 MindSpore {wanted} 一起使用，但安装的是 {mindspore}："
        "bash scripts/setup.sh")
    OTHER_COPY = (
        Topic.PACKAGES,
        versions.OTHER_COPY,
        "{name} 将从 {origin} 导入，而不是安装在 {place} 的 {name} {version}："
        "请从 PYTHONPATH 中去掉 {folder}")
    BINARIES = (
        Topic.PACKAGES,
        "MindSpore's binaries are for {machine}",
        "MindSpore 的二进制文件适用于 {machine}")
    OTHER_BINARIES = (
        Topic.PACKAGES,
        "MindSpore's binaries are for {found}, this machine is {machine}: install the wheel for {machine}",
        "MindSpore 的二进制文件适用于 {found}，而本机是 {machine}：请安装 {machine} 的 wheel")
    NO_BINARIES = (
        Topic.PACKAGES,
        "no binaries (*.so) in {folder}: the installation of MindSpore is not complete; bash "
        "scripts/setup.sh",
        "{folder} 中没有二进制文件（*.so）：MindSpore 安装不完整；bash scripts/setup.sh")
    INDEX = (Topic.INDEX, "pip asks {hosts}", "pip 使用 {hosts}")
    NO_INDEX = (
        Topic.INDEX,
        "not set: pip asks its default; where that is slow or blocked, set a mirror with pip config set "
        "global.index-url URL",
        "未设置：pip 使用默认源；如果很慢或无法访问，请用 pip config set global.index-url URL 设置镜像")
    INDEX_UNKNOWN = (Topic.INDEX, "not known: pip config list failed", "未知：pip config list 失败")


@dataclass(frozen=True)
class PackageFacts:
    """What was read.

    Attributes:
        machine: Machine type of this process, e.g. `aarch64`.
        system: System and its release.
        python: Python's version.
        executable: Its path.
        wanted_python: Versions the toolkit runs on, as setup.cfg has them; None where that file is not here.
        installed: Package -> version.
        origins: Package -> file that an import would run.
        other_copies: Packages of which another copy would be imported.
        binaries: Machine type of MindSpore's binaries; None where there are none.
        index: Lines of `pip config list`; None where pip did not answer.
    """

    machine: str
    system: str
    python: str
    executable: str
    wanted_python: str | None
    installed: Mapping[str, str]
    origins: Mapping[str, str]
    other_copies: tuple[versions.OtherCopy, ...]
    binaries: str | None
    index: str | None


def read() -> PackageFacts:
    """Reads what is installed without importing it, and asks pip for its settings (half a second)."""
    origins = versions.imported_from()
    folder = Path(origins["mindspore"]).parent if "mindspore" in origins else None
    answer = ask([sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"], _PIP_SECONDS)
    copies = tuple(versions.other_copies())
    return PackageFacts(
        platform.machine(), f"{platform.system()} {platform.release()}", platform.python_version(),
        sys.executable, _wanted_python(), versions.installed_versions(), origins, copies,
        machine_of_package(folder) if folder else None, answer.text if answer.code == 0 else None)


def _wanted_python() -> str | None:
    settings = configparser.ConfigParser()
    settings.read(_ROOT / "setup.cfg", encoding="utf-8")
    return settings.get("options", "python_requires", fallback=None)


def is_within(version: str, wanted: str) -> bool:
    """Whether a Python version is within setup.cfg's bounds, `>=3.10,<3.13`.

    The doctor runs before anything is installed, so it has no packaging library.
    """
    found = tuple(map(int, version.split(".")[:2]))
    bounds = [(part[:2].rstrip("0123456789"), tuple(map(int, part.lstrip("<>=").split("."))))
              for part in wanted.replace(" ", "").split(",")]
    return all(found >= bound if sign == ">=" else found < bound for sign, bound in bounds)


def findings(facts: PackageFacts) -> Iterator[Finding]:
    """Machine, Python and packages."""
    machine = _SAME_MACHINE.get(facts.machine, facts.machine)
    is_known = machine in _MACHINES and facts.system.startswith("Linux")
    where = {"machine": machine, "system": facts.system}
    yield Package.MACHINE.ok(**where) if is_known else Package.UNKNOWN_MACHINE.problem(**where)
    python = {"version": facts.python, "executable": facts.executable}
    if facts.wanted_python and not is_within(facts.python, facts.wanted_python):
        yield Package.OTHER_PYTHON.problem(**python, wanted=facts.wanted_python)
    else:
        yield Package.PYTHON.ok(**python)
    for name, origin in facts.origins.items():
        version = facts.installed.get(name.replace("_", "-"), "?")
        yield Package.IMPORTED.ok(name=name, version=version, origin=str(Path(origin).parent))
    yield from version_findings(facts.installed)
    yield from (Package.OTHER_COPY.problem(**copy._asdict()) for copy in facts.other_copies)
    yield from _binary_findings(facts, machine)
    yield from _index_findings(facts.index)


def version_findings(installed: Mapping[str, str]) -> Iterator[Finding]:
    """Packages that are missing, or of releases that do not belong together.

    Args:
        installed: From `versions.installed_versions`.
    """
    yield from (Package.MISSING.problem(name=name) for name in versions.PYTHON_PACKAGES
                if name not in installed)
    mindspore, mindformers = (installed.get(name) for name in versions.PYTHON_PACKAGES)
    if not mindspore or not mindformers:
        return
    pair = versions.pair_with(mindformers=mindformers)
    if pair is None:
        code = Package.NOT_TESTED if versions.is_published(mindformers) else Package.NOT_PUBLISHED
        yield code.problem(version=mindformers, **versions.WINDOW)
    elif versions.pair_with(mindspore=mindspore) != pair:
        yield Package.OTHER_PAIR.problem(mindformers=mindformers, mindspore=mindspore, wanted=pair.mindspore)


def _binary_findings(facts: PackageFacts, machine: str) -> Iterator[Finding]:
    if "mindspore" not in facts.origins:
        return
    if facts.binaries is None:
        yield Package.NO_BINARIES.problem(folder=str(Path(facts.origins["mindspore"]).parent))
    elif facts.binaries != machine:
        yield Package.OTHER_BINARIES.problem(found=facts.binaries, machine=machine)
    else:
        yield Package.BINARIES.ok(machine=machine)


def _index_findings(index: str | None) -> Iterator[Finding]:
    if index is None:
        yield Package.INDEX_UNKNOWN.warning()
        return
    hosts = index_hosts(index)
    yield Package.INDEX.ok(hosts=hosts) if hosts else Package.NO_INDEX.ok()


def index_hosts(settings: str) -> list[str]:
    """Hosts of the indexes in `pip config list`; never their paths, names or passwords.

    Args:
        settings: Its lines, `global.index-url='https://HOST/simple'`, or with a password before HOST.
    """
    hosts = []
    for match in filter(None, map(_INDEX_LINE.fullmatch, settings.splitlines())):
        for address in match["value"].split():
            try:
                host = urllib.parse.urlsplit(address).hostname
            except ValueError:
                host = "?"
            hosts.append(host or "file://")
    return list(dict.fromkeys(hosts))

"""CANN, its environment, and the driver and firmware below it. Read from files and variables only."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from research_internlm.machine.finding import PROBLEM, Code, Finding, Topic
from research_internlm.shared.versions import cann_version, pair_with

ROOTS = ("/usr/local/Ascend", "~/Ascend")  # where CANN's installer goes, with and without root
_TOOLKITS = ("ascend-toolkit", "cann", "cann-*")  # ascend-toolkit/latest until 8.3, cann since 8.5
_TOOLKIT_PATH = re.compile(r"(.*/(?:ascend-toolkit/[^/]+|cann(?:-[^/]+)?))(?:/|$)")


class Cann(Code):
    """What can be found about CANN."""

    NOT_NEEDED = (Topic.CANN, "none here, and none is needed without an NPU", "未安装；没有 NPU 时也不需要")
    INSTALLED = (
        Topic.CANN,
        "{version} here ({home}), not needed without an NPU",
        "已安装 {version}（{home}）；没有 NPU 时不需要")
    MISSING = (
        Topic.CANN,
        "no CANN found (compiler/version.info under ASCEND_HOME_PATH): install CANN {wanted} and source "
        "its set_env.sh",
        "没有找到 CANN（ASCEND_HOME_PATH 下的 compiler/version.info）：请安装 CANN {wanted} 并 source 其 "
        "set_env.sh")
    OTHER_VERSION = (
        Topic.CANN,
        "MindSpore {mindspore} runs on CANN {accepted}, but {version} is installed",
        "MindSpore {mindspore} 需要 CANN {accepted}，但安装的是 {version}")
    NOT_SET = (
        Topic.CANN,
        "the environment is not set (no ASCEND_HOME_PATH): source {script}, and put that line into "
        "~/.bashrc",
        "环境变量未设置（没有 ASCEND_HOME_PATH）：请 source {script}，并把这一行写入 ~/.bashrc")
    NO_HOME = (
        Topic.CANN,
        "ASCEND_HOME_PATH is {home}, which is no folder: source the set_env.sh of the installed CANN in a "
        "new shell",
        "ASCEND_HOME_PATH 为 {home}，但该目录不存在：请在新的 shell 中 source 已安装 CANN 的 set_env.sh")
    NO_LIBRARIES = (
        Topic.CANN,
        "ASCEND_HOME_PATH is {home}, but LD_LIBRARY_PATH holds none of its folders: source its set_env.sh "
        "(setting ASCEND_HOME_PATH by hand is not enough)",
        "ASCEND_HOME_PATH 为 {home}，但 LD_LIBRARY_PATH 中没有它的目录：请 source 其 set_env.sh（只手动设"
        "置 ASCEND_HOME_PATH 不够）")
    NO_OPERATORS = (
        Topic.CANN,
        "ASCEND_OPP_PATH (the operators) is {opp}: source CANN's set_env.sh",
        "ASCEND_OPP_PATH（算子目录）为 {opp}：请 source CANN 的 set_env.sh")
    TWO = (
        Topic.CANN,
        "the environment holds a second CANN: {variable} names {other}, ASCEND_HOME_PATH {home}; source "
        "one set_env.sh in a new shell",
        "环境中有第二个 CANN：{variable} 指向 {other}，而 ASCEND_HOME_PATH 为 {home}；请在新的 shell 中只 "
        "source 一个 set_env.sh")
    OTHER_MACHINE = (
        Topic.CANN,
        "{home} is built for {arch}, this machine is {machine}: install CANN for {machine}",
        "{home} 是为 {arch} 构建的，而本机是 {machine}：请安装 {machine} 版本的 CANN")
    SET = (Topic.CANN, "{version}, environment set ({home})", "{version}，环境变量已设置（{home}）")
    DRIVER = (Topic.DRIVER, "driver {driver}, firmware {firmware}", "驱动 {driver}，固件 {firmware}")
    TWO_DRIVERS = (
        Topic.DRIVER,
        "npu-smi reports driver {smi}, {file} says {driver}: after an update the machine needs a restart; "
        "in a container, mount the host's driver",
        "npu-smi 报告驱动 {smi}，而 {file} 写的是 {driver}：升级后需要重启机器；在容器中请挂载宿主机的驱动")
    NO_DRIVER = (
        Topic.DRIVER,
        "no {file}, so the driver's version is not known; in a container, mount it from the host",
        "没有 {file}，驱动版本未知；在容器中请从宿主机挂载该文件")


@dataclass(frozen=True)
class CannFacts:
    """What was read; paths as the environment has them, None where a variable is not set.

    Attributes:
        version: CANN's version, None where none was found.
        home: ASCEND_HOME_PATH.
        toolkit_home: ASCEND_TOOLKIT_HOME.
        opp: ASCEND_OPP_PATH.
        libraries: The folders of LD_LIBRARY_PATH.
        arch: Machine type CANN was built for, None where it is not said.
        scripts: Each set_env.sh found.
        driver: Version of the installed driver, None where its file is missing.
        firmware: The same of the firmware, which containers usually do not show.
    """

    version: str | None
    home: str | None
    toolkit_home: str | None
    opp: str | None
    libraries: tuple[str, ...]
    arch: str | None
    scripts: tuple[str, ...]
    driver: str | None
    firmware: str | None


def read(roots: Sequence[str] = ROOTS) -> CannFacts:
    """Reads variables and files.

    Args:
        roots: Folders to look for CANN, driver and firmware in.
    """
    places = [Path(root).expanduser() for root in roots]
    variables = [os.environ.get(name) or None
                 for name in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME", "ASCEND_OPP_PATH")]
    libraries = tuple(filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":")))
    scripts = [script for place in places for name in _TOOLKITS
               for script in sorted(place.glob(f"{name}/set_env.sh"))]
    arch = next((value for file in sorted(Path(variables[0]).glob("*-linux/ascend_toolkit_install.info"))
                 if (value := value_in(file, "arch"))), None) if variables[0] else None
    versions = [next((value for place in places
                      if (value := value_in(place / name / "version.info", "version"))), None)
                for name in ("driver", "firmware")]
    return CannFacts(cann_version(), *variables, libraries, arch, tuple(map(str, scripts)), *versions)


def value_in(file: Path, key: str) -> str | None:
    """A value of CANN's `key=value` files (version.info, ascend_toolkit_install.info); keys in any case."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    found = (line.partition("=") for line in lines)
    return next((value.strip() for name, _, value in found if name.strip().lower() == key), None) or None


def findings(facts: CannFacts, mindspore: str | None, has_npu: bool, smi_driver: str | None = None
             ) -> Iterator[Finding]:
    """CANN and driver as the doctor shows them.

    Args:
        facts: What was read.
        mindspore: MindSpore's version.
        has_npu: Without an NPU nothing of this is needed.
        smi_driver: The driver's version as npu-smi has it.
    """
    if not has_npu:
        yield (Cann.INSTALLED.ok(version=facts.version, home=facts.home or "-") if facts.version
               else Cann.NOT_NEEDED.ok())
        return
    found = [*version_findings(mindspore, facts.version), *environment_findings(facts)]
    if not any(finding.level == PROBLEM for finding in found):
        yield Cann.SET.ok(version=facts.version or "?", home=facts.home or "-")
    yield from found
    file = f"{ROOTS[0]}/driver/version.info"
    if facts.driver is None and smi_driver is None:
        yield Cann.NO_DRIVER.warning(file=file)
    elif facts.driver and smi_driver and facts.driver != smi_driver:
        yield Cann.TWO_DRIVERS.warning(smi=smi_driver, file=file, driver=facts.driver)
    else:
        yield Cann.DRIVER.ok(driver=facts.driver or smi_driver, firmware=facts.firmware or "?")


def version_findings(mindspore: str | None, cann: str | None) -> Iterator[Finding]:
    """A CANN that is missing or of a release that MindSpore does not run on; MindSpore says which it does."""
    pair = pair_with(mindspore=mindspore)
    if pair is None:
        return
    if cann is None:
        yield Cann.MISSING.problem(wanted=pair.cann)
    elif ".".join(cann.split(".")[:2]) not in pair.accepted_cann:
        yield Cann.OTHER_VERSION.problem(mindspore=pair.mindspore, accepted=" or ".join(pair.accepted_cann),
                                         version=cann)


def environment_findings(facts: CannFacts) -> Iterator[Finding]:
    """What of set_env.sh's work is missing or contradicts itself, where there is a CANN at all."""
    if facts.home is None:
        if facts.scripts:
            yield Cann.NOT_SET.problem(script=facts.scripts[0])
        elif facts.version is not None:
            yield Cann.NOT_SET.problem(script="set_env.sh")
        return
    if not Path(facts.home).is_dir():
        yield Cann.NO_HOME.problem(home=facts.home)
        return
    home = Path(facts.home).resolve()
    if not any(Path(folder).resolve().is_relative_to(home) for folder in facts.libraries):
        yield Cann.NO_LIBRARIES.problem(home=facts.home)
    if facts.opp is None or not Path(facts.opp).is_dir():
        yield Cann.NO_OPERATORS.problem(opp=facts.opp or "-")
    others = {"ASCEND_TOOLKIT_HOME": facts.toolkit_home,
              "LD_LIBRARY_PATH": next((other for other in map(_toolkit_of, facts.libraries)
                                       if other and Path(other).resolve() != home), None)}
    for variable, other in others.items():
        if other and Path(other).resolve() != home:
            yield Cann.TWO.warning(variable=variable, other=other, home=facts.home)
    machine = platform.machine()
    if facts.arch and facts.arch != machine:
        yield Cann.OTHER_MACHINE.problem(home=facts.home, arch=facts.arch, machine=machine)


def _toolkit_of(folder: str) -> str | None:
    """The toolkit a library folder belongs to, by its path."""
    match = _TOOLKIT_PATH.match(folder)
    return match[1] if match else None

"""What others set around a training: variables of a job system, HCCL's settings, and the network's links."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from research_internlm.machine.finding import Code, Finding, Topic
from research_internlm.machine.programs import ask
from research_internlm.shared.process_role import JOB_VARIABLES

_NPU_VARIABLES = ("DEVICE_ID", "ASCEND_RT_VISIBLE_DEVICES")  # they choose NPUs, and describe no job
_CONNECT_SECONDS = (120, 7200)  # range of HCCL_CONNECT_TIMEOUT in CANN's documentation
_HCCN_TOOL = "/usr/local/Ascend/driver/tools/hccn_tool"
_HCCN_SECONDS = 3


class Around(Code):
    """What can be found around a training."""

    NO_JOB = (
        Topic.VARIABLES,
        "no variable of another job (MS_ROLE, RANK_ID, ...)",
        "没有其他作业的环境变量（MS_ROLE、RANK_ID 等）")
    JOB = (
        Topic.VARIABLES,
        "{variables}: something else (a job system, an earlier shell) describes a job of several "
        "processes here. The toolkit's commands do not use them, other programs do: unset {names}",
        "{variables}：其他程序（作业系统或之前的 shell）在这里描述了一个多进程作业。本工具的命令不使用它们，"
        "但其他程序会用：unset {names}")
    NO_RANK_TABLE = (
        Topic.VARIABLES,
        "RANK_TABLE_FILE names {file}, which is not there: unset RANK_TABLE_FILE (msrun needs none)",
        "RANK_TABLE_FILE 指向的 {file} 不存在：unset RANK_TABLE_FILE（msrun 不需要它）")
    CHOICE = (Topic.VARIABLES, "{variables} chooses NPUs", "{variables} 指定了所用的 NPU")
    HCCL = (Topic.HCCL, "{variables}", "{variables}")
    NO_HCCL = (Topic.HCCL, "no HCCL_* variable: defaults", "没有 HCCL_* 变量：使用默认值")
    TIMEOUT = (
        Topic.HCCL,
        "HCCL_CONNECT_TIMEOUT is {value}, but must be a whole number of seconds from {least} to {most}: "
        "export HCCL_CONNECT_TIMEOUT=1800",
        "HCCL_CONNECT_TIMEOUT 为 {value}，但必须是 {least} 到 {most} 之间的整数秒：export "
        "HCCL_CONNECT_TIMEOUT=1800")
    INTERFACE = (
        Topic.HCCL,
        "HCCL_SOCKET_IFNAME is {value}, but the network interfaces here are {found}: correct or unset it",
        "HCCL_SOCKET_IFNAME 为 {value}，但本机的网卡是 {found}：请更正或 unset")
    LINKS_UP = (Topic.HCCL, "network links of {count} NPU(s) up", "{count} 张 NPU 的网口已连通")
    LINKS_DOWN = (
        Topic.HCCL,
        "network link of NPU {devices} down: no matter on one machine, but several machines cannot train "
        "together (hccn_tool -i N -link -g)",
        "NPU {devices} 的网口未连通：单机训练不受影响，但多机无法一起训练（hccn_tool -i N -link -g）")
    ADDRESSES = (
        Topic.HCCL,
        "/etc/hccn.conf gives {count} network address(es) of NPUs",
        "/etc/hccn.conf 中有 {count} 个 NPU 网络地址")


@dataclass(frozen=True)
class SurroundingFacts:
    """What was read.

    Attributes:
        job: Job variables (process_role.JOB_VARIABLES) that are set.
        choice: Variables that choose NPUs.
        hccl: HCCL_* variables.
        has_rank_table: Whether the file of RANK_TABLE_FILE is there.
        interfaces: Network interfaces.
        addresses: Addresses in /etc/hccn.conf; None where it is missing.
        links: Device number -> whether its network link is up; only those that hccn_tool knows of.
    """

    job: Mapping[str, str]
    choice: Mapping[str, str]
    hccl: Mapping[str, str]
    has_rank_table: bool
    interfaces: tuple[str, ...]
    addresses: int | None
    links: Mapping[int, bool]


def read(devices: int, configuration: str | Path = "/etc/hccn.conf") -> SurroundingFacts:
    """Reads variables and files, and asks hccn_tool for each device's link.

    Args:
        devices: Number of NPU devices.
        configuration: The file of the NPUs' network addresses.
    """
    chosen = [{name: os.environ[name] for name in names if name in os.environ}
              for names in (JOB_VARIABLES, _NPU_VARIABLES, sorted(filter(_is_hccl, os.environ)))]
    try:
        lines = Path(configuration).read_text(encoding="utf-8", errors="replace").splitlines()
        addresses = sum(line.strip().startswith("address_") for line in lines)
    except OSError:
        addresses = None
    net = Path("/sys/class/net")
    interfaces = tuple(sorted(path.name for path in net.iterdir())) if net.is_dir() else ()
    has_rank_table = Path(chosen[0].get("RANK_TABLE_FILE", "")).is_file()
    return SurroundingFacts(*chosen, has_rank_table, interfaces, addresses, _links(devices))


def _is_hccl(name: str) -> bool:
    return name.startswith("HCCL_")


def _links(devices: int) -> dict[int, bool]:
    command = shutil.which("hccn_tool") or _HCCN_TOOL
    if not devices or not Path(command).is_file():
        return {}

    def is_up(device: int) -> bool | None:
        try:
            answer = ask([command, "-i", str(device), "-link", "-g"], _HCCN_SECONDS).text.lower()
        except OSError:
            return None
        return True if "status: up" in answer else False if "status: down" in answer else None

    with ThreadPoolExecutor(devices) as pool:
        return {device: up for device, up in enumerate(pool.map(is_up, range(devices))) if up is not None}


def findings(facts: SurroundingFacts) -> Iterator[Finding]:
    """Variables and network."""
    yield from _job_findings(facts)
    yield from _hccl_findings(facts)
    if facts.addresses is not None:
        yield Around.ADDRESSES.ok(count=facts.addresses)
    if down := [device for device, up in facts.links.items() if not up]:
        yield Around.LINKS_DOWN.warning(devices=down)
    elif facts.links:
        yield Around.LINKS_UP.ok(count=len(facts.links))


def _job_findings(facts: SurroundingFacts) -> Iterator[Finding]:
    if facts.job:
        yield Around.JOB.warning(variables=_written(facts.job), names=" ".join(facts.job))
    else:
        yield Around.NO_JOB.ok()
    if "RANK_TABLE_FILE" in facts.job and not facts.has_rank_table:
        yield Around.NO_RANK_TABLE.warning(file=facts.job["RANK_TABLE_FILE"])
    if facts.choice:
        yield Around.CHOICE.ok(variables=_written(facts.choice))


def _hccl_findings(facts: SurroundingFacts) -> Iterator[Finding]:
    yield Around.HCCL.ok(variables=_written(facts.hccl)) if facts.hccl else Around.NO_HCCL.ok()
    value = facts.hccl.get("HCCL_CONNECT_TIMEOUT")
    least, most = _CONNECT_SECONDS
    if value is not None and not (value.isascii() and value.isdigit() and least <= int(value[:9]) <= most):
        yield Around.TIMEOUT.problem(value=value, least=least, most=most)
    value = facts.hccl.get("HCCL_SOCKET_IFNAME", "")
    # "eth,bond" names beginnings, "=eth0" whole names, "^docker" those to leave out.
    names = [] if value.startswith("^") else list(filter(None, value.removeprefix("=").split(",")))
    matches = str.__eq__ if value.startswith("=") else str.startswith
    is_known = any(matches(found, name) for found in facts.interfaces for name in names)
    if names and facts.interfaces and not is_known:
        yield Around.INTERFACE.problem(value=value, found=facts.interfaces)


def _written(variables: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in variables.items())

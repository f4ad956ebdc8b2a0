"""The computer itself: cores, memory, /dev/shm, limits, disk, character encoding and clock."""

from __future__ import annotations

import contextlib
import locale
import os
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from research_internlm.machine.finding import Code, Finding, Topic
from research_internlm.machine.programs import ask
from research_internlm.shared.versions import imported_from

GIB, MIB = 1 << 30, 1 << 20
_ROOT = Path(__file__).resolve().parents[2]
_LEAST_FILES = 1024  # the usual default of a login
_CHECKPOINT = 14_700_000_000  # bytes of InternLM-7B in fp16: 2 x 7,321,948,160 parameters
# A rule of ours: Docker gives 64 MB, in which collective communication and data workers run out of room.
_LEAST_SHM, _ENOUGH_SHM = 32 * MIB, GIB
_CLOCK_SECONDS = 120  # file servers' clocks differ by that much
_GIT_SECONDS = 2


class Host(Code):
    """What can be found about the computer."""

    MEMORY = (
        Topic.MEMORY,
        "{cores} cores, {total:.0f} GiB, {free:.0f} GiB of it available",
        "{cores} 核，内存 {total:.0f} GiB，可用 {free:.0f} GiB")
    LITTLE_MEMORY = (
        Topic.MEMORY,
        "{cores} cores, {total:.0f} GiB, only {free:.1f} GiB of it available: end other programs",
        "{cores} 核，内存 {total:.0f} GiB，可用仅 {free:.1f} GiB：请结束其他程序")
    SHM = (
        Topic.MEMORY,
        "/dev/shm {total:.1f} GiB, {free:.1f} GiB free",
        "/dev/shm {total:.1f} GiB，空闲 {free:.1f} GiB")
    SMALL_SHM = (
        Topic.MEMORY,
        "/dev/shm has {free:,} MiB free of {total:,} MiB (Docker gives 64), and workers exchange data "
        "there: start the container with --shm-size=16g, or remove what is left in /dev/shm",
        "/dev/shm 共 {total:,} MiB，空闲 {free:,} MiB（Docker 默认 64），而各 worker 要在其中交换数据：请"
        "用 --shm-size=16g 启动容器，或清理 /dev/shm 中的残留文件")
    NO_SHM = (
        Topic.MEMORY,
        "no /dev/shm, in which workers exchange data: mount one (container option --shm-size=16g)",
        "没有 /dev/shm，而各 worker 要在其中交换数据：请挂载（容器参数 --shm-size=16g）")
    LIMITS = (
        Topic.LIMITS,
        "open files {files}, processes {processes}, locked memory {locked}",
        "打开文件数 {files}，进程数 {processes}，锁定内存 {locked}")
    FEW_FILES = (
        Topic.LIMITS,
        "only {files} open files are allowed: ulimit -n 65535 (the hard limit is {most})",
        "只允许打开 {files} 个文件：请执行 ulimit -n 65535（硬上限为 {most}）")
    DISK = (Topic.DISK, "{free:,.1f} GB free in {folder}", "{folder} 空闲 {free:,.1f} GB")
    LITTLE_DISK = (
        Topic.DISK,
        "{free:,.1f} GB free in {folder}, less than one checkpoint of InternLM-7B ({needed:.1f} GB): "
        "choose a larger disk with --output_dir (internlm plan says what a run needs)",
        "{folder} 空闲 {free:,.1f} GB，放不下一个 InternLM-7B 检查点（{needed:.1f} GB）：请用 "
        "--output_dir 换到更大的磁盘（internlm plan 会给出所需空间）")
    LOCKED_DISK = (
        Topic.DISK,
        "{folder} may not be written to: choose another --output_dir",
        "{folder} 不可写：请换一个 --output_dir")
    LOCALE = (Topic.LOCALE, "{encoding}", "{encoding}")
    OTHER_LOCALE = (
        Topic.LOCALE,
        "{encoding} is not UTF-8, so Chinese text shows as escapes: export LC_ALL=C.UTF-8",
        "{encoding} 不是 UTF-8，中文会显示为转义符：请执行 export LC_ALL=C.UTF-8")
    CLOCK = (Topic.CLOCK, "{now}", "{now}")
    CLOCK_BEHIND = (
        Topic.CLOCK,
        "{now} is before {newest}, when {what} was written: the clock is wrong; OBS and https refuse a "
        "wrong time, and runs are sorted by it. Set it (date -s, or ask for the host's)",
        "{now} 早于 {newest}（{what} 的写入时间）：时钟不对；OBS 和 https 会拒绝错误的时间，训练记录也按时"
        "间排序。请校正（date -s，或联系宿主机管理员）")


@dataclass(frozen=True)
class HostFacts:
    """What was read; sizes in bytes, times in seconds since 1970.

    Attributes:
        cores: Cores this process may use.
        memory: Memory of the machine, or of the container where that is less.
        available: Of it, what can be had.
        shm: Size and free bytes of /dev/shm, None where there is none.
        limits: Soft limit of open files, processes and locked memory; None for no limit.
        most_files: Hard limit of open files; None for no limit.
        output: The output folder.
        is_writable: Whether it, or the nearest folder above it that is there, can be written to.
        free: Free bytes there.
        encoding: Of texts in this environment.
        now: The clock.
        newest: What of the installation was written last, and when; None where nothing is found.
    """

    cores: int
    memory: int
    available: int
    shm: tuple[int, int] | None
    limits: tuple[int | None, int | None, int | None]
    most_files: int | None
    output: str
    is_writable: bool
    free: int
    encoding: str
    now: float
    newest: tuple[str, float] | None


def read(output: str | Path) -> HostFacts:
    """Reads what the system tells, and asks git for the time of the last commit.

    Args:
        output: The output folder; it is not made.
    """
    kinds = (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC, resource.RLIMIT_MEMLOCK)
    limits = [tuple(None if value == resource.RLIM_INFINITY else value for value in resource.getrlimit(kind))
              for kind in kinds]
    output = Path(output).absolute()
    place = next(folder for folder in (output, *output.parents) if folder.exists())
    newest = max(_times(), key=lambda entry: entry[1], default=None)
    is_writable = place.is_dir() and os.access(place, os.W_OK | os.X_OK)
    return HostFacts(
        len(os.sched_getaffinity(0)), *read_memory(), read_shm(), tuple(soft for soft, _ in limits),
        limits[0][1], str(output), is_writable, shutil.disk_usage(place).free,
        # Python's UTF-8 mode makes up for a C locale.
        "utf-8" if sys.flags.utf8_mode else locale.getpreferredencoding(False), time.time(), newest)


def read_memory(proc: str | Path = "/proc", cgroup: str | Path = "/sys/fs/cgroup") -> tuple[int, int]:
    """Memory and what of it is available, in bytes; a container's limit counts where it is lower."""
    lines = (Path(proc) / "meminfo").read_text(encoding="utf-8").splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.split()[1:]}
    total, available = sizes["MemTotal"], sizes.get("MemAvailable", sizes["MemFree"])
    for limit, usage in (("memory.max", "memory.current"),
                         ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")):  # cgroup 2 and 1
        with contextlib.suppress(OSError, ValueError):  # "max" is no number
            most, used = (int((Path(cgroup) / name).read_text()) for name in (limit, usage))
            if most < total:
                total, available = most, min(available, max(0, most - used))
    return total, available


def read_shm(folder: str | Path = "/dev/shm") -> tuple[int, int] | None:
    """Size and free bytes of /dev/shm; None where there is none."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return None
    return usage.total, usage.free


def _times() -> Iterator[tuple[str, float]]:
    """When what is installed here was written: files by their date, the last commit by git's."""
    for origin in imported_from().values():
        with contextlib.suppress(OSError):
            yield origin, os.stat(origin).st_mtime
    with contextlib.suppress(OSError, ValueError):
        answer = ask(["git", "-C", str(_ROOT), "log", "-1", "--format=%ct"], _GIT_SECONDS)
        yield "the last commit of the toolkit", float(answer.text)


def findings(facts: HostFacts) -> Iterator[Finding]:
    """The computer as the doctor shows it."""
    memory = {"cores": facts.cores, "total": facts.memory / GIB, "free": facts.available / GIB}
    yield Host.LITTLE_MEMORY.warning(**memory) if facts.available < 2 * GIB else Host.MEMORY.ok(**memory)
    yield from shm_findings(facts.shm)
    files, processes, locked = ("unlimited" if limit is None else limit for limit in facts.limits)
    if facts.limits[0] is not None and facts.limits[0] < _LEAST_FILES:
        most = "unlimited" if facts.most_files is None else facts.most_files
        yield Host.FEW_FILES.warning(files=files, most=most)
    else:
        yield Host.LIMITS.ok(files=files, processes=processes, locked=locked)
    disk = {"folder": facts.output, "free": facts.free / 1e9}
    if not facts.is_writable:
        yield Host.LOCKED_DISK.problem(folder=facts.output)
    elif facts.free < _CHECKPOINT:
        yield Host.LITTLE_DISK.warning(**disk, needed=_CHECKPOINT / 1e9)
    else:
        yield Host.DISK.ok(**disk)
    is_utf8 = facts.encoding.lower().replace("-", "") == "utf8"
    yield (Host.LOCALE.ok if is_utf8 else Host.OTHER_LOCALE.warning)(encoding=facts.encoding)
    now = _date(facts.now)
    if facts.newest and facts.newest[1] > facts.now + _CLOCK_SECONDS:
        yield Host.CLOCK_BEHIND.problem(now=now, newest=_date(facts.newest[1]), what=facts.newest[0])
    else:
        yield Host.CLOCK.ok(now=now)


def shm_findings(shm: tuple[int, int] | None) -> Iterator[Finding]:
    """Room in /dev/shm.

    Args:
        shm: From `read_shm`.
    """
    if shm is None:
        yield Host.NO_SHM.problem()
        return
    total, free = shm
    if free >= _ENOUGH_SHM:
        yield Host.SHM.ok(total=total / GIB, free=free / GIB)
        return
    sizes = {"total": total // MIB, "free": free // MIB}
    yield Host.SMALL_SHM.problem(**sizes) if free < _LEAST_SHM else Host.SMALL_SHM.warning(**sizes)


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(seconds))

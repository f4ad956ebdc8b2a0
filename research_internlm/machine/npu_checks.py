"""Whether the NPUs are there, healthy, free and large enough."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from research_internlm.machine.finding import OK, PROBLEM, WARNING, Code, Finding, Topic
from research_internlm.machine.npu_smi import Chip, ChipProcess, SmiPage
from research_internlm.machine.npus import NpuFacts, page_of

# An idle chip shows 2,900 to 3,450 MB in use: the driver's (public logs of releases 24.1.rc1 to 26.0.rc1).
_IDLE_MB = 5000
RECIPE_MB = 58 * 1024  # context.max_device_memory of the 7B recipes; checked by a test
_OCCUPIED = "-8020"  # dcmi's code for a device that another container has


class Npu(Code):
    """What can be found about the NPUs."""

    NONE = (
        Topic.NPU,
        "none here (no /dev/davinciN, no npu-smi): rehearsal on the CPU only",
        "本机没有 NPU（没有 /dev/davinciN，也没有 npu-smi）：只能在 CPU 上演练")
    NO_DEVICES = (
        Topic.NPU,
        "npu-smi is here, but no /dev/davinciN: if this is a container, start it with the devices "
        "(--device /dev/davinci0 ...); otherwise rehearsal on the CPU only",
        "有 npu-smi，但没有 /dev/davinciN：如果这是容器，请在启动时挂载设备（--device /dev/davinci0 ...）；"
        "否则只能在 CPU 上演练")
    TOO_FEW = (
        Topic.NPU,
        "{workers} workers need {workers} NPUs, but this machine shows {count} ({devices})",
        "{workers} 个 worker 需要 {workers} 张 NPU，但本机只有 {count} 张（{devices}）")
    TOO_FEW_VISIBLE = (
        Topic.NPU,
        "{workers} workers need {workers} NPUs, but this machine shows {count} ({devices}) and "
        "ASCEND_RT_VISIBLE_DEVICES is {visible}",
        "{workers} 个 worker 需要 {workers} 张 NPU，但本机有 {count} 张（{devices}），而 "
        "ASCEND_RT_VISIBLE_DEVICES 为 {visible}")
    NOT_ASKED = (
        Topic.NPU,
        "{count} device(s) ({devices}), but no npu-smi to ask for health, memory and processes: put the "
        "driver's tools on PATH, or mount them into the container",
        "有 {count} 个设备（{devices}），但没有 npu-smi，无法查询健康状态、显存和进程：请把驱动工具加入 "
        "PATH，或挂载到容器中")
    NO_ANSWER = (
        Topic.NPU,
        "npu-smi info did not answer in time, so health, memory and processes are not known: try it by "
        "hand; if it hangs, the driver does, and the machine needs a restart",
        "npu-smi info 没有在限定时间内返回，健康状态、显存和进程未知：请手动运行一次；如果一直卡住，说明驱"
        "动已卡死，需要重启机器")
    REFUSED = (
        Topic.NPU,
        "npu-smi info failed ({message}): the driver does not answer; if this is a container, check that "
        "driver and devices are mounted",
        "npu-smi info 失败（{message}）：驱动没有响应；如果这是容器，请检查驱动和设备是否已挂载")
    OCCUPIED = (
        Topic.NPU,
        "npu-smi info failed ({message}): another container has the same NPUs; stop it, or start this "
        "container with other devices",
        "npu-smi info 失败（{message}）：同一批 NPU 已被另一个容器占用；请停止那个容器，或给本容器换用其他"
        "设备")
    UNREAD = (
        Topic.NPU,
        "{count} line(s) of npu-smi info could not be read, look at them yourself: {lines}",
        "npu-smi info 有 {count} 行无法解析，请自行查看：{lines}")
    NO_CHIPS = (
        Topic.NPU,
        "npu-smi info lists no NPU, but there are {count} device(s) ({devices}): try it by hand",
        "npu-smi info 没有列出任何 NPU，但有 {count} 个设备（{devices}）：请手动运行一次")
    COUNT_DIFFERS = (
        Topic.NPU,
        "npu-smi info lists {listed} chip(s), but {count} device(s) ({devices}) can be used here",
        "npu-smi info 列出 {listed} 个芯片，但这里能使用的设备有 {count} 个（{devices}）")
    NO_PROCESS_TABLE = (
        Topic.NPU,
        "the process table of npu-smi info is missing: whether others use the NPUs is not known",
        "npu-smi info 缺少进程表：无法知道是否有人在使用这些 NPU")
    STRAY = (
        Topic.NPU,
        "npu-smi info shows processes on chips that it does not list: {processes}",
        "npu-smi info 显示的一些进程所在的芯片没有列出：{processes}")
    FREE = (
        Topic.NPU,
        "{count} x {name} healthy and free: {places} (at most {used:,} of {total:,} MB in use)",
        "{count} 张 {name} 健康且空闲：{places}（最多已用 {used:,} / {total:,} MB）")
    HEALTH = (
        Topic.NPU,
        "NPU {place} ({name}) reports {health}: see npu-smi info -t health -i {npu}; a restart of the "
        "notebook or another machine may help",
        "NPU {place}（{name}）状态为 {health}：请运行 npu-smi info -t health -i {npu} 查看；可尝试重启 "
        "notebook 或换一台机器")
    HEALTH_UNKNOWN = (
        Topic.NPU,
        "the health of NPU {place} ({name}) could not be read from npu-smi info",
        "无法从 npu-smi info 读出 NPU {place}（{name}）的健康状态")
    MEMORY_UNKNOWN = (
        Topic.NPU,
        "the memory of NPU {place} ({name}) could not be read from npu-smi info",
        "无法从 npu-smi info 读出 NPU {place}（{name}）的显存")
    BUSY = (
        Topic.NPU,
        "NPU {place} ({name}, {used} of {total} MB in use) is used by {processes}: wait, end them, or "
        "choose other NPUs with ASCEND_RT_VISIBLE_DEVICES",
        "NPU {place}（{name}，已用 {used} / {total} MB）正被 {processes} 使用：请等待、结束这些进程，或用 "
        "ASCEND_RT_VISIBLE_DEVICES 选择其他 NPU")
    FULL = (
        Topic.NPU,
        "NPU {place} ({name}) has {used:,} of {total:,} MB in use and shows no process (another "
        "container's?): MindSpore refuses a card with less than half of its memory free; choose other "
        "NPUs with ASCEND_RT_VISIBLE_DEVICES",
        "NPU {place}（{name}）已用 {used:,} / {total:,} MB，却没有显示进程（可能属于其他容器）：空闲显存不"
        "足一半时 MindSpore 会拒绝启动；请用 ASCEND_RT_VISIBLE_DEVICES 选择其他 NPU")
    IN_USE = (
        Topic.NPU,
        "NPU {place} ({name}) has {used:,} of {total:,} MB in use and shows no process; an idle one has "
        "about 3,400 MB in use: another container may be using it",
        "NPU {place}（{name}）已用 {used:,} / {total:,} MB，却没有显示进程；空闲时约为 3,400 MB：可能有其"
        "他容器在使用")
    SMALL = (
        Topic.NPU,
        "{name} has {total:,} MB, but max_device_memory asks for {wanted:,} MB: set "
        "context.max_device_memory below the card's memory and runner_config.batch_size to 1 or 2 "
        "(internlm plan estimates the need)",
        "{name} 有 {total:,} MB 显存，而 max_device_memory 要求 {wanted:,} MB：请把 "
        "context.max_device_memory 设得比显存小，并把 runner_config.batch_size 设为 1 或 2（internlm plan "
        "可估算所需显存）")


def findings(facts: NpuFacts) -> Iterator[Finding]:
    """The NPUs as a whole: nothing is about to be started, so a card in use is no problem yet."""
    if not facts.devices:
        yield Npu.NONE.ok() if facts.answer is None else Npu.NO_DEVICES.warning()
    page = page_of(facts)
    yield from _answer_findings(facts, page)
    if page is None:
        return
    if facts.devices and len(page.chips) != len(facts.devices):
        yield (Npu.COUNT_DIFFERS.warning(listed=len(page.chips), **facts.values) if page.chips
               else Npu.NO_CHIPS.warning(**facts.values))
    if page.chips:
        yield from _chip_findings(page, page.chips, WARNING)
        yield from size_findings(page.chips, RECIPE_MB)


def start_findings(facts: NpuFacts, workers: int, wanted: int | None) -> Iterator[Finding]:
    """The NPUs that workers are about to use.

    Args:
        facts: What was read.
        workers: Workers of this machine.
        wanted: `max_device_memory` of the recipe in MB, or None.
    """
    visible = len([part for part in (facts.visible or "").split(",") if part.strip()])
    if min(visible or len(facts.devices), len(facts.devices)) < workers:
        code = Npu.TOO_FEW_VISIBLE if facts.visible else Npu.TOO_FEW
        yield code.problem(workers=workers, visible=facts.visible, **facts.values)
        return
    page = page_of(facts)
    yield from _answer_findings(facts, page)
    if page is None:
        return
    if not page.chips:
        yield Npu.NO_CHIPS.warning(**facts.values)
        return
    chips = facts.chosen_chips(page.chips, workers)
    if chips is None:  # which of the listed chips are meant is not known, so none of them prevents the start
        yield Npu.COUNT_DIFFERS.warning(listed=len(page.chips), **facts.values)
        found = [*_chip_findings(page, page.chips, WARNING)]
        yield from (replace(finding, level=WARNING) for finding in found if finding.level != OK)
    else:
        yield from _chip_findings(page, chips, PROBLEM)
    if wanted:
        yield from size_findings(chips or page.chips, wanted)


def _answer_findings(facts: NpuFacts, page: SmiPage | None) -> Iterator[Finding]:
    """Whether npu-smi answered, and everything in its answer that was not understood."""
    answer = facts.answer
    if answer is None:
        if facts.devices:
            yield Npu.NOT_ASKED.warning(**facts.values)
    elif answer.code is None:
        yield Npu.NO_ANSWER.warning()
    elif page is None:
        code = Npu.OCCUPIED if _OCCUPIED in answer.text else Npu.REFUSED
        message = " ".join(answer.text.split()) or f"exit code {answer.code}"
        yield code.problem(message=message) if facts.devices else code.warning(message=message)
    else:
        if page.unread:
            yield Npu.UNREAD.warning(count=len(page.unread), lines=[f"'{line}'" for line in page.unread])
        chips = {(chip.npu, chip.chip) for chip in page.chips}
        if strays := [_process(one) for one in page.processes if (one.npu, one.chip) not in chips]:
            yield Npu.STRAY.warning(processes=strays)
        if page.chips and not page.has_process_table:
            yield Npu.NO_PROCESS_TABLE.warning()


def _chip_findings(page: SmiPage, chips: Sequence[Chip], in_use: str) -> Iterator[Finding]:
    """Health, memory and processes: one line for all free chips of a kind, one for each that is not.

    Args:
        page: The table.
        chips: Those to look at.
        in_use: Level of a chip that is used by others.
    """
    free: dict[tuple[str, int], list[Chip]] = {}
    several = any(chip.chip for chip in page.chips)
    rest: list[Finding] = []
    for chip in chips:
        found = [*_health(chip, _place(chip, several)), *_use(page, chip, _place(chip, several), in_use)]
        rest += found
        if not found and chip.total:
            free.setdefault((chip.name, chip.total), []).append(chip)
    for (name, total), group in free.items():
        yield Npu.FREE.ok(count=len(group), name=name, places=[_place(chip, several) for chip in group],
                          used=max(chip.used or 0 for chip in group), total=total)
    yield from rest


def _place(chip: Chip, several: bool) -> str:
    return f"{chip.npu}/{chip.chip}" if several else str(chip.npu)


def _process(process: ChipProcess) -> str:
    return f"{process.pid} ({process.name or '?'}, {'?' if process.memory is None else process.memory} MB)"


def _health(chip: Chip, place: str) -> Iterator[Finding]:
    if not chip.health:
        yield Npu.HEALTH_UNKNOWN.warning(place=place, name=chip.name)
    elif chip.health != "OK":
        level = WARNING if chip.health == "Warning" else PROBLEM
        yield Finding(level, Npu.HEALTH, {"place": place, "name": chip.name, "health": chip.health,
                                          "npu": chip.npu})


def _use(page: SmiPage, chip: Chip, place: str, in_use: str) -> Iterator[Finding]:
    values = {"place": place, "name": chip.name}
    memory = {"used": chip.used, "total": chip.total}
    if processes := [one for one in page.processes if (one.npu, one.chip) == (chip.npu, chip.chip)]:
        said = [_process(process) for process in processes]
        unknown = {key: "?" if value is None else value for key, value in memory.items()}
        yield Finding(in_use, Npu.BUSY, {**values, **unknown, "processes": said})
    elif chip.used is None or chip.total is None:
        yield Npu.MEMORY_UNKNOWN.warning(**values)
    elif 2 * (chip.total - chip.used) < chip.total:
        # "Malloc device memory failed, free memory size is less than half of total memory size" (MindSpore).
        yield Finding(in_use, Npu.FULL, values | memory)
    elif chip.used > _IDLE_MB:
        yield Npu.IN_USE.warning(**values, **memory)


def size_findings(chips: Sequence[Chip], wanted: int) -> Iterator[Finding]:
    """Cards with less memory than a recipe asks for; one line a kind.

    Args:
        chips: The cards.
        wanted: `max_device_memory` in MB.
    """
    for name, total in dict.fromkeys((chip.name, chip.total) for chip in chips):
        if total is not None and total < wanted:
            yield Npu.SMALL.warning(name=name, total=total, wanted=wanted)

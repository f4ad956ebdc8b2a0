"""The files in which a training leaves peak memory and time of a save for the probe that started it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from research_internlm.shared.schema import Count

PEAK_MEMORY = "peak_memory.json"
SAVE_TIME = "save_time.json"


@dataclass(frozen=True)
class PeakMemory:
    """peak_memory.json.

    Attributes:
        bytes: The peak.
        kind: Of the device's memory as MindSpore counts it, or of the process's resident memory (on a CPU).
    """

    bytes: Count
    kind: Literal["device", "resident"]


@dataclass(frozen=True)
class SaveTime:
    """save_time.json: bytes of a checkpoint, and the seconds in which MindSpore wrote them."""

    bytes: Count
    seconds: float


def resident_peak() -> int:
    """Most resident memory this process has had, in bytes, without that of the process it was forked from.

    VmHWM of /proc; getrusage's ru_maxrss is inherited through fork and exec.
    """
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
